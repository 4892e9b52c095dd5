"""A random point on the great circle through two inverted latents."""

import math
from typing import Literal

import torch
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.samplers.base import Fitted, InvertedSet, Sampler
from ood_sampler.statistics.moments import mean_and_variance


class CircleSampler(Sampler):
    r"""Turn by a uniform angle $\varphi$ on the circle through two inverted latents.

    About the origin, as published (Diff-II: Wang & Chen, 2025), with $\theta$ the angle between
    the two; an ellipse unless their norms are equal:

    $$z = \frac{\sin(\theta + \varphi)\, z_1 - \sin(\varphi)\, z_2}{\sin\theta}$$

    About the mean $\mu$ of the set:

    $$z = \mu + \cos(\varphi)(z_1 - \mu) + \sin(\varphi)(z_2 - \mu)$$

    As $\cos^2 + \sin^2 = 1$, independent $z_1, z_2 \sim \mathcal{N}(\mu, \Sigma)$ give
    $z \sim \mathcal{N}(\mu, \Sigma)$ at every angle. As $\cos\varphi \sin\varphi$ has mean zero,
    two members drawn without repetition give mean and covariance of the set exactly.

    Args:
        centre: `origin` or `mean`.

    Raises:
        ValueError: `centre` is neither.
    """

    def __init__(self, centre: Literal["origin", "mean"]) -> None:
        if centre not in ("origin", "mean"):
            raise ValueError(f"centre must be origin or mean, got {centre!r}")
        self.centre = centre

    @property
    def minimum_images(self) -> int:
        return 2

    @property
    def mixes(self) -> bool:
        return True

    def fit(self, inverted: InvertedSet) -> Fitted:
        if self.centre == "origin":
            return {}
        return {"mean": mean_and_variance(inverted.latents)[0].float()}

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        index = noise.choice(len(inverted.latents), 2)
        phi = 2 * math.pi * noise.uniform(*[1] * len(inverted.latents.shape))
        z_1 = inverted.latents.take(index[:, 0].tolist())
        z_2 = inverted.latents.take(index[:, 1].tolist())
        if self.centre == "mean":
            mean = fitted["mean"]
            return mean + phi.cos() * (z_1 - mean) + phi.sin() * (z_2 - mean)
        theta = _angle(z_1, z_2).reshape(phi.shape)
        # parallel latents define no circle: the first is returned
        straight = theta.sin() < 1e-6
        sine = torch.where(straight, torch.ones_like(theta), theta.sin())
        weight_1 = torch.where(straight, torch.ones_like(theta), (theta + phi).sin() / sine)
        weight_2 = torch.where(straight, torch.zeros_like(theta), -phi.sin() / sine)
        return (weight_1 * z_1 + weight_2 * z_2).float()


def _angle(z_1: Tensor, z_2: Tensor) -> Tensor:
    """Angles at the origin, radians, float64, shape (B,)."""
    a, b = z_1.flatten(1).double(), z_2.flatten(1).double()
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    # atan2 stays accurate where the cosine is close to one
    return 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1))
