"""Sets of feature vectors, shape $(N, D)$: checks, and distances between rows."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

# 8 MB of float64 distances or kernel values at a time.
_BLOCK_ENTRIES = 2**20
# Relative to the sum of two squared norms; a product of 10,000 terms in float64 stays below.
_ROUNDING = 1e-12
# Relative to the norm of float32 features; the same image in batches of other sizes stays below.
_SAME = 1e-5


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
        # fast: only if the sum is not finite, as with overflow, are all values checked
        if not features.sum().isfinite() and not features.isfinite().all():
            raise ValueError(f"{name} must be finite, got NaN or infinity")


def stack(batches: Tensor | Sequence[Tensor], *, name: str) -> Tensor:
    """Join the batches that a metric has collected.

    Raises:
        ValueError: There are no batches.
    """
    if len(batches) == 0:
        raise ValueError(f"{name} must not be empty, got no batch: call update before compute")
    joined: Tensor = dim_zero_cat(batches)  # type: ignore[arg-type]
    return joined


def subsample(features: Tensor, size: int, *, seed: int) -> Tensor:
    """Draw `size` rows without replacement, whatever the order of the rows."""
    rows = features.contiguous().numpy(force=True)
    # Any total order will do; that of the raw bytes separates all distinct rows.
    keys = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
    order = torch.from_numpy(keys.argsort(kind="stable")).to(features.device)
    draw = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:size]
    return features[order[draw.to(features.device)]]


class RowBlock(NamedTuple):
    """Some rows of a set in float64, shape $(b, D)$, and a buffer for $(b, m)$ float64 values.

    All blocks share the buffer: new ones would fragment the heap and add up.
    """

    rows: slice
    values: Tensor
    room: Tensor


def row_blocks(x: Tensor, *, columns: int) -> Iterator[RowBlock]:
    """Split `x` so that a float64 matrix of one block against `columns` vectors stays small."""
    size = min(len(x), max(1, _BLOCK_ENTRIES // columns))
    room = torch.empty(size, columns, dtype=torch.float64, device=x.device)
    for start in range(0, len(x), size):
        rows = slice(start, min(start + size, len(x)))
        values = x[rows].double()
        yield RowBlock(rows, values, room[: len(values)])


class Neighbours(NamedTuple):
    """One neighbour per vector: float64 distances and row indices, both $(N,)$."""

    distance: Tensor
    indices: Tensor


class DistanceBlock(NamedTuple):
    """Squared distances of some rows of $x$ to all of $y$, float64, $(b, m)$, until the next block.

    Each is lowered by a bound on its rounding error, so that it never exceeds a value it ties with,
    whatever the order of vectors.
    """

    rows: slice
    squared: Tensor


def distance_blocks(x: Tensor, y: Tensor) -> Iterator[DistanceBlock]:
    r"""Compare all rows of `x`, $(n, D)$, with all of `y`, $(m, D)$, some rows at a time.

    $\|x\|^2 + \|y\|^2 - 2 x^\top y$, centred on the mean of `y` for accuracy, is several times
    faster than differences, but neither exactly symmetric nor 0 for equal vectors.
    """
    mean = y.mean(dim=0, dtype=torch.float64)
    y = y - mean
    norm_y = y.square().sum(dim=1) * (1 - _ROUNDING)
    for rows, values, room in row_blocks(x, columns=len(y)):
        centred = values - mean
        norm_x = centred.square().sum(dim=1, keepdim=True) * (1 - _ROUNDING)
        torch.add(norm_x, norm_y, out=room)
        yield DistanceBlock(rows, room.addmm_(centred, y.T, alpha=-2))


def kth_nearest(x: Tensor, y: Tensor, *, k: int) -> Neighbours:
    """Find the `k`-th nearest row of `y`, $(m, D)$, for each row of `x`, $(n, D)$; $k = 1, 2, ...$.

    In a tie any may be found. Distances are computed from differences: exact for small integers,
    symmetric, and 0 for equal vectors.
    """
    distance = torch.empty(len(x), dtype=torch.float64, device=x.device)
    indices = torch.empty(len(x), dtype=torch.int64, device=x.device)
    for rows, squared in distance_blocks(x, y):
        # faster than kthvalue for small k
        indices[rows] = squared.topk(k, dim=1, largest=False).indices[:, -1]
        difference = x[rows].double() - y[indices[rows]].double()
        distance[rows] = torch.linalg.vector_norm(difference, dim=1)
    return Neighbours(distance, indices)


def same(distance: Tensor, features: Tensor) -> Tensor:
    """Tell which vectors equal their neighbour up to the rounding of a network.

    Args:
        distance: To the neighbour, or to several, shape $(..., N)$.
        features: The vectors, shape $(N, D)$.
    """
    norm: Tensor = torch.linalg.vector_norm(features.double(), dim=1)
    return distance <= _SAME * norm


def distinct(features: Tensor) -> Tensor:
    """Drop duplicate vectors, equal up to the rounding of a network."""
    number = torch.arange(len(features), device=features.device)
    repeated = torch.zeros_like(number, dtype=torch.bool)
    for rows, squared in distance_blocks(features, features):
        close = same(squared.clamp(min=0).sqrt().T, features[rows]).T
        repeated[rows] = (close & (number < number[rows, None])).any(dim=1)
    return features[~repeated]


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
