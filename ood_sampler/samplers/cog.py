"""Linear combinations that keep the Gaussian of the inverted set, or of a part of it."""

import torch
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.latents.geometry import combine, gram
from ood_sampler.latents.store import mean_and_variance
from ood_sampler.samplers.base import Fitted, InvertedSet, Sampler


class CogSampler(Sampler):
    r"""Combine inverted latents and correct mean and covariance (Bodin et al., 2024).

    $k$ latents are drawn without repetition; their weights are the absolute values of a standard
    normal vector, so that $w / \lVert w \rVert$ is uniform on the positive part of the sphere
    (for two: the angle between them is uniform in $[0, \pi/2]$).

    Neighbours blend better: with `among`, the latents are drawn from the neighbourhood of a random
    member, itself and those nearest to it, and the mean is that of the neighbourhood. It is a
    Gaussian fitted locally.

    Args:
        references: $k \ge 2$, latents a combination.
        among: members of a neighbourhood, at least `references`; None takes the whole set.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, references: int, *, among: int | None = None) -> None:
        if references < 2:
            raise ValueError(f"references must be >= 2, got {references}")
        if among is not None and not (isinstance(among, int) and among >= references):
            raise ValueError(
                f"among must be >= references={references}, or null, got {among!r}: they are drawn "
                "from so many"
            )
        self.references = references
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
        weights = noise.normal(self.references).abs()
        latents = inverted.latents.take(index.flatten().tolist()).unflatten(0, index.shape)
        return torch.cat(
            [
                combine(z[None], w[None], fitted["mean"])
                for z, w in zip(latents, weights, strict=True)
            ]
        )

    def _draw_locally(self, table: Tensor, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        first = noise.choice(len(table), 1)[:, 0]
        chosen = noise.choice(table.shape[1], self.references)
        weights = noise.normal(self.references).abs()
        drawn = []
        for members, places, w in zip(table[first], chosen, weights, strict=True):
            near = inverted.latents.take(members.tolist())
            drawn.append(combine(near[None, places], w[None], near.mean(0)))
        return torch.cat(drawn)


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
