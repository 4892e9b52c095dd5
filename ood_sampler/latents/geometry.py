"""Angles, spheres and combinations of latents."""

import torch
from torch import Tensor


def slerp(z_1: Tensor, z_2: Tensor, u: Tensor) -> Tensor:
    r"""Interpolate directions on the sphere and norms linearly (Shoemake, 1985).

    $$z = \big((1-u)\lVert z_1\rVert + u \lVert z_2\rVert\big)
    \frac{\sin((1-u)\theta)\,\hat z_1 + \sin(u\theta)\,\hat z_2}{\sin\theta}$$

    Nearly parallel directions are interpolated linearly; between opposite ones the path is not
    defined, and the linear one is taken.

    Args:
        z_1: first ends, shape $(B, \dots)$.
        z_2: second ends, of the same shape.
        u: positions in $[0, 1]$, shape $(B,)$.
    """
    a, b = z_1.flatten(1).double(), z_2.flatten(1).double()
    norm_a, norm_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    a, b = a / norm_a, b / norm_b
    v = u.double()[:, None]
    # atan2 keeps its accuracy where the cosine is close to one
    theta = 2 * torch.atan2((a - b).norm(dim=1, keepdim=True), (a + b).norm(dim=1, keepdim=True))
    straight = theta.sin() < 1e-6
    sine = torch.where(straight, torch.ones_like(theta), theta.sin())
    weight_a = torch.where(straight, 1 - v, ((1 - v) * theta).sin() / sine)
    weight_b = torch.where(straight, v, (v * theta).sin() / sine)
    norm = (1 - v) * norm_a + v * norm_b
    z: Tensor = norm * (weight_a * a + weight_b * b)
    return z.to(z_1.dtype).reshape(z_1.shape)


def combine(latents: Tensor, weights: Tensor, mean: Tensor) -> Tensor:
    r"""Combine latents so that the Gaussian they come from is kept (Bodin et al., 2024).

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
