"""Fréchet distance extrapolated to infinite sets (Chong & Forsyth, 2020)."""

import torch
from torch import Tensor

from ood_sampler.metrics.base import Figures, SetMetric
from ood_sampler.metrics.feature_sets import check_sets, subsample
from ood_sampler.metrics.frechet import FrechetEstimate, frechet_distance, infinitesimal_jackknife
from ood_sampler.statistics.intervals import normal_interval, with_bounds

_SMALLEST = 0.5
"""Share of the vectors in the smallest subsets."""

VECTORS_A_FEATURE = 4
"""Fewest vectors per feature. The smallest subsets then have two per feature; with fewer, their
covariances are nearly singular and the law fails."""


def frechet_limit(x: Tensor, y: Tensor, *, points: int = 8, seed: int = 0) -> FrechetEstimate:
    r"""Extrapolate the Fréchet distance of two sets to infinite sets.

    Its bias falls like $1/N$ (Chong & Forsyth, 2020, sec. 3.2). Random subsets of both sets, a
    share $f$ of each, therefore lie on $d(f) = d_\infty + b / f$; the line of least squares through
    `points` of them, evenly spaced in $1/f$ from 1 to 2, gives $d_\infty$. (The original shrinks
    the generated set alone, as its real set is large.) The limit may be below 0.

    The standard error combines that of the fit and that of the distance of the whole sets
    (`infinitesimal_jackknife`), whose leading term does not depend on $f$.

    Args:
        x: Shape $(n, D)$, $n \ge 4 D$.
        y: Shape $(m, D)$, $m \ge 4 D$.
        points: Number of subset sizes, at least 3.
        seed: Of the subsets, which do not depend on the order of the vectors.

    Raises:
        ValueError: A set is too small for the law, or there are too few points.
    """
    check_sets(rows=VECTORS_A_FEATURE * x.shape[-1], x=x, y=y)
    if points < 3:
        raise ValueError(f"points must be >= 3, got {points}: a line through 2 has no error")
    whole = infinitesimal_jackknife(x, y)
    inverse = torch.linspace(1, 1 / _SMALLEST, points, dtype=torch.float64)
    distances = [whole.value]
    for k, reciprocal in enumerate(inverse[1:].tolist()):
        first, second = (
            subsample(features, round(len(features) / reciprocal), seed=points * seed + k)
            for features in (x, y)
        )
        distances.append(_distance(first, second))
    limit, variance = _intercept(inverse.to(x.device), torch.stack(distances))
    return FrechetEstimate(limit, (variance + whole.standard_error.square()).sqrt())


def _distance(x: Tensor, y: Tensor) -> Tensor:
    mean_x, mean_y = (features.double().mean(dim=0) for features in (x, y))
    cov_x, cov_y = (features.double().T.cov() for features in (x, y))
    return frechet_distance(mean_x, cov_x, mean_y, cov_y)


def _intercept(abscissa: Tensor, ordinate: Tensor) -> tuple[Tensor, Tensor]:
    """Intercept of the least-squares line, and the variance of its estimate."""
    centred = abscissa - abscissa.mean()
    spread = centred.square().sum()
    slope = (centred @ ordinate) / spread
    intercept = ordinate.mean() - slope * abscissa.mean()
    residual = (ordinate - intercept - slope * abscissa).square().sum() / (len(abscissa) - 2)
    return intercept, residual * (1 / len(abscissa) + abscissa.mean().square() / spread)


class FrechetLimit(SetMetric):
    """FID of infinite sets: `frechet_limit` of generated and held-out images, with its interval.

    Left out for sets with fewer than `VECTORS_A_FEATURE` vectors per feature.

    Args:
        points: as for `frechet_limit`.
        seed: of the subsets.
    """

    higher_is_better = False
    sets = ("generated", "held_out")

    def __init__(self, *, points: int = 8, seed: int) -> None:
        super().__init__()
        self.points = points
        self.seed = seed

    def figures(self, *, generated: Tensor, held_out: Tensor) -> Figures:
        if min(len(generated), len(held_out)) < VECTORS_A_FEATURE * generated.shape[1]:
            return {}
        limit = frechet_limit(generated, held_out, points=self.points, seed=self.seed)
        return with_bounds({"fid_infinity": normal_interval(*limit)})
