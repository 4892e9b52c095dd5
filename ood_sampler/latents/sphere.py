r"""The sphere that inverted latents lie near: logarithms, great circles, transport, means.

Points are unit vectors of $\mathbb{R}^d$, float64, in the last dimension of tensors that broadcast.
With $\theta$ the angle between $p$ and $q$ (Ramachandran et al., 2024; for the formulas Absil et
al., 2008, ch. 5 and 8):

$$\log_p q = \frac{\theta}{\sin\theta} (q - \cos\theta\, p), \quad
\exp_p v = \cos|v|\, p + \sin|v| \frac{v}{|v|}, \quad
\mathrm{PT}_{p \to q} v = v - \frac{\langle \log_p q, v \rangle}{\theta^2} (\log_p q + \log_q p).$$

The mean of points on it is `ood_sampler.latents.geometry.frechet_mean`, from their products alone.
"""

import math

import torch
from torch import Tensor

from ood_sampler.latents.geometry import frechet_mean, gram, slerp
from ood_sampler.store.sets import TensorSet

_SMALLEST = 1e-30
"""Norm below which a latent has no direction."""

_CANCELS = 1e-6
"""Length of the mean of unit vectors below which it has no direction."""


def logarithm(p: Tensor, q: Tensor) -> Tensor:
    r"""Tangent vectors at `p` whose geodesics reach `q` in time 1, $|v| < \pi$.

    Opposite points have no logarithm; theirs is finite and of no meaning.

    Args:
        p: unit vectors, shape (..., d).
        q: unit vectors, likewise.
    """
    across = q - (q * p).sum(-1, keepdim=True) * p
    sine = across.norm(dim=-1, keepdim=True)
    angle = _angle(p, q)
    # q - cos(theta) p has the length sin(theta), which rounding spoils near opposite points alone
    return across * torch.where(sine > 0, angle / sine.clamp(min=_SMALLEST), 1.0)


def exponential(p: Tensor, v: Tensor) -> Tensor:
    """Points that geodesics from `p` with the velocities `v` reach in time 1."""
    angle = v.norm(dim=-1, keepdim=True)
    point: Tensor = angle.cos() * p + torch.sinc(angle / math.pi) * v
    return point


def transport(p: Tensor, q: Tensor, v: Tensor) -> Tensor:
    """Carry tangent vectors at `p` to `q`, parallel along the geodesic between them.

    Lengths and angles of tangent vectors stay as they are. Along a geodesic of length 0 nothing
    changes.
    """
    forth, back = logarithm(p, q), logarithm(q, p)
    square = forth.square().sum(-1, keepdim=True)
    along = (forth * v).sum(-1, keepdim=True) / square.clamp(min=_SMALLEST)
    return v - along * (forth + back)


def directions(latents: Tensor, centre: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Split latents into unit vectors about a centre and norms: $z = c + r u$.

    Args:
        latents: $z$, shape $(B, \dots)$.
        centre: $c$, shape of one latent; None is the origin.

    Returns:
        $u$, float64, shape $(B, d)$, and $r$, shape $(B, 1)$.
    """
    rows = latents.double().flatten(1)
    if centre is not None:
        rows = rows - centre.double().flatten()
    norms = rows.norm(dim=1, keepdim=True)
    return rows / norms.clamp(min=_SMALLEST), norms


def geodesic(z_1: Tensor, z_2: Tensor, u: Tensor, centre: Tensor | None = None) -> Tensor:
    """Points of the great circles between latents about a centre, norms interpolated linearly.

    Args:
        z_1: first ends, shape (B, ...).
        z_2: second ends, of the same shape.
        u: positions in [0, 1], shape (B,).
        centre: shape of one latent; None is the origin.
    """
    if centre is None:
        return slerp(z_1, z_2, u)
    return centre + slerp(z_1 - centre, z_2 - centre, u)


def move(latents: Tensor, m: Tensor, v: Tensor, strength: float) -> Tensor:
    r"""Move latents along a tangent vector at $m$, at their own norms.

    $$z = r \exp_x(s\, \mathrm{PT}_{m \to x} v), \quad x = z_0 / r, \quad r = |z_0|.$$

    Args:
        latents: $z_0$, shape $(B, \dots)$.
        m: unit vector, shape $(d,)$.
        v: tangent vector there, shape $(d,)$.
        strength: $s$; 0 returns the latents.
    """
    x, norms = directions(latents)
    moved = norms * exponential(x, strength * transport(m, x, v))
    return moved.to(latents.dtype).reshape(latents.shape)


def coordinates(products: Tensor) -> Tensor:
    r"""Vectors with given inner products, in as few dimensions as there are vectors.

    All of this file is about angles alone, so that few points of many dimensions are best replaced
    by these.

    Args:
        products: $z_i \cdot z_j$, float64, shape $(N, N)$.

    Returns:
        $y_i$ with $y_i \cdot y_j = z_i \cdot z_j$, shape $(N, N)$.
    """
    values, vectors = torch.linalg.eigh(products)
    found: Tensor = vectors * values.clamp(min=0).sqrt()
    return found


def mean_direction(latents: TensorSet) -> Tensor:
    r"""Fréchet mean of the directions of a set, a unit vector, float64, shape $(d,)$.

    Raises:
        ValueError: the directions cancel, as those about their own mean do.
    """
    products = gram(latents, torch.zeros(latents.shape))
    norms = products.diagonal().sqrt().clamp(min=_SMALLEST)
    cosines = products / (norms[:, None] * norms)
    if float(cosines.mean()) < _CANCELS**2:
        raise ValueError("latents must have a mean direction, and theirs cancel")
    (found,) = weighted_sums(latents, (frechet_mean(cosines) / norms)[None])
    unit: Tensor = found / found.norm()
    return unit


def mean_logarithm(latents: TensorSet, m: Tensor) -> Tensor:
    """Mean of the logarithms at `m` of the directions of a set, shape (d,), block by block."""
    total = torch.zeros_like(m)
    for block in latents.blocks():
        total += logarithm(m, directions(block)[0]).sum(0)
    return total / len(latents)


def mean_pair_logarithm(first: TensorSet, second: TensorSet, m: Tensor) -> Tensor:
    r"""Mean of the velocities from members of a set to those of another, transported to `m`.

    $\frac{1}{n} \sum_{i \le n} \mathrm{PT}_{a_i \to m} \log_{a_i} b_i$, with as many pairs as the
    smaller set has members.
    """
    total, count = torch.zeros_like(m), min(len(first), len(second))
    for index in range(count):
        a, b = (directions(part.take([index]))[0] for part in (first, second))
        total += transport(a, m, logarithm(a, b))[0]
    return total / count


def weighted_sums(latents: TensorSet, weights: Tensor) -> list[Tensor]:
    """Sum a set with weights of shape (B, N), in one pass; float64 sums of shape (d,)."""
    sums = [torch.zeros(math.prod(latents.shape), dtype=torch.float64) for _ in weights]
    start = 0
    for block in latents.blocks():
        rows = block.double().flatten(1)
        # one product per item: a batched one may round differently in another batch
        for total, row in zip(sums, weights.double(), strict=True):
            total += row[start : start + len(rows)] @ rows
        start += len(rows)
    return sums


def _angle(p: Tensor, q: Tensor) -> Tensor:
    """Angle between unit vectors, accurate also near 0 and 180 degrees."""
    return 2 * torch.atan2((p - q).norm(dim=-1, keepdim=True), (p + q).norm(dim=-1, keepdim=True))
