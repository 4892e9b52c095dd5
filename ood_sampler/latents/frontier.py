"""Trade-offs: what one set of points reaches at the same value of the other coordinate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

from ood_sampler.latents.resampling import Interval


@dataclass(frozen=True)
class Trade:
    """One setting, by what should be high and by what should be low.

    Attributes:
        gain: higher is better.
        cost: lower is better.
        gain_error: standard error of `gain`.
        cost_error: standard error of `cost`.
    """

    gain: float
    cost: float
    gain_error: float = 0.0
    cost_error: float = 0.0


def pareto(points: Sequence[Trade]) -> list[Trade]:
    """Those that no other point beats in both, by increasing gain (and so by increasing cost)."""
    kept: list[Trade] = []
    for point in sorted(points, key=lambda p: (-p.gain, p.cost)):
        if not kept or point.cost < kept[-1].cost:
            kept.append(point)
    return kept[::-1]


def advantage(point: Trade, others: Sequence[Trade], *, comparisons: int = 1) -> Interval:
    r"""How much less a point costs than a frontier does at the same gain.

    Between two points of the frontier the cost is interpolated linearly; below and above all of
    them it is that of the nearest one, which favours the frontier. The variance is that of both
    costs and of the gain times the frontier's slope, all taken as independent; where both were
    measured on the same pictures, the interval is too wide.

    Args:
        point: the one in question.
        others: what it is compared with, at least one.
        comparisons: $m$, of which this is one: the level is $1 - 0.05 / m$ (Bonferroni).

    Returns:
        The difference, positive where the point is better, with its interval.

    Raises:
        ValueError: there is nothing to compare with.
    """
    if not others:
        raise ValueError("others must hold at least one point, got none")
    line = pareto(others)
    cost, variance, slope = line[0].cost, line[0].cost_error ** 2, 0.0
    if point.gain >= line[-1].gain:
        cost, variance = line[-1].cost, line[-1].cost_error ** 2
    for a, b in pairwise(line):
        if a.gain <= point.gain < b.gain:
            share = (point.gain - a.gain) / (b.gain - a.gain)
            slope = (b.cost - a.cost) / (b.gain - a.gain)
            cost = a.cost + share * (b.cost - a.cost)
            variance = ((1 - share) * a.cost_error) ** 2 + (share * b.cost_error) ** 2
    error = math.sqrt(variance + point.cost_error**2 + (slope * point.gain_error) ** 2)
    margin = NormalDist().inv_cdf(1 - 0.025 / comparisons) * error
    value = cost - point.cost
    return Interval(value, value - margin, value + margin)
