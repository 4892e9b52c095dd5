"""Linear combinations that keep the Gaussian of the inverted set, or of a neighbourhood."""

import math
from functools import cache

import torch
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.latents.geometry import combine, gram
from ood_sampler.samplers.base import Fitted, InvertedSet, Sampler
from ood_sampler.statistics.moments import mean_and_variance

CAP = 0.8
"""Default of the largest share of a latent; see `experiments/cog_cap`."""

_DRAWS = 2**14
_LEAST_ACCEPTED = 1e-3

_NORMALS = 2**22
"""Random numbers for estimating the mean square of the sum of weights."""


class CogSampler(Sampler):
    r"""Combine inverted latents and correct mean and covariance (Bodin et al., 2024).

    $k$ latents are drawn without repetition; their weights $w / \lVert w \rVert$ are uniform on the
    part of the positive sphere on which no share $w_i^2 / \sum_j w_j^2$ exceeds a cap. Without a
    cap (`cap=1`, as published) a single latent often dominates, and the image is a copy: of three,
    one has a share above 0.9 in 15% of draws.

    The mean is that of the set, so that deviations from it cancel in part: with
    $S = \sum_i w_i / \lVert w \rVert$, a combination of $N$ members has $(N - \mathbb{E} S^2) / N$
    of the set's covariance. `spread` corrects for this,

    $$z = \hat\mu + \sqrt{\frac{N}{N - \mathbb{E} S^2}}
    \sum_i \frac{w_i}{\lVert w \rVert} (z_i - \hat\mu).$$

    Neighbours blend better: with `among`, the latents are drawn from the neighbourhood of a random
    member, including the member itself, and mean and $N$ are those of the neighbourhood. This is a
    Gaussian fitted locally.

    Args:
        references: $k \ge 2$, latents per combination.
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

    @property
    def _largest_share(self) -> float:
        return CAP if self.cap is None else self.cap

    def fit(self, inverted: InvertedSet) -> Fitted:
        mean = mean_and_variance(inverted.latents)[0].float()
        members = self.among or len(inverted.latents)
        scale = torch.tensor(spread(members, self.references, cap=self._largest_share))
        if self.among is None:
            return {"mean": mean, "scale": scale}
        table = neighbours(gram(inverted.latents, mean), self.among)
        return {"neighbours": table, "scale": scale}

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        if self.among is not None:
            return self._draw_locally(fitted, inverted, noise)
        index = noise.choice(len(inverted.latents), self.references)
        weights = self._weights(noise)
        latents = inverted.latents.take(index.flatten().tolist()).unflatten(0, index.shape)
        return torch.cat(
            [
                _combine(z, w, fitted["mean"], fitted["scale"])
                for z, w in zip(latents, weights, strict=True)
            ]
        )

    def _weights(self, noise: SampleNoise) -> Tensor:
        return capped_weights(noise, self.references, cap=self._largest_share)

    def _draw_locally(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        table = fitted["neighbours"]
        first = noise.choice(len(table), 1)[:, 0]
        chosen = noise.choice(table.shape[1], self.references)
        weights = self._weights(noise)
        drawn = []
        for members, places, w in zip(table[first], chosen, weights, strict=True):
            near = inverted.latents.take(members.tolist())
            drawn.append(_combine(near[places], w, near.mean(0), fitted["scale"]))
        return torch.cat(drawn)


def _combine(latents: Tensor, weights: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Combine latents, scaling the deviation from the mean, shape (1, C, H, W)."""
    return mean + scale * (combine(latents[None], weights[None], mean) - mean)


def spread(members: int, references: int, *, cap: float) -> float:
    r"""Scale of deviations from the mean of a set, $\sqrt{N / (N - \mathbb{E} S^2)}$.

    Two of $N$ members drawn without repetition have the covariance $-P / (N - 1)$, with $P$ that
    of one. Then $\sum_i v_i z_i$ with $\lVert v \rVert = 1$ has
    $P (1 - (S^2 - 1) / (N - 1)) = P (N - S^2) / (N - 1)$, and $P N / (N - 1)$ is the unbiased
    covariance of the set.

    Args:
        members: $N$, at least `references`.
        references: weights per combination.
        cap: of their shares, as for `capped_weights`.
    """
    return math.sqrt(members / (members - squared_sum(references, cap=cap)))


@cache
def squared_sum(count: int, *, cap: float) -> float:
    r"""$\mathbb{E} (\sum_i w_i)^2 / \lVert w \rVert^2$ for the weights of `capped_weights`.

    It is $1 + 2 (k - 1) / \pi$ without a cap, else simulated, to 0.002 for few weights.
    """
    if cap >= 1:
        return 1 + 2 * (count - 1) / math.pi
    draws = max(16, _NORMALS // count)
    weights = torch.randn(draws, count, generator=torch.Generator().manual_seed(0)).abs()
    kept = weights[largest_share(weights) <= cap].double()
    squares = kept.sum(1).square() / kept.square().sum(1)
    return float(squares.mean())


def capped_weights(noise: SampleNoise, count: int, *, cap: float) -> Tensor:
    r"""Draw weights whose shares are all at most a cap, shape (B, count).

    Absolute values of a standard normal vector have a uniform direction on the positive part of the
    sphere. Each stream draws until no share $w_i^2 / \sum_j w_j^2$ exceeds the cap, which keeps the
    direction uniform on what is left.

    Args:
        noise: one stream per sample.
        count: weights per sample.
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
    """Smallest cap met by at least one draw in a thousand, rounded up to three decimals."""
    # more weights have smaller shares: this cap is then too large, but memory stays bounded
    count = min(count, 256)
    normal = torch.randn(_DRAWS, count, generator=torch.Generator().manual_seed(0))
    share = float(largest_share(normal).quantile(_LEAST_ACCEPTED))
    return math.ceil(1000 * share) / 1000


def neighbours(products: Tensor, count: int) -> Tensor:
    """Indices of the members nearest to each, itself first, then by distance, shape (N, count).

    Args:
        products: inner products of the members about any centre, shape (N, N).
        count: members per row, itself included, in 1..N.
    """
    squares = products.diagonal()
    squared = squares[:, None] - 2 * products + squares
    squared.fill_diagonal_(-1)
    return squared.argsort(dim=1, stable=True)[:, :count].contiguous()
