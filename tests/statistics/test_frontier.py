import math

import numpy as np
import pytest

from ood_sampler.statistics.frontier import Trade, advantage, pareto

LINE = [Trade(0.2, 4.0), Trade(0.4, 6.0), Trade(0.6, 12.0)]


def test_beaten_points_are_not_on_the_frontier() -> None:
    assert pareto([*LINE, Trade(0.3, 6.5), Trade(0.1, 4.0)]) == LINE


def test_the_cost_at_equal_gain_is_interpolated() -> None:
    # at 0.45 a quarter of the way from 6 to 12
    assert advantage(Trade(0.45, 5.0), LINE).value == pytest.approx(7.5 - 5.0)
    assert advantage(Trade(0.4, 7.0), LINE).value == pytest.approx(-1.0)


def test_beyond_its_ends_the_frontier_is_flat() -> None:
    assert advantage(Trade(0.9, 11.0), LINE).value == pytest.approx(1.0)
    assert advantage(Trade(0.1, 3.0), LINE).value == pytest.approx(1.0)


def test_the_interval_holds_all_errors() -> None:
    line = [Trade(0.2, 4.0, 0.02, 0.3), Trade(0.4, 6.0, 0.04, 0.4)]
    found = advantage(Trade(0.25, 2.0, gain_error=0.05, cost_error=0.6), line)
    # a quarter of the way: 4.5; slope 10 a unit of gain
    error = math.sqrt(
        0.6**2
        + (0.75 * 0.3) ** 2
        + (0.25 * 0.4) ** 2
        + 10**2 * (0.05**2 + (0.75 * 0.02) ** 2 + (0.25 * 0.04) ** 2)
    )
    assert found.value == pytest.approx(2.5)
    assert found.high - found.value == pytest.approx(1.959964 * error, rel=1e-5)
    assert found.value - found.low == pytest.approx(1.959964 * error, rel=1e-5)


@pytest.mark.parametrize(("gain", "end"), [(0.1, 0), (0.9, 1)])
def test_beyond_an_end_its_own_errors_count(gain: float, end: int) -> None:
    line = [Trade(0.2, 4.0, 0.02, 0.3), Trade(0.4, 6.0, 0.04, 0.4)]
    found = advantage(Trade(gain, 2.0, gain_error=0.05, cost_error=0.6), line)
    own = line[end]
    error = math.hypot(0.6, own.cost_error, 10 * 0.05, 10 * own.gain_error)
    assert found.value == pytest.approx(own.cost - 2.0)
    assert found.high - found.value == pytest.approx(1.959964 * error, rel=1e-5)


def test_the_covered_share_is_that_of_the_level() -> None:
    # a point that costs what the line does, measured many times with errors in both
    generator = np.random.default_rng(0)
    truth, missed = [Trade(0.2, 4.0), Trade(0.4, 6.0)], 0
    for _ in range(2000):
        line = [
            Trade(p.gain + generator.normal(0, 0.01), p.cost + generator.normal(0, 0.1), 0.01, 0.1)
            for p in truth
        ]
        point = Trade(0.3 + generator.normal(0, 0.01), 5.0 + generator.normal(0, 0.1), 0.01, 0.1)
        found = advantage(point, line)
        missed += not found.low <= 0 <= found.high
    assert missed / 2000 == pytest.approx(0.05, abs=5 * math.sqrt(0.05 * 0.95 / 2000))


def test_more_comparisons_widen_the_interval() -> None:
    one, ten = (advantage(Trade(0.3, 2.0, 0.0, 0.5), LINE, comparisons=m) for m in (1, 10))
    # normal quantiles at 0.975 and 0.9975
    assert (ten.high - ten.value) / (one.high - one.value) == pytest.approx(2.807034 / 1.959964)


def test_nothing_to_compare_with_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        advantage(LINE[0], [])
