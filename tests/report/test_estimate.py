import pytest

from ood_sampler.codecs.pixels import PixelCodec
from ood_sampler.pipeline.estimate import Estimate, Network, Work, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (65, "1 min 05 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (47 * 3600, "47 h 00 min"),
        (50 * 3600, "2 d 2 h"),
    ],
)
def test_a_time_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_estimate_sums_up_its_stages() -> None:
    work = [Work("invert", 1000, 51), Work("decode", 5000, 17), Work("in-domain", 0, 24)]
    text = Estimate(work, 16, 0.01, 12_345_678_901).text()
    lines = text.splitlines()
    assert lines[0] == "estimate, from two timed calls of 16 images:"
    assert lines[1].split() == [
        "invert",
        "1,000",
        "images",
        "x",
        "51",
        "evaluations",
        "8",
        "min",
        "30",
        "s",
    ]
    assert lines[3].split() == ["in-domain", "0", "images", "x", "24", "evaluations", "0", "s"]
    # 51,000 + 85,000 evaluations of 10 ms
    assert "136,000 evaluations, about 22 min 40 s" in lines[4]
    assert "12.3 GB to write" in lines[4]


def test_other_networks_have_names_and_times_of_their_own() -> None:
    codec = PixelCodec((3, 8, 8))
    run, corrected, gan = (Network(name, codec) for name in ("dog32", "dog32, corrected", "gan"))
    work = [
        Work("invert", 100, 10, corrected),
        Work("in-domain", 100, 10, run),
        Work("search", 100, 10),
        Work("codes", 10, 300, gan),
    ]
    estimate = Estimate(work, 16, 0.01, 0, others={"dog32, corrected": 0.02, "gan": 0.001})
    _, invert, own, search, codes, whole = estimate.text().splitlines()
    assert invert.split("evaluations")[1].split() == ["of", "dog32,", "corrected", "20", "s"]
    assert own.split("evaluations")[1].split() == ["10", "s"]
    assert search.split("evaluations")[1].split() == ["10", "s"]
    assert codes.split("evaluations")[1].split() == ["of", "gan", "3", "s"]
    assert len({len(line) for line in (invert, own, search, codes)}) == 1
    assert "6,000 evaluations (1,000 of dog32, corrected, 3,000 of gan), about 43 s" in whole


def test_an_estimate_says_what_it_is_of_and_names_are_never_cut() -> None:
    work = [Work("decode: cog (3), t = 500, eta = 0.3", 10, 2), Work("invert", 10, 2)]
    lines = Estimate(work, 16, 0.01, 0).text("run 3, study bandwidth").splitlines()
    assert lines[0].startswith("estimate of run 3, study bandwidth, from two timed calls")
    assert lines[1].startswith("  decode: cog (3), t = 500, eta = 0.3  ")
    assert lines[1].index("10 images") == lines[2].index("10 images")
    text = Estimate([Work("invert", 0, 51)], 1, 0.0, 2_000_000).text("run 3")
    assert text.startswith("estimate of run 3: the network has nothing left to do")


def test_one_image_a_call_is_no_plural() -> None:
    assert "calls of 1 image:" in Estimate([Work("invert", 1, 1)], 1, 1.0, 0).text()


def test_a_finished_run_has_nothing_left_to_do() -> None:
    text = Estimate([Work("invert", 0, 51)], 1, 0.0, 2_000_000).text()
    assert text == "estimate: the network has nothing left to do; 2 MB to write"
