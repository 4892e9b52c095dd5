"""Diversity around each few-shot image, after Intra-LPIPS (Ojha et al., 2021)."""

from typing import NamedTuple

import torch
from torch import Tensor

from ood_sampler.metrics.authenticity import nearest
from ood_sampler.metrics.base import Figures, SetMetric
from ood_sampler.metrics.feature_sets import check_sets, distinct
from ood_sampler.statistics.intervals import mean_interval, with_bounds


class Diversity(NamedTuple):
    """Mean distance within clusters, NaN without clusters, and per cluster, float64, $(c,)$."""

    value: Tensor
    clusters: Tensor


def diversity(samples: Tensor, reference: Tensor) -> Diversity:
    r"""Intra-LPIPS of the few-shot literature, with a distance of features instead of LPIPS.

    1. Each sample belongs to its nearest reference vector; $C_j$ are the samples of $r_j$.
       Reference vectors that are equal up to rounding count as one.
    2. The distance within a cluster is the mean over all pairs of its members.
    3. Diversity is the mean over the $c$ clusters with at least two members, whatever their size:

    $$\frac{1}{c} \sum_{j : |C_j| \ge 2} \binom{|C_j|}{2}^{-1} \sum_{s, s' \in C_j, s < s'}
    \|s - s'\|$$

    A cluster of one or none has no distance and is left out, as in the code of Ojha et al. (2021);
    other code counts an empty cluster as 0, so that published values are of two kinds. A few-shot
    image that no sample comes near then costs nothing: read the value together with $c$. Published
    values use the first 50 or 50 random members of a cluster; here all count, which estimates the
    same mean with less noise. Copies of one image score 0.

    `IntraLpips` does the same with LPIPS itself.

    Args:
        samples: Shape $(N, D)$.
        reference: The few-shot set, shape $(M, D)$.
    """
    check_sets(reference=reference)
    indices = nearest(samples, distinct(reference)).indices
    clusters = [
        torch.pdist(samples[indices == j].double()).mean()
        for j, count in enumerate(indices.bincount().tolist())
        if count >= 2
    ]
    within = torch.stack(clusters) if clusters else samples.new_empty(0, dtype=torch.float64)
    return Diversity(within.mean(), within)


class IntraClusterDiversity(SetMetric):
    """`diversity` of new images around the few-shot images, and the number of clusters.

    Without clusters the value is left out; with a single one, its interval.

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
