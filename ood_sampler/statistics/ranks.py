"""Rank correlation with its permutation test (Spearman, 1904)."""

from itertools import permutations

import torch
from torch import Tensor

_EXACT = 8
"""Largest sample for which all permutations are tried, 40,320."""

_DRAWN = 20_000


def ranks(x: Tensor) -> Tensor:
    """Ranks from 1, equal values sharing their mean rank, shape (n,), float64."""
    below = (x[None] < x[:, None]).sum(1).double()
    equal = (x[None] == x[:, None]).sum(1).double()
    return below + (equal + 1) / 2


def rank_correlation(x: Tensor, y: Tensor) -> tuple[float, float]:
    r"""Spearman's $\rho$ and its two-sided permutation p-value.

    Args:
        x: shape (n,), n >= 3.
        y: likewise.

    Returns:
        The correlation of the ranks, 0 if one of them is constant, and the share of permutations
        that reach its absolute value: of all of them for up to eight pairs, else of random ones
        and the observed one.

    Raises:
        ValueError: there are fewer than three pairs.
    """
    n = len(x)
    if n < 3 or len(y) != n:
        raise ValueError(f"x and y must be pairs, at least 3, got {n} and {len(y)}")
    a, b = ranks(x), ranks(y)
    a, b = a - a.mean(), b - b.mean()
    scale = float(a.norm() * b.norm())
    if scale == 0:
        return 0.0, 1.0
    if n <= _EXACT:
        order = torch.tensor(list(permutations(range(n))))
    else:
        generator = torch.Generator().manual_seed(0)
        order = torch.rand(_DRAWN, n, generator=generator).argsort(1)
    rho = float(a @ b) / scale
    reached = int(((b[order] @ a).abs() / scale >= abs(rho) - 1e-12).sum())
    # the observed order is a possible one, but may not be among those drawn
    found = n > _EXACT
    return rho, (reached + found) / (len(order) + found)
