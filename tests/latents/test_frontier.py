import math

import pytest

from ood_sampler.latents.frontier import Trade, advantage, pareto

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
    line = [Trade(0.2, 4.0, 0.0, 0.3), Trade(0.4, 6.0, 0.0, 0.4)]
    found = advantage(Trade(0.3, 2.0, gain_error=0.05, cost_error=0.6), line)
    # half way: slope 10 a unit of gain
    error = math.sqrt((0.5 * 0.3) ** 2 + (0.5 * 0.4) ** 2 + 0.6**2 + (10 * 0.05) ** 2)
    assert found.value == pytest.approx(3.0)
    assert found.high - found.value == pytest.approx(1.959964 * error, rel=1e-5)
    assert found.value - found.low == pytest.approx(1.959964 * error, rel=1e-5)


def test_more_comparisons_widen_the_interval() -> None:
    one, ten = (advantage(Trade(0.3, 2.0, 0.0, 0.5), LINE, comparisons=m) for m in (1, 10))
    # normal quantiles at 0.975 and 0.9975
    assert (ten.high - ten.value) / (one.high - one.value) == pytest.approx(2.807034 / 1.959964)


def test_nothing_to_compare_with_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        advantage(LINE[0], [])
