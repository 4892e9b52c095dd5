"""Combinations of inverted latents with fresh noise, which leave the span of the set."""

import math

from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.samplers.base import Fitted, InvertedSet
from ood_sampler.samplers.cog import CogSampler


class WhiteSampler(CogSampler):
    r"""Mix a combination of inverted latents with fresh noise.

    $$z = \hat\mu + \sqrt{1 - v^2}\,(z_\mathrm{cog} - \hat\mu) + v n, \qquad
    n \sim \mathcal{N}(0, I),$$

    with $z_\mathrm{cog}$ and $\hat\mu$ of `CogSampler`. If latents are nearly white, as along the
    corrected flow, this keeps their Gaussian.

    Args:
        references: $k \ge 2$, latents per combination.
        fresh: $v$ in $[0, 1]$; 0 is `cog`.
        cap: as for `CogSampler`.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, references: int, fresh: float, *, cap: float | None = None) -> None:
        super().__init__(references, cap=cap)
        if not (isinstance(fresh, int | float) and 0 <= fresh <= 1):
            raise ValueError(f"fresh must be in 0..1, got {fresh!r}")
        self.fresh = fresh

    @property
    def mixes(self) -> bool:
        return False

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        combined = super().draw(fitted, inverted, noise)
        fresh = noise.normal(*combined.shape[1:])
        kept = math.sqrt(1 - self.fresh**2)
        return fitted["mean"] + kept * (combined - fitted["mean"]) + self.fresh * fresh
