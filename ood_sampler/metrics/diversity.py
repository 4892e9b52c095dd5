"""Diversity around each few-shot picture, after Intra-LPIPS (Ojha et al., 2021)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from ood_sampler.metrics.authenticity import nearest
from ood_sampler.metrics.feature_sets import check_sets, distinct, stack


class Diversity(NamedTuple):
    """Mean distance within clusters, NaN without any, and that of each cluster, float64, $(c,)$."""

    value: Tensor
    clusters: Tensor


def diversity(samples: Tensor, reference: Tensor) -> Diversity:
    r"""Intra-LPIPS of the few-shot literature, with the distance of features in the place of LPIPS.

    1. Each sample belongs to its nearest reference vector; $C_j$ are the samples of $r_j$.
       Reference vectors that are the same up to rounding count as one.
    2. The distance within a cluster is the mean over all pairs of its members.
    3. Diversity is the mean over the $c$ clusters with at least two members, which count the same
       whatever their size:

    $$\frac{1}{c} \sum_{j : |C_j| \ge 2} \binom{|C_j|}{2}^{-1} \sum_{s, s' \in C_j, s < s'}
    \|s - s'\|$$

    A cluster of one or none has no distance and is left out, as in the code of Ojha et al. (2021);
    other code counts an empty cluster as 0, so that published figures are of two kinds. Left out,
    a picture that samples never come near costs nothing: read the value beside $c$. Published
    figures take the 50 first or 50 random members of a cluster; here all count, which estimates
    the same mean with less noise. Copies of one picture score 0.

    `IntraLpips` is the same with LPIPS itself.

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
