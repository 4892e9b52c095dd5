"""Distance between distributions of numbers: intensities, or one number per image."""

import torch
from torch import Tensor

from ood_sampler.statistics.intervals import centred_interval
from ood_sampler.statistics.resampling import Interval, resampling_weights

_KNOTS = 2048
"""Knots between which distribution functions are integrated, at most."""


def wasserstein_distance(values: Tensor, reference: Tensor, *, seed: int = 0) -> Interval:
    """1-Wasserstein distance between all values of two sets of images that fit into memory.

    It is `area_distance` with all distinct values as knots, which is exact, or 2,048 quantiles if
    there are more.

    Args:
        values: Values of each image, shape $(N, P)$.
        reference: Likewise, shape $(M, Q)$.
        seed: Of the resampling.
    """
    every = torch.cat([values.flatten(), reference.flatten()]).double()
    knots = every.unique()
    if len(knots) > _KNOTS:
        levels = torch.linspace(0, len(every) - 1, _KNOTS, dtype=torch.float64)
        knots = every.sort().values[levels.round().long()].unique()
    return area_distance(areas(values, knots), areas(reference, knots), seed=seed)


def areas(values: Tensor, knots: Tensor) -> Tensor:
    r"""Integrate the distribution function $F$ of each image between neighbouring knots.

    $$\Big(\int_{-\infty}^{k_1} F \, dv, \quad \int_{k_1}^{k_2} F \, dv, \quad \dots, \quad
    \int_{k_K}^{\infty} (F - 1) \, dv\Big)$$

    computed from the values, and so exact for any knots.

    Args:
        values: Values of each image, shape $(N, P)$.
        knots: Non-decreasing, shape $(K,)$.

    Returns:
        Float64, shape $(N, K + 1)$.
    """
    values, knots = values.double().contiguous(), knots.double()
    index = torch.bucketize(values, knots)
    none = values.new_zeros(len(values), len(knots) + 1)
    # each value adds a step, from the value to the upper end of its bin ...
    upper_ends = torch.cat([knots, knots[-1:]])
    area = none.scatter_add(1, index, upper_ends[index] - values)
    # ... and over the whole width of the bins above
    count = none.scatter_add(1, index, torch.ones_like(values))
    below = count.cumsum(dim=1) - count
    widths = torch.nn.functional.pad(knots.diff(), (1, 1))
    return (area + below * widths) / values.shape[1]


def area_distance(first: Tensor, reference: Tensor, *, seed: int = 0) -> Interval:
    r"""1-Wasserstein distance between two sets of images, from their `areas` of the same knots.

    $$W_1 = \int |F(v) - G(v)| \, dv$$

    in the unit of the values, with $F$, $G$ the mean distribution functions. It is exact if they do
    not cross between two knots, and otherwise too small by less than the width of the bins where
    they cross. The interval is that of `centred_interval`, with the images of both sets resampled.

    Args:
        first: Shape $(N, K + 1)$.
        reference: Shape $(M, K + 1)$.
        seed: Of the resampling.
    """
    found = (first.mean(dim=0) - reference.mean(dim=0)).abs().sum()
    resampled = [
        resampling_weights(len(rows), seed=2 * seed + k) @ rows / len(rows)
        for k, rows in enumerate((first, reference))
    ]
    return centred_interval(float(found), (resampled[0] - resampled[1]).abs().sum(dim=1))
