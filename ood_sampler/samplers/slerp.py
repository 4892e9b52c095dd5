"""Spherical interpolation, as in the paper."""

from dataclasses import replace
from typing import Literal

from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.latents.geometry import slerp
from ood_sampler.samplers.base import Fitted, InvertedSet, Sampler
from ood_sampler.samplers.gaussian import GaussianSampler

IN_DOMAIN_IMAGES = 256
"""Number of latents to which the Gaussian of the model's own domain is fitted."""


class SlerpSampler(Sampler):
    r"""Interpolate between an inverted latent and another one, or a draw of a Gaussian.

    The position is one of the interior points $u = j / (m + 1)$, $j = 1, \dots, m$
    (Zhu et al., 2023; $m = 20$ in their code).

    Args:
        partner: `pair`, a second inverted latent; `gaussian`, a draw from
            $\mathcal{N}(\mu, \mathrm{diag}(s_j^2))$ of the set; `in_domain`, a draw from
            $\mathcal{N}(\mu_i, s_i^2 I)$ of latents of the model's own domain, with $s_i^2$ the
            mean variance of all coordinates.
        points: $m \ge 1$.

    Raises:
        ValueError: `partner` is none of these, or `points` is below 1.
    """

    def __init__(self, partner: Literal["pair", "gaussian", "in_domain"], points: int) -> None:
        if partner not in ("pair", "gaussian", "in_domain"):
            raise ValueError(f"partner must be pair, gaussian or in_domain, got {partner!r}")
        if points < 1:
            raise ValueError(f"points must be >= 1, got {points}")
        self.partner = partner
        self.points = points

    @property
    def minimum_images(self) -> int:
        return 2

    @property
    def mixes(self) -> bool:
        return self.partner == "pair"

    @property
    def in_domain_images(self) -> int:
        return IN_DOMAIN_IMAGES if self.partner == "in_domain" else 0

    def fit(self, inverted: InvertedSet) -> Fitted:
        if self.partner == "pair":
            return {}
        if self.partner == "gaussian":
            return GaussianSampler("diagonal").fit(inverted)
        if inverted.in_domain is None:
            raise ValueError("partner=in_domain needs latents of the model's own domain, got none")
        return GaussianSampler("scalar").fit(replace(inverted, latents=inverted.in_domain))

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        index = noise.choice(len(inverted.latents), 2)
        u = (1 + (noise.uniform() * self.points).floor()) / (self.points + 1)
        z_1 = inverted.latents.take(index[:, 0].tolist())
        if self.partner == "pair":
            z_2 = inverted.latents.take(index[:, 1].tolist())
        else:
            z_2 = fitted["mean"] + fitted["std"] * noise.normal(*z_1.shape[1:])
        return slerp(z_1, z_2, u)
