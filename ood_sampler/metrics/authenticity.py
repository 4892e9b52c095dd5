"""Authenticity: the share of samples that are not copies (Alaa et al., 2022)."""

import torch
from torch import Tensor

from ood_sampler.metrics.base import Figures, SetMetric
from ood_sampler.metrics.feature_sets import (
    Neighbours,
    check_sets,
    distinct,
    kth_nearest,
    neighbour_distance,
)
from ood_sampler.statistics.intervals import mean_interval, with_bounds


def nearest(samples: Tensor, reference: Tensor) -> Neighbours:
    """Find the nearest row of `reference`, $(M, D)$, to each row of `samples`, $(N, D)$."""
    check_sets(samples=samples, reference=reference)
    return kth_nearest(samples, reference, k=1)


def authentic(samples: Tensor, reference: Tensor) -> Tensor:
    """Tell which samples are authentic (`authenticity`), bool, shape $(N,)$."""
    check_sets(reference=reference, rows=2)
    reference = distinct(reference)
    distance, indices = nearest(samples, reference)
    if len(reference) == 1:
        return torch.zeros_like(indices, dtype=torch.bool)
    own = neighbour_distance(reference, nearest_k=1)
    return distance > own[indices]


def authenticity(samples: Tensor, reference: Tensor) -> Tensor:
    r"""Share of samples farther from their nearest reference than that is from its own nearest.

    $$\frac{1}{N} \sum_i \mathbb{1}\big[\|s_i - r_{(i)}\| > \min_{j \ne (i)} \|r_{(i)} - r_j\|\big],
    \qquad (i) = \arg\min_j \|s_i - r_j\|$$

    (Alaa et al., 2022, sec. 4.2). Equal reference vectors count as one: else their nearest
    neighbour would be at distance 0, and any sample near them authentic. If only one is left, it
    has no neighbour to compare with, and no sample counts as authentic.

    Args:
        samples: Shape $(N, D)$.
        reference: The few-shot set, shape $(M, D)$, $M \ge 2$.

    Returns:
        A float64 scalar in [0, 1].
    """
    return authentic(samples, reference).double().mean()


class Authenticity(SetMetric):
    """`authenticity` of new images with the few-shot images as reference.

    Args:
        seed: of the resampling.
    """

    higher_is_better = True
    sets = ("new", "few_shot")

    def __init__(self, *, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def figures(self, *, new: Tensor, few_shot: Tensor) -> Figures:
        found = authentic(new, few_shot)
        return with_bounds({"authenticity": mean_interval(found, seed=self.seed)})
