from ood_sampler.metrics.opinions import as_judged, of_judge, plain, second_judges

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
