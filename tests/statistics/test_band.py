from dataclasses import replace

import pytest

from ood_sampler.statistics.band import Point, Thresholds, find_band, ranked

THRESHOLDS = Thresholds(retention=0.8, novelty=0.4, near_copies=0.02)


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
    assert relative.near_copies == 0.02


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"steps must increase, got \[500, 500\]"):
        find_band([curve()[3]] * 2, THRESHOLDS)
    with pytest.raises(ValueError, match=r"novelty must be in \(0, 1\], got 1.5"):
        Thresholds(retention=0.5, novelty=1.5, near_copies=0.0)
    with pytest.raises(ValueError, match=r"near_copies must be in \[0, 1\), got -0.1"):
        Thresholds(retention=0.5, novelty=0.5, near_copies=-0.1)


def test_steps_of_near_copies_are_not_usable() -> None:
    points = curve()
    # beyond doubt 0.1 more than new images make; 0.02 are allowed
    points[3] = replace(points[3], near_copies=0.3, excess=0.1)
    assert THRESHOLDS.lack(points[3]) == pytest.approx(0.08)
    lost = replace(points[3], retention=0.7, novelty=0.1)
    assert THRESHOLDS.lack(lost) == pytest.approx(0.1 + 0.3)
    band = find_band(points, THRESHOLDS)
    assert band is not None
    assert band.chosen == 400
    # 0 -> 0.1 passes 0.02 at a fifth
    assert band.high == pytest.approx(420)


def distances(*settings: tuple[float, float]) -> list[Point]:
    return [Point(0, 1, 0.5, distance, error) for distance, error in settings]


def test_the_nearest_come_first() -> None:
    assert ranked(distances((3, 0.1), (1, 0.1), (2, 0.1))) == [1, 2, 0]
    assert ranked([]) == []


def test_ties_are_broken_by_near_copies_and_then_by_novelty() -> None:
    # 1.0 and 1.4 differ by the error of their difference, 1.0 and 1.5 by more
    points = distances((1.0, 0.3), (1.5, 0.3), (1.4, 0.28))
    assert ranked(points) == [0, 2, 1]
    newer = [replace(point, novelty=0.6 + k / 10) for k, point in enumerate(points)]
    assert ranked(newer) == [2, 0, 1]
    copying = [replace(point, near_copies=0.01 * k) for k, point in enumerate(newer)]
    assert ranked(copying) == [0, 1, 2]


def test_an_error_of_differences_decides_what_is_a_tie() -> None:
    points = distances((1.0, 0.3), (1.4, 0.28))
    newer = [replace(point, novelty=0.6 + k / 10) for k, point in enumerate(points)]
    asked = []

    def error(i: int, j: int) -> float:
        asked.append((i, j))
        return 0.1

    assert ranked(newer) == [1, 0]
    assert ranked(newer, error=error) == [0, 1]
    # never of a setting with itself
    assert asked == [(1, 0)]


def test_a_negative_distance_is_no_better_than_that_of_real_pictures() -> None:
    copies, mixed = Point(0, 1, 0.2, -9.0, 0.5, near_copies=0.36), Point(0, 1, 0.6, 0.4, 0.5)
    far = Point(0, 1, 0.9, 2.0, 0.5)
    assert ranked([copies, mixed, far]) == [1, 0, 2]
    # where real images are no nearer than 1.5, all are as near as these
    assert ranked([copies, mixed, far], floor=1.5) == [2, 1, 0]
    assert ranked([copies, mixed, far], floor=-1.5) == [1, 0, 2]
