"""Tests of normality that keep their stated error rate, and effect sizes.

All take a matrix, shape $(n, m)$: `n` independent draws of `m` variables of unknown mean and
variance.
"""

from functools import cache

import torch
from torch import Tensor

SHAPIRO_RANGE = (12, 5000)
"""Numbers of draws for which Royston's approximations hold."""

_BLOCK = 2**22
"""Numbers per block of simulated sets."""


def lilliefors_distance(values: Tensor) -> Tensor:
    r"""Kolmogorov-Smirnov distance of each variable, standardised, to the normal law, shape $(m,)$.

    $D = \sup_x |F_n(x) - \Phi(x)|$ of $(x - \bar x) / s$ (Lilliefors, 1967).
    """
    z = _standardised(values).sort(dim=0).values
    n = len(z)
    law = torch.special.ndtr(z)
    above = torch.arange(1, n + 1, dtype=law.dtype)[:, None] / n
    distance: Tensor = torch.maximum(above - law, law - above + 1 / n).amax(dim=0)
    return distance


def lilliefors_p(distance: Tensor, n: int, *, draws: int = 100_000) -> Tensor:
    r"""Share of normal sets of `n` draws with at least this distance.

    The law of Kolmogorov and Smirnov would be wrong here: mean and variance are those of the
    sample, which lies closer to its own normal law than to the true one. The share is estimated
    from simulated sets, $(1 + \#) / (1 + \text{draws})$, which never rejects too often (Davison &
    Hinkley, 1997, sec. 4.2).

    Args:
        distance: from `lilliefors_distance`, any shape.
        n: draws behind each distance.
        draws: number of simulated sets.
    """
    simulated = _simulated(n, draws)
    below = torch.searchsorted(simulated, distance.contiguous(), side="left")
    return (1 + draws - below).double() / (1 + draws)


def shapiro_wilk(values: Tensor) -> tuple[Tensor, Tensor]:
    r"""$W$ and p-value of Shapiro & Wilk, 1965, for each variable, shape $(m,)$ both.

    $W = (\sum_i a_i x_{(i)})^2 / \sum_i (x_i - \bar x)^2$, 1 for normal numbers, with the weights
    and the normalising transformation of Royston, 1995 (AS R94).

    Raises:
        ValueError: `n` is not in 12..5000.
    """
    n = len(values)
    lowest, highest = SHAPIRO_RANGE
    if not lowest <= n <= highest:
        raise ValueError(f"values must have {lowest} to {highest} rows (Royston, 1995), got {n}")
    z = _standardised(values).sort(dim=0).values
    W = ((_shapiro_weights(n) @ z).square() / (n - 1)).clamp(max=1)
    log_n = torch.tensor(float(n), dtype=torch.float64).log()
    mean = _polynomial(log_n, -1.5861, -0.31082, -0.083751, 0.0038915)
    deviation = _polynomial(log_n, -0.4803, -0.082676, 0.0030302).exp()
    p: Tensor = torch.special.ndtr((mean - (1 - W).log()) / deviation)
    return W, p


def skewness(values: Tensor) -> Tensor:
    r"""$G_1$ of each variable, 0 for a symmetric one, shape $(m,)$ (Joanes & Gill, 1998)."""
    n = len(values)
    z = values.double() - values.double().mean(dim=0)
    g = z.pow(3).mean(dim=0) / _positive(z.square().mean(dim=0)).pow(1.5)
    skew: Tensor = g * (n * (n - 1)) ** 0.5 / (n - 2)
    return skew


def excess_kurtosis(values: Tensor) -> Tensor:
    r"""$G_2$ of each variable, unbiased for a normal one, shape $(m,)$ (Joanes & Gill, 1998)."""
    n = len(values)
    z = values.double() - values.double().mean(dim=0)
    g = z.pow(4).mean(dim=0) / _positive(z.square().mean(dim=0)).square() - 3
    return ((n + 1) * g + 6) * (n - 1) / ((n - 2) * (n - 3))


def holm(p: Tensor) -> Tensor:
    r"""Adjust the p-values of a family of tests, shape $(m,)$ (Holm, 1979).

    Rejecting where the adjusted value is at most $\alpha$ rejects any true hypothesis of the
    family with probability at most $\alpha$, however the tests depend on each other.
    """
    m = len(p)
    ordered, order = p.sort()
    scaled = (ordered * torch.arange(m, 0, -1)).cummax(dim=0).values.clamp(max=1)
    return torch.empty_like(scaled).scatter(0, order, scaled)


def _standardised(values: Tensor) -> Tensor:
    centred = values.double() - values.double().mean(dim=0)
    return centred / _positive(centred.square().sum(dim=0) / (len(values) - 1)).sqrt()


def _positive(variance: Tensor) -> Tensor:
    """Replace zero variances, so that a constant variable stays at 0 and is not normal."""
    return variance.clamp(min=torch.finfo(variance.dtype).tiny)


@cache
def _simulated(n: int, draws: int) -> Tensor:
    """Sorted distances of simulated normal sets, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    each = max(1, _BLOCK // n)
    distances = [
        lilliefors_distance(torch.randn(min(each, draws - i), n, generator=generator).T)
        for i in range(0, draws, each)
    ]
    return torch.cat(distances).sort().values


def _shapiro_weights(n: int) -> Tensor:
    ranks = torch.arange(1, n + 1, dtype=torch.float64)
    m = torch.special.ndtri((ranks - 3 / 8) / (n + 1 / 4))
    u = torch.tensor(n**-0.5, dtype=torch.float64)
    squares = m.square().sum()
    last = m[-1] / squares.sqrt() + _polynomial(
        u, 0, 0.221157, -0.147981, -2.071190, 4.434685, -2.706056
    )
    second = m[-2] / squares.sqrt() + _polynomial(
        u, 0, 0.042981, -0.293762, -1.752461, 5.682633, -3.582633
    )
    rest = squares - 2 * m[-1].square() - 2 * m[-2].square()
    a: Tensor = m / (rest / (1 - 2 * last.square() - 2 * second.square())).sqrt()
    a[-1], a[-2], a[0], a[1] = last, second, -last, -second
    return a


def _polynomial(x: Tensor, *coefficients: float) -> Tensor:
    total = torch.zeros_like(x)
    for coefficient in reversed(coefficients):
        total = total * x + coefficient
    return total
