"""Diversity around each few-shot picture, after Intra-LPIPS (Ojha et al., 2021)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from ood_sampler.metrics.authenticity import nearest
from ood_sampler.metrics.feature_sets import stack


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


class IntraClusterDiversity(Metric):
    """`diversity` of all samples around the few-shot set.

    `compute` returns a `Diversity`; torchmetrics squeezes a single cluster to $()$.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    reference: list[Tensor]
    samples: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("reference", [], dist_reduce_fx="cat")
        self.add_state("samples", [], dist_reduce_fx="cat")

    def update(self, features: Tensor, *, reference: bool) -> None:
        """Add features of shape $(B, D)$, of the few-shot set or of samples."""
        (self.reference if reference else self.samples).append(features.detach())

    def compute(self) -> Diversity:
        return diversity(
            stack(self.samples, name="samples"), stack(self.reference, name="reference")
        )
