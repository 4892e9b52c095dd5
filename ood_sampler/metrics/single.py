"""Numbers of single samples: their nearest images, and how realistic each one is."""

import torch
from torch import Tensor

from ood_sampler.metrics.feature_sets import (
    Neighbours,
    check_sets,
    distance_blocks,
    neighbour_distance,
)


def several_nearest(samples: Tensor, reference: Tensor, *, count: int) -> Neighbours:
    r"""Find the nearest rows of `reference`, $(M, D)$, to each row of `samples`, $(N, D)$.

    Returns:
        Distances and indices, nearest first, shape $(N, m)$, $m = \min(M, count)$.
    """
    check_sets(samples=samples, reference=reference)
    count = min(count, len(reference))
    distance = torch.empty(len(samples), count, dtype=torch.float64)
    indices = torch.empty(len(samples), count, dtype=torch.int64)
    for rows, squared in distance_blocks(samples, reference):
        found = squared.topk(count, dim=1, largest=False).indices
        exact = samples[rows].double()[:, None] - reference[found].double()
        distance[rows], order = torch.linalg.vector_norm(exact, dim=2).sort(dim=1, stable=True)
        indices[rows] = found.gather(1, order)
    return Neighbours(distance, indices)


def realism(samples: Tensor, real: Tensor, *, nearest_k: int) -> Tensor:
    r"""Say how far inside the real images each sample lies (Kynkäänniemi et al., 2019, eq. 4).

    $$R(s) = \max_j \frac{\|r_j - \mathrm{NN}_k(r_j)\|}{\|s - r_j\|}$$

    Here over all real images $r_j$, without the pruning of the paper, so that precision counts the
    samples with $R \ge 1$; infinite for a sample that equals a real image.

    Args:
        samples: shape $(N, D)$.
        real: shape $(M, D)$, $M > k$.
        nearest_k: $k$.

    Returns:
        Float64, shape $(N,)$.

    Raises:
        ValueError: there are too few real images for `nearest_k`.
    """
    check_sets(real=real, samples=samples)
    radius = neighbour_distance(real, nearest_k=nearest_k).square()
    found = torch.empty(len(samples), dtype=torch.float64)
    for rows, squared in distance_blocks(samples, real):
        # duplicates among the real images have a ball of radius 0, which nothing lies in
        ratio = (radius / squared.clamp(min=0)).nan_to_num(nan=1.0, posinf=torch.inf)
        found[rows] = ratio.amax(dim=1).sqrt()
    return found
