"""Linear combinations that keep the Gaussian of the inverted set, or of a part of it."""

import math
from functools import cache

import torch
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.latents.geometry import combine, gram
from ood_sampler.latents.store import mean_and_variance
from ood_sampler.samplers.base import Fitted, InvertedSet, Sampler

CAP = 0.8
"""Largest share of a latent if nothing is said; see `experiments/cog_cap`."""

_DRAWS = 2**14
_LEAST_ACCEPTED = 1e-3


class CogSampler(Sampler):
    r"""Combine inverted latents and correct mean and covariance (Bodin et al., 2024).

    $k$ latents are drawn without repetition; their weights $w / \lVert w \rVert$ are uniform on the
    part of the positive sphere on which no share $w_i^2 / \sum_j w_j^2$ is above a cap. Without one
    (`cap=1`, as published) a single latent often carries nearly all, and the image is a copy: of
    three, one has a share above 0.9 in 15% of draws.

    Neighbours blend better: with `among`, the latents are drawn from the neighbourhood of a random
    member, itself and those nearest to it, and the mean is that of the neighbourhood. It is a
    Gaussian fitted locally.

    Args:
        references: $k \ge 2$, latents a combination.
        cap: largest share of a latent, at most 1 and well above $1/k$; None takes `CAP`.
        among: members of a neighbourhood, at least `references`; None takes the whole set.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self, references: int, *, cap: float | None = None, among: int | None = None
    ) -> None:
        if references < 2:
            raise ValueError(f"references must be >= 2, got {references}")
        if cap is not None and not (
            isinstance(cap, int | float) and smallest_cap(references) <= cap <= 1
        ):
            raise ValueError(
                f"cap must be in {smallest_cap(references)}..1 for references={references}, or "
                f"null, got {cap!r}: of draws of weights, fewer than one in 1,000 has no larger "
                "share"
            )
        if among is not None and not (isinstance(among, int) and among >= references):
            raise ValueError(
                f"among must be >= references={references}, or null, got {among!r}: they are drawn "
                "from so many"
            )
        self.references = references
        self.cap = cap
        self.among = among

    @property
    def minimum_images(self) -> int:
        return self.among or self.references

    @property
    def mixes(self) -> bool:
        return True

    def fit(self, inverted: InvertedSet) -> Fitted:
        mean = mean_and_variance(inverted.latents)[0].float()
        if self.among is None:
            return {"mean": mean}
        return {"neighbours": neighbours(gram(inverted.latents, mean), self.among)}

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        if self.among is not None:
            return self._draw_locally(fitted["neighbours"], inverted, noise)
        index = noise.choice(len(inverted.latents), self.references)
        weights = self._weights(noise)
        latents = inverted.latents.take(index.flatten().tolist()).unflatten(0, index.shape)
        return torch.cat(
            [
                combine(z[None], w[None], fitted["mean"])
                for z, w in zip(latents, weights, strict=True)
            ]
        )

    def _weights(self, noise: SampleNoise) -> Tensor:
        return capped_weights(noise, self.references, cap=CAP if self.cap is None else self.cap)

    def _draw_locally(self, table: Tensor, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        first = noise.choice(len(table), 1)[:, 0]
        chosen = noise.choice(table.shape[1], self.references)
        weights = self._weights(noise)
        drawn = []
        for members, places, w in zip(table[first], chosen, weights, strict=True):
            near = inverted.latents.take(members.tolist())
            drawn.append(combine(near[None, places], w[None], near.mean(0)))
        return torch.cat(drawn)


def capped_weights(noise: SampleNoise, count: int, *, cap: float) -> Tensor:
    r"""Draw weights of which none has a share above a cap, shape (B, count).

    Absolute values of a standard normal vector have a direction that is uniform on the positive
    part of the sphere; each stream draws until all its shares $w_i^2 / \sum_j w_j^2$ are small
    enough, so that the direction is uniform there.

    Args:
        noise: one stream a sample.
        count: weights a sample.
        cap: at least `smallest_cap(count)`; 1 takes the first draw.
    """
    weights = noise.normal(count).abs()
    while len(refused := (largest_share(weights) > cap).nonzero()[:, 0]):
        weights[refused] = noise.only(refused.tolist()).normal(count).abs()
    return weights


def largest_share(weights: Tensor) -> Tensor:
    r"""$\max_i w_i^2 / \sum_j w_j^2$ of each row, shape (B, k) to (B,), float64."""
    squares = weights.double().square()
    return squares.amax(1) / squares.sum(1)


@cache
def smallest_cap(count: int) -> float:
    """Cap that at least one draw of weights in a thousand meets, upwards to three decimals."""
    # more weights have smaller shares: from here on the cap is too careful, and memory bounded
    count = min(count, 256)
    normal = torch.randn(_DRAWS, count, generator=torch.Generator().manual_seed(0))
    share = float(largest_share(normal).quantile(_LEAST_ACCEPTED))
    return math.ceil(1000 * share) / 1000


def neighbours(products: Tensor, count: int) -> Tensor:
    """Numbers of the members nearest to each, the nearest first, shape (N, count).

    Each comes before all others in its own row.

    Args:
        products: inner products of the members about any centre, shape (N, N).
        count: members a row, itself included, in 1..N.
    """
    squares = products.diagonal()
    squared = squares[:, None] - 2 * products + squares
    squared.fill_diagonal_(-1)
    return squared.argsort(dim=1, stable=True)[:, :count].contiguous()
