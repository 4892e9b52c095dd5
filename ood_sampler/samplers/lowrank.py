"""The Gaussian of the inverted set, with its leading correlations."""

import torch
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.latents.geometry import gram
from ood_sampler.latents.store import mean_and_variance
from ood_sampler.samplers.base import Fitted, InvertedSet, Sampler


class LowRankSampler(Sampler):
    r"""Probabilistic PCA: draw from $\mathcal{N}(\mu, U \Lambda U^\top + s^2 I)$.

    With the eigenvalues $\lambda_j$ of the sample covariance in $d$ dimensions and rank $q$,
    $s^2 = \sum_{j>q} \lambda_j / (d - q)$ and $\Lambda_j = \lambda_j - s^2$
    (Tipping & Bishop, 1999, eq. 8). The eigenvectors come from the $N \times N$ Gram matrix, so
    that no $d \times d$ matrix is ever made.

    Args:
        rank: number of principal directions, >= 1; at most the number of pictures less one is used.

    Raises:
        ValueError: `rank` is below 1.
    """

    def __init__(self, rank: int) -> None:
        if rank < 1:
            raise ValueError(f"rank must be >= 1, got {rank}")
        self.rank = rank

    @property
    def minimum_images(self) -> int:
        return 2

    def fit(self, inverted: InvertedSet) -> Fitted:
        latents = inverted.latents
        n = len(latents)
        mean, variance = mean_and_variance(latents)
        d = mean.numel()
        values, vectors = torch.linalg.eigh(gram(latents, mean) / (n - 1))
        rank = min(self.rank, n - 1, d - 1)
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

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        factors = fitted["factors"].flatten(1)
        coordinates = noise.normal(1, len(factors))
        white = noise.normal(*fitted["mean"].shape)
        # one product an item: a batched one may round differently in another batch
        drawn = torch.cat([row @ factors for row in coordinates]).reshape(white.shape)
        return fitted["mean"] + drawn + fitted["noise_std"] * white
