"""Clusters of points."""

import numpy as np
import torch
from torch import Tensor

_ROUNDS = 100
"""Rounds of k-means, at most."""


def k_means(points: Tensor, count: int, *, seed: int) -> Tensor:
    """Cluster points by Lloyd's algorithm from k-means++ centres (Arthur & Vassilvitskii, 2007).

    Args:
        points: Shape $(N, D)$.
        count: clusters, at most $N$; with equal points some may stay empty.
        seed: of the first centres.

    Returns:
        The cluster of each point, shape $(N,)$.
    """
    if not 1 <= count <= len(points):
        raise ValueError(f"count must be between 1 and the {len(points)} points, got {count}")
    points = points.double()
    centres = _spread_centres(points, count, np.random.default_rng(seed))
    cluster = _nearest_centre(points, centres)
    for _ in range(_ROUNDS):
        for k in range(count):
            if (cluster == k).any():
                centres[k] = points[cluster == k].mean(dim=0)
        found = _nearest_centre(points, centres)
        if found.equal(cluster):
            break
        cluster = found
    return cluster


def _spread_centres(points: Tensor, count: int, generator: np.random.Generator) -> Tensor:
    """Draw points with chances proportional to their squared distance to earlier ones."""
    chosen = [int(generator.integers(len(points)))]
    while len(chosen) < count:
        squared = torch.cdist(points, points[chosen]).amin(dim=1).square()
        if not squared.any():
            squared = torch.ones_like(squared)
        chances = (squared / squared.sum()).numpy()
        chosen.append(int(generator.choice(len(points), p=chances)))
    return points[chosen].clone()


def _nearest_centre(points: Tensor, centres: Tensor) -> Tensor:
    return torch.cdist(points, centres).argmin(dim=1)
