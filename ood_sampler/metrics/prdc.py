"""Precision and recall (Kynkäänniemi et al., 2019), density and coverage (Naeem et al., 2020)."""

from typing import NamedTuple

import torch
from torch import Tensor

from ood_sampler.metrics.base import Figures, SetMetric
from ood_sampler.metrics.feature_sets import (
    check_sets,
    distance_blocks,
    neighbour_distance,
)
from ood_sampler.statistics.intervals import mean_interval, with_bounds


class ManifoldScores(NamedTuple):
    """Shares in [0, 1], except `density`, which has no upper bound."""

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def manifold_scores(real: Tensor, generated: Tensor, *, nearest_k: int) -> ManifoldScores:
    """Compute the contribution of each vector to `precision_recall_density_coverage`.

    Returns:
        Precision and density of each generated vector, $(M,)$, recall and coverage of each real
        one, $(N,)$: density is float64, the others are bool.

    Raises:
        ValueError: A set has too few vectors for `nearest_k`.
    """
    check_sets(real=real, generated=generated)
    real_radius = neighbour_distance(real, nearest_k=nearest_k).square()
    generated_radius = neighbour_distance(generated, nearest_k=nearest_k).square()
    count = torch.empty_like(generated_radius)
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = recalled.clone()
    for rows, squared in distance_blocks(generated, real):
        inside = squared <= real_radius
        count[rows] = inside.sum(dim=1).double()
        covered |= inside.any(dim=0)
        recalled |= (squared <= generated_radius[rows, None]).any(dim=0)
    return ManifoldScores(
        precision=count > 0,
        recall=recalled,
        density=count / nearest_k,
        coverage=covered,
    )


def precision_recall_density_coverage(
    real: Tensor, generated: Tensor, *, nearest_k: int
) -> ManifoldScores:
    r"""Compare two sets by balls around each vector that reach its $k$-th nearest other.

    With $B(x)$ the closed ball about $x$ within its own set, $x$ real and $g$ generated:

    - precision: share of $g$ in at least one $B(x)$ (Kynkäänniemi et al., 2019, eq. 2);
    - recall: share of $x$ in at least one $B(g)$ (same, eq. 3);
    - density: mean over $g$ of the number of $B(x)$ that contain it, over $k$ (Naeem et al., 2020,
      eq. 4);
    - coverage: share of $x$ whose $B(x)$ contains at least one $g$ (same, eq. 6).

    The balls are closed ($\le$), so that equal sets score precision = recall = coverage = 1 even
    with duplicates; equality is up to a relative rounding of 1e-12. The package `prdc` uses open
    balls, which differ only if a distance ties with a radius.

    Args:
        real: Shape $(N, D)$.
        generated: Shape $(M, D)$.
        nearest_k: $k$, smaller than $N$ and $M$.

    Returns:
        Float64 scalars.

    Raises:
        ValueError: A set has too few vectors for `nearest_k`.
    """
    scores = manifold_scores(real, generated, nearest_k=nearest_k)
    return ManifoldScores(*(values.double().mean() for values in scores))


class PRDC(SetMetric):
    """`precision_recall_density_coverage` of generated and held-out images.

    Intervals resample the images that a share counts, and keep the other set fixed.

    Args:
        nearest_k: $k$.
        seed: of the resampling.
    """

    higher_is_better = True
    sets = ("generated", "held_out")

    def __init__(self, *, nearest_k: int, seed: int) -> None:
        super().__init__()
        if nearest_k < 1:
            raise ValueError(f"nearest_k must be >= 1, got {nearest_k}")
        self.nearest_k = nearest_k
        self.seed = seed

    def figures(self, *, generated: Tensor, held_out: Tensor) -> Figures:
        scores = manifold_scores(held_out, generated, nearest_k=self.nearest_k)
        return with_bounds(
            {name: mean_interval(each, seed=self.seed) for name, each in scores._asdict().items()}
        )
