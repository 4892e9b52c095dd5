"""Draws from the cluster of the inverted set on the unit sphere."""

import math
from itertools import count
from typing import Literal

import torch
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.latents.geometry import arc_over_chord, frechet_mean, gram
from ood_sampler.latents.sphere import exponential, weighted_sums
from ood_sampler.samplers.base import Fitted, GaveUpError, InvertedSet, Sampler


class HypersphereSampler(Sampler):
    r"""Project the set to the unit sphere, draw from the cluster there, and restore a norm.

    (Ramachandran et al., 2024.) The norm is that of a random member. With $u_i = z_i / |z_i|$:

    `tangent`: the Gaussian of the set in the tangent space at its Fréchet mean $m$ (Fletcher et
    al., 2004), with all correlations of the members. With $\xi_i$ standard normal, the angles
    $\theta_i$ from $m$ and $\log_m u_i = \frac{\theta_i}{\sin\theta_i} (u_i - m \cos\theta_i)$,
    whose mean is zero,

    $$v = \frac{1}{\sqrt{N-1}} \sum_i \xi_i \log_m u_i, \quad
    u = m \cos|v| + \frac{v}{|v|} \sin|v|.$$

    `vmf`: von Mises-Fisher, density $\propto e^{\kappa m \cdot u}$, isotropic about $m$, which lies
    along $\bar u = \frac{1}{N} \sum_i u_i$, with $\kappa = R (d - R^2) / (1 - R^2)$ (Banerjee et
    al., 2005, eq. 4.4) at $R^2 = (N \lVert \bar u \rVert^2 - 1) / (N - 1)$, the mean cosine of two
    members. The length of $\bar u$ itself is too large by chance, which doubles $\kappa$ for ten
    members in 3,072 dimensions. A negative $R^2$ gives no concentration, $\kappa = 0$. The cosine
    is drawn by Wood's rejection (1994), see `_von_mises_fisher`.

    Args:
        cluster: `tangent` or `vmf`.

    Raises:
        ValueError: `cluster` is neither.
    """

    def __init__(self, cluster: Literal["tangent", "vmf"]) -> None:
        if cluster not in ("tangent", "vmf"):
            raise ValueError(f"cluster must be tangent or vmf, got {cluster!r}")
        self.cluster = cluster

    @property
    def minimum_images(self) -> int:
        return 2

    @property
    def mixes(self) -> bool:
        return self.cluster == "tangent"

    def fit(self, inverted: InvertedSet) -> Fitted:
        """Find the mean direction and the spread about it.

        Raises:
            GaveUpError: the directions cancel.
        """
        latents = inverted.latents
        n, d = len(latents), math.prod(latents.shape)
        products = gram(latents, torch.zeros(latents.shape))
        norms = products.diagonal().sqrt().clamp(min=1e-30)
        cosines = products / (norms[:, None] * norms)
        length = cosines.mean().clamp(min=0).sqrt()
        if length < 1e-6:
            raise GaveUpError(
                "HypersphereSampler needs latents with a mean direction, and theirs cancel: take "
                "sampler=cog"
            )
        fitted = {"norms": norms.float()}
        if self.cluster == "vmf":
            weights = torch.ones_like(norms) / (n * length)
            fitted["kappa"] = concentration(cosines, d).float()
        else:
            weights = frechet_mean(cosines)
            scale = arc_over_chord(cosines @ weights)
            fitted["scales"] = (scale / (norms * math.sqrt(n - 1))).float()
        mean = weighted_sums(latents, (weights / norms)[None])[0]
        return {"mean": mean.float().reshape(latents.shape), **fitted}

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        n, m = len(inverted.latents), fitted["mean"].double().flatten()
        norms = fitted["norms"][noise.choice(n, 1)[:, 0]]
        if self.cluster == "tangent":
            sums = weighted_sums(inverted.latents, fitted["scales"] * noise.normal(n))
            directions = [exponential(m, v - (v @ m) * m) for v in sums]
        else:
            kappa = float(fitted["kappa"])
            directions = [_von_mises_fisher(m, kappa, noise, i) for i in range(len(noise))]
        z = torch.stack([norm * u for norm, u in zip(norms, directions, strict=True)])
        return z.float().reshape(-1, *inverted.latents.shape)


def concentration(cosines: Tensor, d: int) -> Tensor:
    r"""Estimate $\kappa$ of von Mises-Fisher from cosines, without the bias of few members.

    $\mathbb{E} \lVert \bar u \rVert^2 = R^2 + (1 - R^2) / N$ with $R$ the length of the
    expectation; see `HypersphereSampler`.

    Args:
        cosines: $u_i \cdot u_j$, shape $(N, N)$, $N \ge 2$.
        d: dimension.
    """
    n = len(cosines)
    square = ((n * cosines.mean() - 1) / (n - 1)).clamp(0, 1)
    kappa: Tensor = square.sqrt() * (d - square) / (1 - square).clamp(min=1e-12)
    return kappa


def _von_mises_fisher(m: Tensor, kappa: float, noise: SampleNoise, sample: int) -> Tensor:
    r"""Draw a direction about `m` (Wood, 1994).

    His beta variate is a component $t$ of a uniform direction, so that one vector of normals gives
    the proposal, the cosine $w = (x_0 + t) / (1 + x_0 t)$ with $\kappa (1 - x_0^2) = (d - 1) x_0$,
    and the direction across. It is accepted with probability
    $(e^{s / (1 + s)} / (1 + s))^{d - 1}$, $s = x_0 t$: more than 0.7 for large $d$.
    """
    d = len(m)
    ratio = 2 / (d - 1 + math.hypot(2 * kappa, d - 1))
    x_0 = kappa * ratio
    for number in count():
        attempt = noise.attempts(sample, [number])
        g = attempt.normal(d)[0].double()
        along = g @ m
        t = float(along / g.norm())
        s = x_0 * t
        if (d - 1) * (s / (1 + s) - math.log1p(s)) >= math.log1p(-float(attempt.uniform())):
            break
    sine = math.sqrt((d - 1) * ratio * (1 - t * t)) / (1 + s)
    across = g - along * m
    direction: Tensor = (x_0 + t) / (1 + s) * m + sine * across / across.norm()
    return direction
