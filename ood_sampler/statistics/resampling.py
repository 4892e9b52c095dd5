"""Bootstrap intervals (Efron & Tibshirani, 1993, ch. 13)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

REPLICATES = 1000
"""Number of resampled sets of a bootstrap."""


class Interval(NamedTuple):
    """An estimate with the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def draws(count: int, *, replicates: int, seed: int) -> Tensor:
    """Draw with replacement from `count` items, shape (replicates, count).

    Equal arguments give equal draws, so that metrics of one set of images stay paired.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(count, (replicates, count), generator=generator)


def resampling_weights(size: int, *, replicates: int = REPLICATES, seed: int) -> Tensor:
    """Count each item in each resampled set, float64, shape (replicates, size)."""
    index = draws(size, replicates=replicates, seed=seed)
    counts = torch.zeros(replicates, size, dtype=torch.float64)
    return counts.scatter_add_(1, index, torch.ones_like(index, dtype=torch.float64))


def bootstrap(
    statistic: Callable[[Tensor], Tensor],
    values: Tensor,
    *,
    replicates: int = REPLICATES,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic over resampled rows.

    Args:
        statistic: maps rows, shape (n, ...), to a scalar.
        values: one row per image, shape (n, ...), n >= 2.
        replicates: number of resampled sets.
        level: of confidence, in (0, 1).
        seed: of the resampling.

    Raises:
        ValueError: there are fewer than two rows, or `level` is out of range.
    """
    if len(values) < 2:
        raise ValueError(f"values must have at least 2 rows, got {len(values)}")
    resampled = torch.stack(
        [
            statistic(values[index]).double()
            for index in draws(len(values), replicates=replicates, seed=seed)
        ]
    )
    return percentiles(float(statistic(values)), resampled, level=level)


def percentiles(value: float, resampled: Tensor, *, level: float = 0.95) -> Interval:
    """Interval of an estimate from its resampled values, shape (replicates,).

    Raises:
        ValueError: `level` is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    tail = (1 - level) / 2
    low, high = resampled.double().quantile(torch.tensor([tail, 1 - tail]).double()).tolist()
    return Interval(value, low, high)


def beside_the_edge(found: Interval, count: int, *, level: float = 0.95) -> Interval:
    r"""Widen the interval of a share of 0 or 1, near which resampling finds little spread.

    With $\alpha = (1 - \text{level}) / 2$ its width is at least $1 - \alpha^{1/n}$, the largest
    share that `count` independent trials miss with a chance of $\alpha$ (Clopper & Pearson, 1934).
    Other intervals stay unchanged.
    """
    reach = 1 - ((1 - level) / 2) ** (1 / count)
    value, low, high = found
    if value == 0:
        return Interval(value, low, max(high, reach))
    if value == 1:
        return Interval(value, min(low, 1 - reach), high)
    return found
