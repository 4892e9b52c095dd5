"""Angles, spheres and combinations of latents."""

from typing import NamedTuple

import torch
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.store.sets import TensorSet

ROUNDS = 32
"""Draws of references for each member of a set."""

_DESCENTS = 200


class Criteria(NamedTuple):
    r"""The three geometric criteria of latents (Zhu et al., 2023), each of shape $(B,)$.

    Attributes:
        distance: mean distance to the references.
        origin_angle: mean angle at the origin with a reference, degrees.
        pair_angle: mean angle at the latent between two references, degrees.
    """

    distance: Tensor
    origin_angle: Tensor
    pair_angle: Tensor


def gram(latents: TensorSet, centre: Tensor) -> Tensor:
    r"""Products $(z_i - c) \cdot (z_j - c)$ of a set, shape $(N, N)$, float64.

    Two blocks of the set are in memory at a time.
    """
    rows = []
    for left in latents.blocks():
        a = _rows(left, centre)
        rows.append(torch.cat([a @ _rows(b, centre).T for b in latents.blocks()], dim=1))
    return torch.cat(rows)


def criteria(latents: Tensor, references: Tensor) -> Criteria:
    r"""Measure latents, each against its own references.

    Args:
        latents: $z$, shape $(B, \dots)$.
        references: $r_j$, shape $(B, k, \dots)$, $k \ge 2$; a float64 copy of them is in memory.

    Raises:
        ValueError: there are fewer than two references.
    """
    if references.shape[1] < 2:
        raise ValueError(f"references must be >= 2, got {references.shape[1]}")
    z, r = latents.double().flatten(1), references.double().flatten(2)
    return criteria_of_products(z.square().sum(1), (r @ z[:, :, None])[:, :, 0], r @ r.mT)


def member_criteria(products: Tensor, references: int, noise: SampleNoise) -> Criteria:
    r"""Measure each member of a set against random others, `ROUNDS` times.

    Args:
        products: $z_i \cdot z_j$ of the members, shape $(N, N)$.
        references: other members per measurement, $k \ge 2$.
        noise: chooses the others, one stream per member.

    Returns:
        Criteria of shape $(32 N,)$.

    Raises:
        ValueError: `references` is below 2 or not below the number of members.
    """
    n = len(products)
    if not 2 <= references < n:
        raise ValueError(f"references must be in 2..{n - 1} for {n} latents, got {references}")
    member = torch.arange(n)[:, None]
    measured = []
    for _ in range(ROUNDS):
        index = noise.choice(n - 1, references)
        index += index >= member
        between = products[index[:, :, None], index[:, None, :]]
        measured.append(criteria_of_products(products.diagonal(), products[member, index], between))
    return Criteria(*(torch.cat(values) for values in zip(*measured, strict=True)))


def set_criteria(latents: TensorSet, references: int) -> tuple[Tensor, Criteria]:
    r"""Measure the members of a set against each other.

    Args:
        latents: the set, three or more.
        references: other members per measurement; capped at their number.

    Returns:
        $z_i \cdot z_j$, shape $(N, N)$, and the criteria of `member_criteria`.
    """
    products = gram(latents, torch.zeros(latents.shape))
    noise = SampleNoise(0, range(len(latents)), stream=Stream.FIT)
    return products, member_criteria(products, min(references, len(latents) - 1), noise)


def criteria_of_products(squares: Tensor, products: Tensor, between: Tensor) -> Criteria:
    r"""Measure latents from their inner products alone.

    Two equal latents, or one at the origin, make a right angle.

    Args:
        squares: $z \cdot z$, shape $(B,)$.
        products: $z \cdot r_j$, shape $(B, k)$.
        between: $r_j \cdot r_l$, shape $(B, k, k)$.
    """
    tiny = torch.finfo(products.dtype).tiny
    lengths = between.diagonal(dim1=1, dim2=2)
    cosine = products / (squares[:, None] * lengths).sqrt().clamp(min=tiny)
    distance = (squares[:, None] - 2 * products + lengths).clamp(min=0).sqrt()
    j, k = torch.triu_indices(products.shape[1], products.shape[1], offset=1)
    # (r_j - z) . (r_k - z)
    across = between[:, j, k] - products[:, j] - products[:, k] + squares[:, None]
    pair_cosine = across / (distance[:, j] * distance[:, k]).clamp(min=tiny)
    return Criteria(distance.mean(1), _mean_angle(cosine), _mean_angle(pair_cosine))


