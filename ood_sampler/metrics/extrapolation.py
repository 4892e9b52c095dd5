"""Fréchet distance of endless sets, extrapolated (Chong & Forsyth, 2020)."""

import torch
from torch import Tensor
from torchmetrics import Metric

from ood_sampler.metrics.feature_sets import check_sets, stack, subsample
from ood_sampler.metrics.frechet import FrechetEstimate, frechet_distance, infinitesimal_jackknife

_SMALLEST = 0.5
"""Share of the vectors in the smallest subsets."""

VECTORS_A_FEATURE = 4
"""Fewest vectors for each feature, of which the smallest subsets have two: below, their covariances
are nearly singular and the law fails."""


def frechet_limit(x: Tensor, y: Tensor, *, points: int = 8, seed: int = 0) -> FrechetEstimate:
    r"""Extrapolate the Fréchet distance of two sets to endless ones.

    Its bias falls like $1/N$ (Chong & Forsyth, 2020, sec. 3.2). Random subsets of both sets, a
    share $f$ of each, therefore lie on $d(f) = d_\infty + b / f$; the line of least squares through
    `points` of them, evenly spaced in $1/f$ from 1 to 2, gives $d_\infty$. (The original shrinks
    the generated set alone, as its real set is large.) The limit may be below 0.

    The standard error is that of the fit and that of the distance of the whole sets,
    `infinitesimal_jackknife`, whose leading term does not depend on $f$, together.

    Args:
        x: Shape $(n, D)$, $n \ge 4 D$.
        y: Shape $(m, D)$, $m \ge 4 D$.
        points: At least 3.
        seed: Of the subsets; they do not depend on the order of the vectors.

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
    """Intercept of the line of least squares, and the variance of its estimate."""
    centred = abscissa - abscissa.mean()
    spread = centred.square().sum()
    slope = (centred @ ordinate) / spread
    intercept = ordinate.mean() - slope * abscissa.mean()
    residual = (ordinate - intercept - slope * abscissa).square().sum() / (len(abscissa) - 2)
    return intercept, residual * (1 / len(abscissa) + abscissa.mean().square() / spread)


class FrechetLimit(Metric):
    """`frechet_limit` of all generated and all real features.

    `compute` returns a `FrechetEstimate`.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    real: list[Tensor]
    generated: list[Tensor]

    def __init__(self, *, points: int = 8, seed: int = 0) -> None:
        super().__init__()
        self.points = points
        self.seed = seed
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("generated", [], dist_reduce_fx="cat")

    def update(self, features: Tensor, *, real: bool) -> None:
        """Add features of shape $(B, D)$."""
        (self.real if real else self.generated).append(features.detach())

    def compute(self) -> FrechetEstimate:
        return frechet_limit(
            stack(self.generated, name="generated"),
            stack(self.real, name="real"),
            points=self.points,
            seed=self.seed,
        )
