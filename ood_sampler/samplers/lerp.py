"""Straight interpolation: in pixels, the double exposure that every strategy must beat."""

from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.samplers.base import Fitted, InvertedSet, Sampler


class LerpSampler(Sampler):
    r"""$z = (1 - u) z_1 + u z_2$ of two members of the set, $u$ uniform in $[0, 1)$."""

    @property
    def minimum_images(self) -> int:
        return 2

    @property
    def mixes(self) -> bool:
        return True

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        index = noise.choice(len(inverted.latents), 2)
        u = noise.uniform().reshape(-1, *[1] * len(inverted.latents.shape))
        z_1 = inverted.latents.take(index[:, 0].tolist())
        z_2 = inverted.latents.take(index[:, 1].tolist())
        return (1 - u) * z_1 + u * z_2
