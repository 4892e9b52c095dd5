"""Distance between distributions of numbers: of intensities, or of one number an image."""

import torch
from torch import Tensor

from ood_sampler.latents.resampling import Interval
from ood_sampler.metrics.intervals import centred_interval, resampling_weights

_KNOTS = 2048
"""Values at which the distribution functions of resampled sets are compared, at most."""


def wasserstein_distance(values: Tensor, reference: Tensor, *, seed: int = 0) -> Interval:
    r"""1-Wasserstein distance between all values of two sets of images.

    $$W_1 = \int |F(v) - G(v)| \, dv$$

    in the unit of the values, with $F$, $G$ the distribution functions: constant between
    neighbours of the sorted values of both sets, so that the integral is a sum. The interval is
    that of `centred_interval`, with the images of both sets resampled; of more than 2,048 different
    values so many quantiles serve for it.

    Args:
        values: Those of each image, shape $(N, P)$.
        reference: Likewise, shape $(M, Q)$.
        seed: Of the resampling.
    """
    every = torch.cat([values.flatten(), reference.flatten()]).double().sort().values
    pooled = [_distribution(rows.reshape(1, -1), every) for rows in (values, reference)]
    found = (pooled[0] - pooled[1]).abs()[:, :-1] @ every.diff()

    knots = every.unique()
    if len(knots) > _KNOTS:
        levels = torch.linspace(0, len(every) - 1, _KNOTS, dtype=torch.float64)
        knots = every[levels.round().long()].unique()
    resampled = [
        resampling_weights(len(rows), seed=2 * seed + k) @ _distribution(rows, knots) / len(rows)
        for k, rows in enumerate((values, reference))
    ]
    gap = (resampled[0] - resampled[1]).abs()
    return centred_interval(float(found), (gap[:, :-1] + gap[:, 1:]) @ knots.diff() / 2)


def _distribution(values: Tensor, knots: Tensor) -> Tensor:
    """Share of the values of each image up to each knot, float64, shape $(N, K)$."""
    ordered = values.double().sort(dim=1).values
    index = torch.searchsorted(ordered, knots.expand(len(values), -1).contiguous(), right=True)
    shares: Tensor = index.double() / values.shape[1]
    return shares