def _mean_angle(cosine: Tensor) -> Tensor:
    return cosine.clamp(-1, 1).acos().rad2deg().mean(1)


def _rows(latents: Tensor, centre: Tensor) -> Tensor:
    return latents.double().flatten(1) - centre.double().flatten()


def arc_over_chord(cosine: Tensor) -> Tensor:
    r"""$\theta / \sin\theta$ of angles given by their cosines: 1 at zero, large near 180°."""
    return 1 / torch.sinc(cosine.clamp(-1, 1).acos() / torch.pi).clamp(min=1e-6)


def frechet_mean(cosines: Tensor) -> Tensor:
    r"""Mean on the sphere of unit vectors, from their inner products alone.

    The unit vector $m = \sum_i a_i u_i$ minimises $\sum_i \arccos(m \cdot u_i)^2$, by gradient
    descent along great circles from the normalised mean (Fletcher et al., 2004, alg. 1).

    Args:
        cosines: $u_i \cdot u_j$, shape $(N, N)$, float64; their mean must not be zero.

    Returns:
        $a_i$, shape $(N,)$.
    """
    a = torch.ones_like(cosines[0]) / cosines.sum().sqrt()
    for _ in range(_DESCENTS):
        cosine = cosines @ a
        pull = arc_over_chord(cosine) / len(a)
        # the mean of the logarithms, which are u_i - cosine_i m up to their lengths
        step = pull - (pull @ cosine) * a
        angle = (step @ cosines @ step).clamp(min=0).sqrt()
        a = angle.cos() * a + torch.sinc(angle / torch.pi) * step
        a = a / (a @ cosines @ a).sqrt()
        if angle < 1e-12:
            break
    return a


def slerp(z_1: Tensor, z_2: Tensor, u: Tensor) -> Tensor:
    r"""Interpolate directions on the sphere and norms linearly (Shoemake, 1985).

    $$z = \big((1-u)\lVert z_1\rVert + u \lVert z_2\rVert\big)
    \frac{\sin((1-u)\theta)\,\hat z_1 + \sin(u\theta)\,\hat z_2}{\sin\theta}$$

    Nearly parallel directions are interpolated linearly, and so are opposite ones, between which
    the path is undefined.

    Args:
        z_1: first ends, shape $(B, \dots)$.
        z_2: second ends, of the same shape.
        u: positions in $[0, 1]$, shape $(B,)$.
    """
    a, b = z_1.flatten(1).double(), z_2.flatten(1).double()
    norm_a, norm_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    a, b = a / norm_a, b / norm_b
    v = u.double()[:, None]
    # atan2 stays accurate where the cosine is close to one
    theta = 2 * torch.atan2((a - b).norm(dim=1, keepdim=True), (a + b).norm(dim=1, keepdim=True))
    straight = theta.sin() < 1e-6
    sine = torch.where(straight, torch.ones_like(theta), theta.sin())
    weight_a = torch.where(straight, 1 - v, ((1 - v) * theta).sin() / sine)
    weight_b = torch.where(straight, v, (v * theta).sin() / sine)
    norm = (1 - v) * norm_a + v * norm_b
    z: Tensor = norm * (weight_a * a + weight_b * b)
    return z.to(z_1.dtype).reshape(z_1.shape)


def combine(latents: Tensor, weights: Tensor, mean: Tensor) -> Tensor:
    r"""Combine latents, preserving the Gaussian that they come from (Bodin et al., 2024).

    $$z = \Big(1 - \frac{\sum_i w_i}{\sqrt{\sum_i w_i^2}}\Big) \mu
    + \frac{\sum_i w_i z_i}{\sqrt{\sum_i w_i^2}}$$

    Independent $z_i \sim \mathcal{N}(\mu, \Sigma)$ give $z \sim \mathcal{N}(\mu, \Sigma)$.

    Args:
        latents: $z_i$, shape $(B, k, \dots)$.
        weights: $w_i$, not all zero, shape $(B, k)$.
        mean: $\mu$, shape of one latent.
    """
    scaled: Tensor = weights / weights.norm(dim=1, keepdim=True)
    mixed: Tensor = torch.einsum("bk,bk...->b...", scaled, latents)
    rest = (1 - scaled.sum(1)).reshape(-1, *[1] * mean.ndim)
    return mixed + rest * mean
