"""Linear combinations that keep the Gaussian of the inverted set."""

import torch
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.latents.geometry import combine
from ood_sampler.latents.store import mean_and_variance
from ood_sampler.samplers.base import Fitted, InvertedSet, Sampler


class CogSampler(Sampler):
    r"""Combine inverted latents and correct mean and covariance (Bodin et al., 2024).

    $k$ latents are drawn without repetition; their weights are the absolute values of a standard
    normal vector, so that $w / \lVert w \rVert$ is uniform on the positive part of the sphere
    (for two: the angle between them is uniform in $[0, \pi/2]$).

    Args:
        references: $k \ge 2$, latents a combination.

    Raises:
        ValueError: `references` is below 2.
    """

    def __init__(self, references: int) -> None:
        if references < 2:
            raise ValueError(f"references must be >= 2, got {references}")
        self.references = references

    @property
    def minimum_images(self) -> int:
        return self.references

    @property
    def mixes(self) -> bool:
        return True

    def fit(self, inverted: InvertedSet) -> Fitted:
        return {"mean": mean_and_variance(inverted.latents)[0].float()}

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        index = noise.choice(len(inverted.latents), self.references)
        weights = noise.normal(self.references).abs()
        latents = inverted.latents.take(index.flatten().tolist()).unflatten(0, index.shape)
        return torch.cat(
            [
                combine(z[None], w[None], fitted["mean"])
                for z, w in zip(latents, weights, strict=True)
            ]
        )
