"""Near-copies: the share of samples nearer to a few-shot image than new real images are."""

import torch
from torch import Tensor

from ood_sampler.metrics.authenticity import nearest
from ood_sampler.metrics.base import Figures, SetMetric
from ood_sampler.metrics.feature_sets import same
from ood_sampler.statistics.intervals import share_interval, with_bounds

_ONE_IN = 100
"""Held-out images per one that may be as near as a near-copy."""


def copy_distance(reference: Tensor, held_out: Tensor) -> Tensor:
    r"""Distance that 99% of held-out images keep from their nearest reference.

    With the $m$ distances of held-out images in increasing order, $d_{(1)} \le \dots \le d_{(m)}$,

    $$\tau = d_{(k)}, \qquad k = \lfloor m / 100 \rfloor + 1$$

    Fewer than 100 images have no 1% quantile: $\tau$ is then the least distance. On average, new
    real images fall below $\tau$ in $k / (m + 1)$ of cases.

    A held-out image that is itself a reference is not new and does not count; if all are, only
    exact copies are near-copies, and $\tau = 0$.

    Args:
        reference: The few-shot set, shape $(M, D)$.
        held_out: Shape $(m, D)$.

    Returns:
        A float64 scalar.
    """
    distance = nearest(held_out, reference).distance
    new = distance[~same(distance, held_out)]
    return new.sort().values[len(new) // _ONE_IN] if len(new) else distance.new_zeros(())


def near_copies(samples: Tensor, reference: Tensor, held_out: Tensor) -> Tensor:
    r"""Tell which samples are nearer to a reference than 99% of held-out images are to theirs.

    $$\mathbb{1}\big[\min_j \|s_i - r_j\| < \tau\big]$$

    with the `copy_distance` $\tau$. An exact copy always counts, up to the rounding of a network.
    The mean is the share of near-copies. Its interval, `share_interval`, treats $\tau$ as fixed.
    The uncertainty of $\tau$ itself shows in the row of held-out images: $k - 1$ of $m$ lie below
    $\tau$, and the upper bound of their interval is also that of the share of all new real images
    below $\tau$, without further assumptions, as that share is distributed as
    $\text{Beta}(k, m - k + 1)$. (Resampling cannot show it: no resampled minimum is lower.)
    So compare the two intervals.

    Args:
        samples: Shape $(N, D)$.
        reference: The few-shot set, shape $(M, D)$.
        held_out: Real images in no other set, shape $(m, D)$.

    Returns:
        Bool, shape $(N,)$.
    """
    distance = nearest(samples, reference).distance
    return torch.logical_or(distance < copy_distance(reference, held_out), same(distance, samples))


class NearCopies(SetMetric):
    """Share of new images that are `near_copies`; `near_copies_each` tells which, as 0 and 1."""

    higher_is_better = False
    sets = ("new", "few_shot", "held_out")

    def figures(self, *, new: Tensor, few_shot: Tensor, held_out: Tensor) -> Figures:
        found = near_copies(new, few_shot, held_out)
        return {
            **with_bounds({"near_copies": share_interval(found)}),
            "near_copies_each": found.double(),
        }
