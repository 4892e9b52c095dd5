"""The Gaussian of the inverted set, with its leading correlations."""

import math

import torch
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.latents.geometry import gram
from ood_sampler.samplers.base import Fitted, InvertedSet, Sampler
from ood_sampler.statistics.moments import mean_and_variance

_FOLDS = 5


class LowRankSampler(Sampler):
    r"""Probabilistic PCA: draw from $\mathcal{N}(\mu, U \Lambda U^\top + s^2 I)$.

    With the eigenvalues $\lambda_j$ of the sample covariance in $d$ dimensions and rank $q$,
    $s^2 = \sum_{j>q} \lambda_j / (d - q)$ and $\Lambda_j = \lambda_j - s^2$
    (Tipping & Bishop, 1999, eq. 8). The eigenvectors come from the $N \times N$ Gram matrix,
    without any $d \times d$ matrix.

    Directions that the set cannot tell from noise take variance from all others. With $q = N - 1$
    nothing is left for the others: draws then lie in the span of the set. So the rank is that of
    the highest likelihood of held-out latents (`best_rank`), at most $N - 2$.

    Args:
        rank: number of principal directions, >= 1; None chooses it by cross-validation.

    Raises:
        ValueError: `rank` is below 1.
    """

    def __init__(self, rank: int | None) -> None:
        if rank is not None and not (isinstance(rank, int) and rank >= 1):
            raise ValueError(f"rank must be >= 1, or null, got {rank!r}")
        self.rank = rank

    @property
    def minimum_images(self) -> int:
        return 3

    def fit(self, inverted: InvertedSet) -> Fitted:
        latents = inverted.latents
        n = len(latents)
        mean, variance = mean_and_variance(latents)
        d = mean.numel()
        products = gram(latents, mean)
        rank = best_rank(products, d) if self.rank is None else min(self.rank, n - 2, d - 1)
        values, vectors = torch.linalg.eigh(products / (n - 1))
        values, vectors = values.flip(0)[:rank], vectors.flip(1)[:, :rank]
        noise_variance = ((variance.sum() - values.sum()) / (d - rank)).clamp(min=0)
        # u_j = X^T v_j / sqrt((n - 1) lambda_j); scaled at once by sqrt(Lambda_j)
        gain = (values - noise_variance).clamp(min=0) / (values * (n - 1)).clamp(min=1e-30)
        directions = torch.zeros(rank, d, dtype=torch.float64)
        start = 0
        for block in latents.blocks():
            centred = block.double().flatten(1) - mean.flatten()
            directions += vectors[start : start + len(block)].T @ centred
            start += len(block)
        return {
            "mean": mean.float(),
            "factors": (gain.sqrt()[:, None] * directions).float().reshape(rank, *mean.shape),
            "noise_std": noise_variance.sqrt().float(),
        }

    def remarks(self, fitted: Fitted) -> list[str]:
        if self.rank is not None:
            return []
        return [
            f"lowrank: {len(fitted['factors'])} principal directions, with which latents left out "
            "are likeliest"
        ]

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        factors = fitted["factors"].flatten(1)
        coordinates = noise.normal(1, len(factors))
        white = noise.normal(*fitted["mean"].shape)
        # one product per item: a batched one may round differently in another batch
        drawn = torch.cat([row @ factors for row in coordinates]).reshape(white.shape)
        return fitted["mean"] + drawn + fitted["noise_std"] * white


def best_rank(products: Tensor, d: int) -> int:
    """Find the rank with the highest likelihood of held-out latents, the smallest in a tie.

    Each of five parts of the set is held out once (`held_out_log_likelihoods`). The rank may be 0.

    Args:
        products: inner products of the set about any centre, shape (N, N), float64, N >= 3.
        d: dimension of a latent.
    """
    n = len(products)
    folds = min(_FOLDS, n)
    fold = torch.randperm(n, generator=torch.Generator().manual_seed(0)) % folds
    found = [held_out_log_likelihoods(products, d, out=fold == k) for k in range(folds)]
    ranks = min(len(values) for values in found)
    total = torch.stack([values[:ranks] for values in found]).sum(0)
    return int(total.argmax())


def held_out_log_likelihoods(products: Tensor, d: int, *, out: Tensor) -> Tensor:
    r"""Log-likelihood of latents under probabilistic PCA of the others, for each rank, float64.

    With projections $p_j$ of $x - \mu$ on the directions,

    $$-2 \log p(x) = \sum_{j \le q} \Big(\log \lambda_j + \frac{p_j^2}{\lambda_j}\Big)
    + (d - q) \log s^2 + \frac{\lVert x - \mu \rVert^2 - \sum_{j \le q} p_j^2}{s^2}
    + d \log 2\pi.$$

    Args:
        products: inner products of the set about any centre, shape (N, N), float64.
        d: dimension of a latent.
        out: which latents are held out, shape (N,); at least two are not.

    Returns:
        Sums over the held-out latents, for ranks from 0 to the number of others minus two, and
        below $d$.
    """
    tiny = torch.finfo(products.dtype).tiny
    own, other = products[~out][:, ~out], products[out][:, ~out]
    m = len(own)
    at_mean = own.mean(0)
    values, vectors = torch.linalg.eigh(
        (own - at_mean - at_mean[:, None] + at_mean.mean()) / (m - 1)
    )
    values, vectors = values.flip(0)[: m - 1].clamp(min=tiny), vectors.flip(1)[:, : m - 1]
    beside = other - at_mean - other.mean(1, keepdim=True) + at_mean.mean()
    squares = (beside @ vectors).square().sum(0) / ((m - 1) * values)
    distance = (products.diagonal()[out] - 2 * other.mean(1) + at_mean.mean()).sum()
    count, ranks = len(other), min(m - 1, d)
    dimensions = d - torch.arange(ranks)
    noise = values.flip(0).cumsum(0).flip(0)[:ranks] / dimensions
    inside = _before(count * values.log() + squares / values, ranks)
    left = (distance - _before(squares, ranks)).clamp(min=0)
    outside = count * dimensions * noise.log() + left / noise
    total: Tensor = -0.5 * (inside + outside + count * d * math.log(2 * math.pi))
    return total


def _before(terms: Tensor, count: int) -> Tensor:
    """Sums of the first 0, 1, ... terms, shape (count,)."""
    return torch.cat([terms.new_zeros(1), terms.cumsum(0)])[:count]
