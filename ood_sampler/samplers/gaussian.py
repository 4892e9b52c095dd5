"""The Gaussian of the inverted set, with independent coordinates."""

from typing import Literal

from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.samplers.base import Fitted, InvertedSet, Sampler
from ood_sampler.statistics.moments import mean_and_variance


class GaussianSampler(Sampler):
    r"""Draw from $\mathcal{N}(\mu, s^2 I)$ or $\mathcal{N}(\mu, \mathrm{diag}(s_j^2))$.

    (Zhu et al., 2023, sec. 4.)

    Args:
        covariance: `scalar`, the mean variance for all coordinates, or `diagonal`.

    Raises:
        ValueError: `covariance` is neither.
    """

    def __init__(self, covariance: Literal["scalar", "diagonal"]) -> None:
        if covariance not in ("scalar", "diagonal"):
            raise ValueError(f"covariance must be scalar or diagonal, got {covariance!r}")
        self.covariance = covariance

    @property
    def minimum_images(self) -> int:
        return 2

    def fit(self, inverted: InvertedSet) -> Fitted:
        mean, variance = mean_and_variance(inverted.latents)
        if self.covariance == "scalar":
            variance = variance.mean().expand_as(variance).contiguous()
        return {"mean": mean.float(), "std": variance.sqrt().float()}

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        return fitted["mean"] + fitted["std"] * noise.normal(*fitted["mean"].shape)
