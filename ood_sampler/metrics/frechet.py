"""Fréchet distance between the Gaussians of two feature sets (FID; Heusel et al., 2017)."""

from typing import NamedTuple

import torch
from torch import Tensor

from ood_sampler.metrics.base import Figures, SetMetric
from ood_sampler.metrics.feature_sets import check_sets
from ood_sampler.metrics.intervals import normal_interval, with_bounds

# Of what is in float64 at a time, so that it stays in the processor's cache.
_ROWS = 512
# Of a symmetric product that are computed at a time, from the diagonal downwards.
_COLUMNS = 128


class FrechetEstimate(NamedTuple):
    """An estimate of a Fréchet distance, float64 scalars."""

    value: Tensor
    standard_error: Tensor


def frechet_distance(mean_p: Tensor, cov_p: Tensor, mean_q: Tensor, cov_q: Tensor) -> Tensor:
    r"""Squared Fréchet (2-Wasserstein) distance between two Gaussians.

    $$\|\mu_p - \mu_q\|^2 + \operatorname{tr}(C_p + C_q)
    - 2 \operatorname{tr}(C_p^{1/2} C_q C_p^{1/2})^{1/2}$$

    (Heusel et al., 2017, eq. 6). With $C = F F^\top$ the last trace is the sum of the singular
    values of $F_p^\top F_q$, which needs no matrix square root and is accurate for singular $C$.

    Args:
        mean_p: Shape $(D,)$.
        cov_p: Symmetric, positive semidefinite, shape $(D, D)$.
        mean_q: As `mean_p`.
        cov_q: As `cov_p`.

    Returns:
        A float64 scalar, at least 0.
    """
    mean_p, cov_p, mean_q, cov_q = (a.double() for a in (mean_p, cov_p, mean_q, cov_q))
    cross: Tensor = torch.linalg.svdvals(_factor(cov_p).T @ _factor(cov_q)).sum()
    distance: Tensor = (mean_p - mean_q).square().sum() + cov_p.trace() + cov_q.trace() - 2 * cross
    return distance.clamp(min=0)


def _factor(cov: Tensor) -> Tensor:
    r"""Find $F$ of shape $(D, r)$ with $F F^\top$ equal to `cov`, of rank $r$."""
    triangle: Tensor
    triangle, failed = torch.linalg.cholesky_ex(cov)
    tiny = len(cov) * torch.finfo(cov.dtype).eps
    pivots = triangle.diagonal().square()
    # rounding lets some singular matrices pass, with the root of an error as a pivot
    if not failed and pivots.min() > tiny * pivots.max():
        return triangle
    values, vectors = torch.linalg.eigh(cov)
    # Rounding moves zero eigenvalues by about this much; its root would add up over D - r of them.
    kept = values > values[-1] * tiny
    factor: Tensor = vectors[:, kept] * values[kept].sqrt()
    return factor


def infinitesimal_jackknife(x: Tensor, y: Tensor) -> FrechetEstimate:
    r"""`frechet_distance` of two sets and its infinitesimal jackknife standard error.

    $$s^2 = \frac{\operatorname{var}(g)}{n} + \frac{\operatorname{var}(h)}{m}, \qquad
    g_i = 2 (\mu_x - \mu_y)^\top c_i + \|c_i\|^2 - c_i^\top T c_i, \quad c_i = x_i - \mu_x$$

    (Jaeckel, 1972) with $g_i$ the derivative by the weight of $x_i$, where
    $T = C_x^{-1/2} (C_x^{1/2} C_y C_x^{1/2})^{1/2} C_x^{-1/2}$ carries one Gaussian to the other,
    and $h$ the same with the sets exchanged. Resampled sets would add a bias of their own to that
    of the distance, which is large already; this draws none. It is the error of the distance at
    these sizes, which does not hold what more images would lower it by, and errs upward where both
    distributions agree.

    Args:
        x: Shape $(n, D)$, $n \ge 2$.
        y: Shape $(m, D)$, $m \ge 2$.
    """
    check_sets(rows=2, x=x, y=y)
    moments = [(features.mean(dim=0), features.T.cov()) for features in (x.double(), y.double())]
    (mean_x, cov_x), (mean_y, cov_y) = moments
    factor_x, factor_y = _factor(cov_x), _factor(cov_y)
    left, singular, right = torch.linalg.svd(factor_x.T @ factor_y, full_matrices=False)
    variance = _influence_variance(x.double() - mean_x, mean_x - mean_y, factor_x, left, singular)
    variance += _influence_variance(
        y.double() - mean_y, mean_y - mean_x, factor_y, right.T, singular
    )
    return FrechetEstimate(frechet_distance(mean_x, cov_x, mean_y, cov_y), variance.sqrt())


def _influence_variance(
    centred: Tensor, shift: Tensor, factor: Tensor, directions: Tensor, singular: Tensor
) -> Tensor:
    white = torch.linalg.lstsq(factor, centred.T).solution
    carried = (directions.T @ white).square().T @ singular
    influence = 2 * centred @ shift + centred.square().sum(dim=1) - carried
    variance: Tensor = influence.var() / len(centred)
    return variance


class FrechetDistance(SetMetric):
    """FID: `infinitesimal_jackknife` of generated against held-out images, with its interval.

    Biased upward for small sets: state the sizes beside each figure.
    """

    higher_is_better = False
    sets = ("generated", "held_out")

    def figures(self, *, generated: Tensor, held_out: Tensor) -> Figures:
        distance = infinitesimal_jackknife(generated, held_out)
        return with_bounds({"fid": normal_interval(*distance)})


def _accumulate(features: Tensor, total: Tensor, outer: Tensor) -> None:
    """Add the sum of vectors and that of the lower halves of their outer products, in float64."""
    for rows in features.split(_ROWS):
        block = rows.double()
        total += block.sum(dim=0)
        for first in range(0, block.shape[1], _COLUMNS):
            columns = slice(first, first + _COLUMNS)
            outer[first:, columns].addmm_(block[:, first:].T, block[:, columns])


def _moments(total: Tensor, outer: Tensor, count: Tensor, *, name: str) -> tuple[Tensor, Tensor]:
    """Turn sums into mean and unbiased covariance; of `outer` the lower half is read."""
    if count < 2:
        raise ValueError(f"{name} must hold at least 2 vectors for a covariance, got {int(count)}")
    mean = total / count
    outer = outer.tril() + outer.tril(-1).T
    return mean, (outer - count * torch.outer(mean, mean)) / (count - 1)
