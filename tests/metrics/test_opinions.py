from ood_sampler.metrics.opinions import as_judged, of_judge, plain, second_judges, together

ROWS = [
    {"name": "a", "kid": 1.0, "second/kid": 2.0, "fid": 3.0, "second/fid": None},
    {"name": "b", "kid": 4.0, "third/kid": 5.0},
]


def test_names() -> None:
    assert of_judge("second", "kid") == "second/kid"
    assert plain("second/kid") == plain("kid") == "kid"
    assert second_judges(ROWS) == ["second", "third"]
    assert second_judges([{"kid": 1.0}]) == []


def test_a_row_by_each_judge() -> None:
    assert as_judged(ROWS[0], None) == {"name": "a", "kid": 1.0, "fid": 3.0}
    # what this judge cannot tell is not told by the headline in its place
    assert as_judged(ROWS[0], "second") == {"name": "a", "kid": 2.0, "fid": None}
    assert as_judged(ROWS[1], "third") == {"name": "b", "kid": 5.0}


def test_opinions_together_are_a_row_that_each_judge_finds_its_own_in() -> None:
    first, second = {"kid": 1.0, "fid": 2.0}, {"kid": 3.0}
    row = together({"first": first, "second": second})
    assert row == {"kid": 1.0, "fid": 2.0, "second/kid": 3.0}
    assert as_judged(row, None) == first
    assert as_judged(row, "second") == first | second
    assert together({"first": first}) == first
