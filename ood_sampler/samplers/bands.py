"""Coarse structure of one inverted latent, texture of another."""

import math

import torch
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.samplers.base import Fitted, InvertedSet, Sampler


class BandsSampler(Sampler):
    r"""Take low frequencies from one inverted latent and the rest from another.

    With the orthogonal projection $L$ on radial frequencies $|f| \le f_c$ of each channel and
    $H = I - L$,

    $$z = \mu + L (z_1 - \mu) + H (z_2 - \mu) = L z_1 + H z_2,$$

    so that the mean need not be known. As each frequency comes from one latent, mean and power
    spectrum of any set are kept. For independent $z_1, z_2 \sim \mathcal{N}(\mu, \Sigma)$ so is
    $\Sigma$ if it commutes with $L$, as for a stationary field.

    Args:
        cutoff: $f_c > 0$, cycles per image; below the highest frequency of a latent, half the
            diagonal in pixels.

    Raises:
        ValueError: `cutoff` is out of its range.
    """

    def __init__(self, cutoff: float) -> None:
        if not 0 < cutoff < math.inf:
            raise ValueError(f"cutoff must be > 0 and finite, got {cutoff}")
        self.cutoff = cutoff

    @property
    def minimum_images(self) -> int:
        return 2

    @property
    def spatial(self) -> bool:
        return True

    @property
    def mixes(self) -> bool:
        return True

    def check(self, inverted: InvertedSet) -> None:
        super().check(inverted)
        highest = float(_frequencies(*inverted.latents.shape[-2:]).max())
        if self.cutoff >= highest:
            raise ValueError(
                f"cutoff must be < {highest:.4g} cycles an image, got {self.cutoff}: nothing of "
                "the second latent would be left; lower sampler.cutoff"
            )

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        index = noise.choice(len(inverted.latents), 2)
        z_1 = inverted.latents.take(index[:, 0].tolist())
        z_2 = inverted.latents.take(index[:, 1].tolist())
        low = _frequencies(*z_1.shape[-2:]) <= self.cutoff
        # one transform per item: a batched one may round differently in another batch
        coarse = [
            torch.fft.irfft2(torch.fft.rfft2(difference) * low, s=difference.shape[-2:])
            for difference in z_1 - z_2
        ]
        return z_2 + torch.stack(coarse)


def _frequencies(height: int, width: int) -> Tensor:
    """Radial frequencies of `rfft2`, cycles per image, shape (height, width // 2 + 1)."""
    vertical = torch.fft.fftfreq(height, 1 / height)
    horizontal = torch.fft.rfftfreq(width, 1 / width)
    return torch.hypot(vertical[:, None], horizontal)
