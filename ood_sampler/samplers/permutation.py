"""The pixels of one inverted latent in a new order."""

import torch
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.samplers.base import Fitted, InvertedSet, Sampler


class PermutationSampler(Sampler):
    r"""Permute the pixels of a random inverted latent (RIVAL: Zhang et al., 2023, sec. 3).

    $z_{c, p} = z_{1; c, \pi(p)}$ with a permutation $\pi$ drawn per sample, the same for all
    channels. It keeps the norm and the distribution of pixel values, with correlations between
    channels, but makes the spectrum white.
    """

    @property
    def spatial(self) -> bool:
        return True

    @property
    def mixes(self) -> bool:
        return True

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        index = noise.choice(len(inverted.latents), 1)[:, 0]
        z = inverted.latents.take(index.tolist())
        pixels = z.flatten(2)
        order = noise.choice(pixels.shape[2], pixels.shape[2])
        return torch.gather(pixels, 2, order[:, None].expand_as(pixels)).reshape(z.shape)
