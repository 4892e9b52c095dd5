r"""Do directions between pairs of two labelled sets of latents agree, and beyond what is trivial?

Ramachandran et al. (2024) say that geodesics between different pairs share attributes. Directions
of independent pairs $a_i \to b_i$, transported to the Fréchet mean $m$ of both sets, then have a
positive mean cosine. So they have wherever the means of the sets differ: in the tangent space at
$m$, for independent members with the covariance $\sigma^2$ in each of $d$ dimensions,

$$\mathbb{E} \langle d_i, d_j \rangle = |\Delta\mu|^2, \quad
\mathbb{E} |d_i|^2 = |\Delta\mu|^2 + 2 \sigma^2 d.$$
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ood_sampler.latents.geometry import frechet_mean
from ood_sampler.latents.sphere import coordinates, logarithm, transport
from ood_sampler.statistics.intervals import normal_interval
from ood_sampler.statistics.resampling import Interval, percentiles

LEAST = 4
"""Members of each set that are needed."""


class Alignment(NamedTuple):
    r"""Mean cosine of the directions of independent pairs, and what it is compared with.

    Attributes:
        pairs: their number, the members of the smaller set.
        cosine: mean over two different pairs, with the interval of its jackknife error.
        null: mean and percentiles of the same with labels permuted.
        explained: $|\Delta\mu|^2 / (|\Delta\mu|^2 + 2 \sigma^2 d)$, unbiased in both parts.
        beyond_null: `cosine` less the mean of `null`.
        beyond_means: `beyond_null` less `explained`, with a jackknife error of its own; the null
            holds what the curvature of the sphere does to unrelated directions.
        signal: share of the squared length of the mean direction of these pairs that is not
            sampling noise, $e / (e + (1 - e) / n)$ with $e$ the part explained.
    """

    pairs: int
    cosine: Interval
    null: Interval
    explained: float
    beyond_null: Interval
    beyond_means: Interval
    signal: float


def alignment(products: Tensor, count: int, *, permutations: int, seed: int = 0) -> Alignment:
    r"""Measure how well directions between two sets agree.

    The $i$-th of the first set is paired with the $i$-th of the second, which must not be in an
    order that means anything.

    Args:
        products: $z_i \cdot z_j$ of the members, first those of the first set, float64, shape
            $(N, N)$.
        count: members of the first set.
        permutations: of the labels, for the null.
        seed: of these.

    Raises:
        ValueError: a set has fewer than `LEAST` members.
    """
    pairs = min(count, len(products) - count)
    if pairs < LEAST:
        raise ValueError(f"each set must have at least {LEAST} latents, got {pairs}")
    chosen = torch.cat([torch.arange(pairs), torch.arange(count, count + pairs)])
    y = coordinates(products[chosen][:, chosen])
    u = y / y.norm(dim=1, keepdim=True)
    m = frechet_mean(u @ u.T) @ u
    m = m / m.norm()
    cosines = _cosines(u[:pairs], u[pairs:], m)
    value, without = _mean_cosine(cosines)
    explained, explained_without = _explained(logarithm(m, u))
    found = normal_interval(value, _jackknife_error(without))
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(2 * pairs, generator=generator) for _ in range(permutations)]
    by_chance = torch.stack([_permuted(u, m, order) for order in orders])
    null = percentiles(float(by_chance.mean()), by_chance)
    difference = value - explained - null.value
    share = max(float(explained), 0.0)
    return Alignment(
        pairs,
        found,
        null,
        float(explained),
        Interval(*(end - null.value for end in found)),
        normal_interval(difference, _jackknife_error(without - explained_without)),
        share / (share + (1 - share) / pairs),
    )


def _permuted(u: Tensor, m: Tensor, order: Tensor) -> Tensor:
    half = len(order) // 2
    return _mean_cosine(_cosines(u[order[:half]], u[order[half:]], m))[0]


def _cosines(a: Tensor, b: Tensor, m: Tensor) -> Tensor:
    """Cosines between directions from `a` to `b`, transported to `m`, shape (n, n)."""
    d = transport(a, m, logarithm(a, b))
    d = d / d.norm(dim=1, keepdim=True).clamp(min=1e-30)
    cosines: Tensor = d @ d.T
    return cosines


def _mean_cosine(cosines: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over different pairs, and the same without each of them, shape (n,)."""
    n = len(cosines)
    rows = cosines.sum(1) - cosines.diagonal()
    total = rows.sum()
    return total / (n * (n - 1)), (total - 2 * rows) / ((n - 1) * (n - 2))


def _explained(logarithms: Tensor) -> tuple[Tensor, Tensor]:
    """Share that the means alone explain, and the same without each pair, shape (n,)."""
    n = len(logarithms) // 2
    G = logarithms @ logarithms.T
    within = [G[:n, :n], G[n:, n:]]
    across = G[:n, n:]
    squares = torch.stack([part.diagonal() for part in within])
    others = torch.stack([part.sum(1) for part in within]) - squares
    mixed = across.sum(1) + across.sum(0) - across.diagonal()
    whole = _share(others.sum(1), squares.sum(1), across.sum(), n)
    without = _share(
        others.sum(1, keepdim=True) - 2 * others,
        squares.sum(1, keepdim=True) - squares,
        across.sum() - mixed,
        n - 1,
    )
    return whole, without


def _share(others: Tensor, squares: Tensor, across: Tensor, n: int) -> Tensor:
    """Squared distance of the means over that plus the variance of both sets."""
    same = others / (n * (n - 1))
    apart = same.sum(0) - 2 * across / n**2
    share: Tensor = apart / (apart + (squares / n - same).sum(0))
    return share


def _jackknife_error(without: Tensor) -> Tensor:
    n = len(without)
    return ((n - 1) * without.var(unbiased=False)).sqrt()
