import pytest

from ood_sampler.latents.bandwidth import Point, Thresholds, find_band

THRESHOLDS = Thresholds(retention=0.8, novelty=0.4)


def curve() -> list[Point]:
    """Novelty rises by 0.1 a hundred steps, retention falls from 600 on."""
    return [
        Point(step, retention, novelty, distance)
        for step, retention, novelty, distance in (
            (200, 1.0, 0.2, 1.0),
            (300, 1.0, 0.3, 2.0),
            (400, 1.0, 0.45, 4.0),
            (500, 0.95, 0.6, 3.0),
            (600, 0.9, 0.7, 5.0),
            (700, 0.7, 0.8, 9.0),
            (800, 0.2, 0.9, 30.0),
        )
    ]


def test_the_band_ends_where_the_shares_cross_their_thresholds() -> None:
    band = find_band(curve(), THRESHOLDS)
    assert band is not None
    # novelty 0.3 -> 0.45 passes 0.4 at two thirds; retention 0.9 -> 0.7 passes 0.8 half way
    assert band.low == pytest.approx(300 + 100 * 2 / 3)
    assert band.high == pytest.approx(650)
    assert band.width == pytest.approx(650 - 300 - 200 / 3)
    assert not band.open_low
    assert not band.open_high


def test_the_chosen_step_is_the_best_of_the_usable_ones() -> None:
    band = find_band(curve(), THRESHOLDS)
    assert band is not None
    assert band.chosen == 500


def test_the_band_is_the_one_around_the_chosen_step() -> None:
    points = curve()
    points[3] = Point(500, 0.5, 0.6, 1.0)
    band = find_band(points, THRESHOLDS)
    assert band is not None
    assert band.chosen == 400
    # retention 1.0 -> 0.5 passes 0.8 at two fifths
    assert band.high == pytest.approx(440)


def test_an_end_without_a_step_beyond_it_is_open() -> None:
    band = find_band(curve()[2:5], THRESHOLDS)
    assert band is not None
    assert (band.low, band.high) == (400, 600)
    assert band.open_low
    assert band.open_high


def test_the_first_of_two_crossings_counts() -> None:
    inside, outside = Point(500, 0.9, 0.6, 1.0), Point(600, 0.5, 0.0, 1.0)
    band = find_band([inside, outside], THRESHOLDS)
    assert band is not None
    # retention after a quarter of the way, novelty after a third
    assert band.high == pytest.approx(525)


def test_no_usable_step_is_no_band() -> None:
    assert find_band(curve()[:2], THRESHOLDS) is None


def test_thresholds_are_shares_of_what_real_pictures_reach() -> None:
    relative = THRESHOLDS.relative_to(retention=0.5, novelty=0.6)
    assert relative.retention == pytest.approx(0.4)
    assert relative.novelty == pytest.approx(0.24)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"steps must increase, got \[500, 500\]"):
        find_band([curve()[3]] * 2, THRESHOLDS)
    with pytest.raises(ValueError, match=r"novelty must be in \(0, 1\], got 1.5"):
        Thresholds(retention=0.5, novelty=1.5)
