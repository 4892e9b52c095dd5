"""95% confidence intervals: of means over images, and from standard errors."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ood_sampler.statistics.resampling import (
    REPLICATES,
    Interval,
    beside_the_edge,
    draws,
    percentiles,
)

_TAIL = 0.025
STANDARD_ERRORS = 1.959964
"""Standard errors from the mean of a normal distribution to where a tail of `_TAIL` begins."""


def mean_interval(values: Tensor, *, seed: int = 0) -> Interval:
    """Bootstrap interval of a mean over images, by percentiles.

    Resampling finds no spread if all values are equal. The bounds are then the mean of numbers, or
    those of `beside_the_edge` for a share of none or all.

    Args:
        values: One per image, shape $(n,)$, in any order; bool if and only if the mean is a share
            of the images.
        seed: Of the resampling.
    """
    is_share = values.dtype == torch.bool
    values = values.double().sort().values
    mean = float(values.mean())
    if values[0] == values[-1]:
        constant = Interval(mean, mean, mean)
        return beside_the_edge(constant, len(values)) if is_share else constant
    return percentiles(mean, resampled_means(values, seed=seed), level=1 - 2 * _TAIL)


def share_interval(found: Tensor) -> Interval:
    """Interval of a share of independent images (Clopper & Pearson, 1934).

    It covers the truth in at least 95% of cases for any number of images; resampling does not for
    a small share.

    Args:
        found: Whether each image counts, bool, shape $(n,)$.
    """
    count, total = int(found.sum()), len(found)
    low = 1 - _largest_share(total - count, total)
    return Interval(count / total, low, _largest_share(count, total))


def _largest_share(count: int, total: int) -> float:
    """The share for which `count` or fewer of `total` have a chance of `_TAIL`."""
    if count == total:
        return 1.0
    k = torch.arange(count + 1, dtype=torch.float64)
    ways = math.lgamma(total + 1) - (k + 1).lgamma() - (total - k + 1).lgamma()
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        chance = (ways + k * math.log(middle) + (total - k) * math.log1p(-middle)).exp().sum()
        low, high = (middle, high) if chance > _TAIL else (low, middle)
    return high


def difference_interval(first: Interval, second: Interval) -> Interval:
    """Interval of `first` minus `second`, from independent images.

    MOVER (Zou & Donner, 2008); for shares, method 10 of Newcombe (1998).
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Interval(value, value - below, value + above)


def normal_interval(value: Tensor, standard_error: Tensor) -> Interval:
    """Interval of an estimate distributed normally about the truth."""
    reach = STANDARD_ERRORS * float(standard_error)
    return Interval(float(value), float(value) - reach, float(value) + reach)


def centred_interval(value: float, resampled: Tensor) -> Interval:
    """Bootstrap interval of a distance, at least 0, from its resampled values, shape (replicates,).

    As a distance is never negative, resampled sets lie farther apart than the sets themselves.
    Their values are shifted so that their mean is the distance found, which keeps its own bias.
    """
    _, low, high = percentiles(
        value, value + resampled.double() - resampled.double().mean(), level=1 - 2 * _TAIL
    )
    return Interval(value, max(low, 0.0), high)


def resampled_means(values: Tensor, *, seed: int) -> Tensor:
    """Means of resampled sets, float64, shape (`REPLICATES`,)."""
    index = draws(len(values), replicates=REPLICATES, seed=seed)
    return values.double()[index.to(values.device)].mean(dim=1)


def with_bounds(intervals: Mapping[str, Interval]) -> dict[str, float]:
    """Name values and bounds as in a row of a table: `<key>`, `<key>_low`, `<key>_high`."""
    figures: dict[str, float] = {}
    for key, (value, low, high) in intervals.items():
        figures |= {key: value, f"{key}_low": low, f"{key}_high": high}
    return figures


def interval(figures: Mapping[str, Any], key: str) -> Interval:
    """Read a value and its bounds, named as by `with_bounds`."""
    return Interval(*(float(figures[f"{key}{end}"]) for end in ("", "_low", "_high")))
