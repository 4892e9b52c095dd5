"""95% confidence intervals of figures: of means over images, and from standard errors."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ood_sampler.latents.resampling import Interval, draws, percentiles

REPLICATES = 1000
"""Resampled sets of a bootstrap."""

_TAIL = 0.025
_STANDARD_ERRORS = 1.959964
"""From the mean of a normal distribution to where a tail of this share begins."""


def mean_interval(values: Tensor, *, seed: int = 0) -> Interval:
    """Bootstrap interval of a mean over images, by percentiles.

    Resampling finds no spread where all values are equal. If all are 0 or all are 1, as those of a
    share may be, the other bound is $1 - 0.025^{1/n}$ away (Clopper & Pearson, 1934).

    Args:
        values: One for each image, shape $(n,)$, in any order.
        seed: Of the resampling.
    """
    values = values.double().sort().values
    mean = float(values.mean())
    if values[0] == values[-1]:
        reach = float(1 - _TAIL ** (1 / len(values)))
        return Interval(mean, mean - reach * (mean == 1), mean + reach * (mean == 0))
    return percentiles(mean, resampled_means(values, seed=seed), level=1 - 2 * _TAIL)


def difference_interval(first: Tensor, second: Tensor, *, seed: int = 0) -> Interval:
    """Bootstrap interval of the mean of `first`, $(n,)$, less that of `second`, $(m,)$.

    Both are resampled, each on its own.
    """
    means = [float(values.double().mean()) for values in (first, second)]
    resampled = [
        resampled_means(values.double().sort().values, seed=2 * seed + k)
        for k, values in enumerate((first, second))
    ]
    return percentiles(means[0] - means[1], resampled[0] - resampled[1], level=1 - 2 * _TAIL)


def normal_interval(value: Tensor, standard_error: Tensor) -> Interval:
    """Interval of an estimate that is normal about the truth."""
    reach = _STANDARD_ERRORS * float(standard_error)
    return Interval(float(value), float(value) - reach, float(value) + reach)


def centred_interval(value: float, resampled: Tensor) -> Interval:
    """Bootstrap interval of a distance, at least 0, from its resampled values, shape (replicates,).

    Resampled sets lie farther apart than the sets themselves, as a distance is never negative:
    their values are shifted so that their mean is the distance found, whose own bias stays in.
    """
    _, low, high = percentiles(
        value, value + resampled.double() - resampled.double().mean(), level=1 - 2 * _TAIL
    )
    return Interval(value, max(low, 0.0), high)


def resampling_weights(size: int, *, seed: int) -> Tensor:
    """How often each item is in each resampled set, float64, shape (`REPLICATES`, size)."""
    index = draws(size, replicates=REPLICATES, seed=seed)
    counts = torch.zeros(REPLICATES, size, dtype=torch.float64)
    return counts.scatter_add_(1, index, torch.ones_like(index, dtype=torch.float64))


def resampled_means(values: Tensor, *, seed: int) -> Tensor:
    """Means of resampled sets, float64, shape (`REPLICATES`,)."""
    index = draws(len(values), replicates=REPLICATES, seed=seed)
    return values.double()[index.to(values.device)].mean(dim=1)


def with_bounds(intervals: Mapping[str, Interval]) -> dict[str, float]:
    """Name figures and their bounds as they stand in a row: `<key>`, `<key>_low`, `<key>_high`."""
    figures: dict[str, float] = {}
    for key, (value, low, high) in intervals.items():
        figures |= {key: value, f"{key}_low": low, f"{key}_high": high}
    return figures
