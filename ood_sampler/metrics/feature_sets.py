"""Sets of feature vectors, shape $(N, D)$: their checks, and distances between their rows."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

# 8 MB of float64 distances or kernel values at a time.
_BLOCK_ENTRIES = 2**20
# Of the sum of two squared norms; a product of 10,000 terms in float64 stays below.
_ROUNDING = 1e-12


def check_sets(*, rows: int = 1, **sets: Tensor) -> None:
    """Check that the sets are finite matrices of one width with enough rows.

    Raises:
        ValueError: A set is not of shape $(N, D)$, has fewer than `rows` rows, another width than
            the first, or a value that is not finite.
    """
    (first, width), *_ = ((name, features.shape[-1]) for name, features in sets.items())
    for name, features in sets.items():
        if features.ndim != 2:
            raise ValueError(f"{name} must have shape (N, D), got {tuple(features.shape)}")
        if len(features) < rows:
            raise ValueError(f"{name} must hold at least {rows} vectors, got {len(features)}")
        if features.shape[1] != width:
            raise ValueError(
                f"{name} must be as wide as {first} ({width}), got {features.shape[1]}: "
                "use one feature extractor for all sets"
            )
        if not features.isfinite().all():
            raise ValueError(f"{name} must be finite, got NaN or infinity")


def stack(batches: Tensor | Sequence[Tensor], *, name: str) -> Tensor:
    """Join the batches a metric has collected.

    Raises:
        ValueError: There are none.
    """
    if len(batches) == 0:
        raise ValueError(f"{name} must not be empty, got no batch: call update before compute")
    joined: Tensor = dim_zero_cat(batches)  # type: ignore[arg-type]
    return joined


def row_blocks(x: Tensor, *, columns: int) -> Iterator[tuple[slice, Tensor]]:
    """Split `x` so that a float64 matrix of one block against `columns` vectors stays small."""
    rows = max(1, _BLOCK_ENTRIES // columns)
    for start in range(0, len(x), rows):
        block = slice(start, min(start + rows, len(x)))
        yield block, x[block].double()


class Neighbours(NamedTuple):
    """One neighbour of each vector: float64 distances and row indices, both $(N,)$."""

    distance: Tensor
    indices: Tensor


class DistanceBlock(NamedTuple):
    """Squared distances of some rows of $x$ to all of $y$, float64, $(b, m)$, and their rounding.

    `slack` bounds the rounding error. Where a decision must not depend on the order of vectors,
    compare with it: a tie up to `slack` is a tie.
    """

    rows: slice
    squared: Tensor
    slack: Tensor


def distance_blocks(x: Tensor, y: Tensor) -> Iterator[DistanceBlock]:
    r"""Compare all rows of `x`, $(n, D)$, with all of `y`, $(m, D)$, some rows at a time.

    $\|x\|^2 + \|y\|^2 - 2 x^\top y$, about the mean of `y` to lose few digits, is several times
    faster than differences, but neither exactly symmetric nor 0 for equal vectors.
    """
    mean = y.mean(dim=0, dtype=torch.float64)
    y = y - mean
    norm_y = y.square().sum(dim=1)
    for rows, block in row_blocks(x, columns=len(y)):
        centred = block - mean
        norms = centred.square().sum(dim=1, keepdim=True) + norm_y
        squared = torch.addmm(norms, centred, y.T, alpha=-2)
        yield DistanceBlock(rows, squared, norms * _ROUNDING)


def kth_nearest(x: Tensor, y: Tensor, *, k: int) -> Neighbours:
    """Find the `k`-th nearest row of `y`, $(m, D)$, for each row of `x`, $(n, D)$; $k = 1, 2, ...$.

    Of several at equal distance any may be found. The distances are those of differences: exact
    for small integers, symmetric, and 0 for equal vectors.
    """
    found = []
    for rows, squared, _ in distance_blocks(x, y):
        indices = squared.kthvalue(k, dim=1).indices
        difference = x[rows].double() - y[indices].double()
        found.append(Neighbours(torch.linalg.vector_norm(difference, dim=1), indices))
    distance, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Neighbours(distance, indices)


def neighbour_distance(x: Tensor, *, nearest_k: int) -> Tensor:
    """Distance of each row of `x` to its `nearest_k`-th nearest other row, shape $(N,)$.

    Raises:
        ValueError: There are fewer than `nearest_k` other rows.
    """
    if nearest_k < 1:
        raise ValueError(f"nearest_k must be >= 1, got {nearest_k}")
    if len(x) <= nearest_k:
        raise ValueError(
            f"nearest_k must be smaller than the number of vectors, got nearest_k={nearest_k} "
            f"and {len(x)} vectors: lower nearest_k or add images"
        )
    # Each row is its own nearest, hence + 1.
    return kth_nearest(x, x, k=nearest_k + 1).distance
