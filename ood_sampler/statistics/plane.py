"""The plane in which several sets of vectors differ most."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Plane(NamedTuple):
    """Sets of vectors in a plane.

    Attributes:
        points: of each set, float64, shape $(n, 2)$.
        shares: of the variance along both axes.
    """

    points: list[Tensor]
    shares: tuple[float, float]


def principal_plane(sets: Sequence[Tensor]) -> Plane:
    r"""Project sets to the two directions of largest variance, each set counting alike.

    The mean is that of the means $m_k$ of the $K$ sets, and the covariance
    $\frac{1}{K} \sum_k \frac{1}{n_k} \sum_i (x_{ki} - \bar m)(x_{ki} - \bar m)^\top$, whose first
    two eigenvectors are the axes. Of each, the entry of largest size is positive, so that equal
    sets give equal images.

    Args:
        sets: of shape $(n, D)$, $D \ge 2$, none empty.

    Raises:
        ValueError: vectors have fewer than two entries, or a set is empty.
    """
    if any(not len(vectors) or vectors.shape[1] < 2 for vectors in sets):
        shapes = [tuple(vectors.shape) for vectors in sets]
        raise ValueError(f"sets must have vectors of at least two entries, got shapes {shapes}")
    exact = [vectors.double() for vectors in sets]
    mean = torch.stack([vectors.mean(0) for vectors in exact]).mean(0)
    centred = [vectors - mean for vectors in exact]
    covariance = sum((x.T @ x / len(x) for x in centred), torch.zeros(())) / len(centred)
    values, vectors = torch.linalg.eigh(covariance)
    axes = vectors[:, [-1, -2]]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    axes = axes * torch.where(largest < 0, -1.0, 1.0)
    total = float(values.clamp(min=0).sum())
    first, second = (max(float(values[-k]), 0.0) / total if total else 0.0 for k in (1, 2))
    return Plane([x @ axes for x in centred], (first, second))
