import pytest
import torch

from ood_sampler.statistics.intervals import (
    centred_interval,
    difference_interval,
    mean_interval,
    normal_interval,
    share_interval,
    with_bounds,
)
from ood_sampler.statistics.resampling import Interval


def normal(rows: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, generator=generator, dtype=torch.float64)


def test_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    values = 3 + 2 * normal(400)
    value, low, high = mean_interval(values)
    assert value == float(values.mean())
    # percentiles of 1000 draws are uncertain by about a tenth of the half width
    half = 1.96 * float(values.std()) / 20
    assert low == pytest.approx(value - half, abs=0.2 * half)
    assert high == pytest.approx(value + half, abs=0.2 * half)


def test_interval_does_not_depend_on_the_order() -> None:
    values = normal(60) > 0.7
    assert mean_interval(values) == mean_interval(values.flip(0))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    intervals = [mean_interval(normal(150, seed) > 0) for seed in range(200)]
    held = sum(low <= 0.5 <= high for _, low, high in intervals) / 200
    assert held == pytest.approx(0.95, abs=5 * (0.95 * 0.05 / 200) ** 0.5)


def test_a_share_of_none_or_all_is_not_certain() -> None:
    none = torch.zeros(100, dtype=torch.bool)
    value, low, high = mean_interval(none)
    assert value == low == 0
    # at the bound, none in 100 have the chance of a fortieth
    assert (1 - high) ** 100 == pytest.approx(0.025)
    assert mean_interval(~none) == pytest.approx((1, 1 - high, 1))


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_a_constant_that_is_no_share_has_no_spread(value: float) -> None:
    assert mean_interval(torch.full((9,), value)) == (value, value, value)


def test_a_distance_is_in_the_middle_of_its_resampled_values() -> None:
    resampled = 13 + normal(4000)
    value, low, high = centred_interval(10.0, resampled)
    assert value == 10
    assert low == pytest.approx(10 - 1.96, abs=0.2)
    assert high == pytest.approx(10 + 1.96, abs=0.2)
    assert centred_interval(0.5, resampled).low == 0


def test_from_a_standard_error() -> None:
    interval = normal_interval(torch.tensor(2.0), torch.tensor(0.5))
    assert interval == pytest.approx((2, 2 - 0.98, 2 + 0.98), abs=1e-4)
    assert with_bounds({"kid": interval}) == {
        "kid": 2.0,
        "kid_low": interval.low,
        "kid_high": interval.high,
    }


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        # quantiles of Beta(k, n - k + 1) and Beta(k + 1, n - k)
        (0, 10, 0.0, 0.30849710781876083),
        (1, 10, 0.0025285785444617869, 0.44501611702899056),
        (11, 64, 0.08904899632910289, 0.2867536578734714),
        (10, 10, 0.69150289218123917, 1.0),
        (50, 5000, 0.007431046999410098, 0.01316273826020126),
    ],
)
def test_interval_of_a_share_is_that_of_clopper_and_pearson(
    count: int, total: int, low: float, high: float
) -> None:
    found = torch.arange(total) < count
    assert share_interval(found) == pytest.approx((count / total, low, high), rel=1e-9, abs=1e-12)
    assert share_interval(found.flip(0)) == share_interval(found)


def test_interval_of_a_small_share_of_few_images_holds_the_truth() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(400, 24, generator=generator) < 0.03
    held = sum(low <= 0.03 <= high for _, low, high in map(share_interval, draws)) / 400
    assert held >= 0.95


def test_interval_of_a_difference_by_hand() -> None:
    first, second = Interval(0.5, 0.2, 0.9), Interval(0.1, 0.07, 0.5)
    assert difference_interval(first, second) == pytest.approx(
        (0.4, 0.4 - 0.5, 0.4 + (0.4**2 + 0.03**2) ** 0.5)
    )


def test_a_difference_of_estimates_has_the_root_of_their_squared_errors() -> None:
    # two errors of 3 and 4 make 5
    assert difference_interval(Interval(1, -5, 7), Interval(2, -6, 10)) == Interval(-1, -11, 9)
