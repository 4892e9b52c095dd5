"""Diversity around each few-shot picture, after Intra-LPIPS (Ojha et al., 2021)."""

from typing import NamedTuple

import torch
from torch import Tensor

from ood_sampler.metrics.authenticity import nearest
from ood_sampler.metrics.base import Figures, SetMetric
from ood_sampler.metrics.intervals import mean_interval, with_bounds


class Diversity(NamedTuple):
    """Mean distance within clusters, NaN without any, and that of each cluster, float64, $(c,)$."""

    value: Tensor
    clusters: Tensor


def diversity(samples: Tensor, reference: Tensor) -> Diversity:
    r"""Mean distance of samples that belong to the same few-shot picture.

    With $C_j$ the samples whose nearest reference vector is $r_j$, averaged over the $c$ clusters
    with at least two members,

    $$\frac{1}{c} \sum_{j : |C_j| \ge 2} \binom{|C_j|}{2}^{-1} \sum_{s, s' \in C_j, s < s'}
    \|s - s'\|$$

    (Ojha et al., 2021, with the feature distance at hand instead of LPIPS). Two
    incompatible codes are in use, one with 50 random members and no empty clusters, one with the
    first 50 and 0 for empty clusters; here all members count, and a cluster of one or none, which
    has no distance, is left out: read the value beside the number of clusters. Copies of one
    picture score 0.

    Args:
        samples: Shape $(N, D)$.
        reference: The few-shot set, shape $(M, D)$.
    """
    indices = nearest(samples, reference).indices
    clusters = [
        torch.pdist(samples[indices == j].double()).mean()
        for j, count in enumerate(indices.bincount().tolist())
        if count >= 2
    ]
    within = torch.stack(clusters) if clusters else samples.new_empty(0, dtype=torch.float64)
    return Diversity(within.mean(), within)


class IntraClusterDiversity(SetMetric):
    """`diversity` of new images around the few-shot pictures, and the number of clusters.

    The value is left out without clusters, its interval with a single one.

    Args:
        seed: of the resampling.
    """

    higher_is_better = True
    sets = ("new", "few_shot")

    def __init__(self, *, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def figures(self, *, new: Tensor, few_shot: Tensor) -> Figures:
        clusters = diversity(new, few_shot).clusters
        figures = {"diversity_clusters": float(len(clusters))}
        if len(clusters) == 1:
            figures["diversity"] = float(clusters[0])
        if len(clusters) > 1:
            figures |= with_bounds({"diversity": mean_interval(clusters, seed=self.seed)})
        return figures
