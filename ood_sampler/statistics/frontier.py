"""Trade-offs: compare sets of points in one coordinate at equal values of the other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

from ood_sampler.statistics.resampling import Interval


@dataclass(frozen=True)
class Trade:
    """One setting: a gain, which should be high, and a cost, which should be low.

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
    """Points that no other beats in both coordinates, by increasing gain (and so cost)."""
    kept: list[Trade] = []
    for point in sorted(points, key=lambda p: (-p.gain, p.cost)):
        if not kept or point.cost < kept[-1].cost:
            kept.append(point)
    return kept[::-1]


def advantage(point: Trade, others: Sequence[Trade], *, comparisons: int = 1) -> Interval:
    r"""Difference in cost between a frontier and a point at the same gain.

    The cost of the frontier is interpolated linearly between its points, and beyond its ends it is
    that of the nearest one. An error of a gain moves the cost along the slope $b$ of the segment
    (beyond the ends, of the nearest one). At the share $s$ of the way from $l$ to $r$, with $s = 0$
    or 1 beyond the ends,

    $$\sigma^2 = \sigma_c^2 + (1-s)^2 \sigma_{c,l}^2 + s^2 \sigma_{c,r}^2
    + b^2 \big(\sigma_g^2 + (1-s)^2 \sigma_{g,l}^2 + s^2 \sigma_{g,r}^2\big),$$

    with all errors taken as independent; if both were measured against the same images, the
    interval is too wide. Selecting the best of many noisy points favours the frontier.

    Args:
        point: the point in question.
        others: points that it is compared with, at least one.
        comparisons: $m$, number of all such comparisons: the level is $1 - 0.05 / m$ (Bonferroni).

    Returns:
        The difference, positive if the point is better, with its interval.

    Raises:
        ValueError: there is nothing to compare with.
    """
    if not others:
        raise ValueError("others must hold at least one point, got none")
    line = pareto(others)
    left, right = line[0], line[0]
    for a, b in pairwise(line):
        left, right = a, b
        if point.gain < b.gain:
            break
    width = right.gain - left.gain
    share = min(max((point.gain - left.gain) / width, 0.0), 1.0) if width else 0.0
    slope = (right.cost - left.cost) / width if width else 0.0
    variance = point.cost_error**2 + (slope * point.gain_error) ** 2
    for end, weight in ((left, 1 - share), (right, share)):
        variance += weight**2 * (end.cost_error**2 + (slope * end.gain_error) ** 2)
    margin = NormalDist().inv_cdf(1 - 0.025 / comparisons) * math.sqrt(variance)
    value = left.cost + share * (right.cost - left.cost) - point.cost
    return Interval(value, value - margin, value + margin)
