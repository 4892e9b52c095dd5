"""Fréchet distance between the Gaussians of two feature sets (FID; Heusel et al., 2017)."""

from typing import NamedTuple

import torch
from torch import Tensor

from ood_sampler.metrics.base import Figures, SetMetric
from ood_sampler.metrics.feature_sets import check_sets
from ood_sampler.metrics.intervals import normal_interval, with_bounds


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
    triangle = _triangle(cov)
    if triangle is not None:
        return triangle
    values, vectors = torch.linalg.eigh(cov)
    # Rounding moves zero eigenvalues by about this much; its root would add up over D - r of them.
    kept = values > values[-1] * _tiny(cov)
    factor: Tensor = vectors[:, kept] * values[kept].sqrt()
    return factor


def _triangle(cov: Tensor) -> Tensor | None:
    """Factor a matrix of full rank after Cholesky; None if it has less."""
    triangle: Tensor
    triangle, failed = torch.linalg.cholesky_ex(cov)
    pivots = triangle.diagonal().square()
    # rounding lets some singular matrices pass, with the root of an error as a pivot
    whole = not failed and pivots.min() > _tiny(cov) * pivots.max()
    return triangle if whole else None


def _tiny(cov: Tensor) -> float:
    return len(cov) * torch.finfo(cov.dtype).eps


class _Whitened(NamedTuple):
    r"""A centred set as $F W$: $F$ of shape $(D, r)$ with $F F^\top$ its covariance, $W$ white."""

    factor: Tensor
    white: Tensor


def _whitened(centred: Tensor) -> _Whitened:
    """Factor the covariance of a centred set, shape $(n, D)$, and whiten the set with it."""
    count, width = centred.shape
    if count > width:
        triangle = _triangle(centred.T.cov())
        if triangle is not None:
            return _Whitened(
                triangle, torch.linalg.solve_triangular(triangle, centred.T, upper=False)
            )
    # of fewer vectors than dimensions, or in a subspace: far smaller than the covariance
    left, values, right = torch.linalg.svd(centred, full_matrices=False)
    kept = values.square() > values[0].square() * width * torch.finfo(centred.dtype).eps
    scale = (count - 1) ** 0.5
    return _Whitened(right[kept].T * values[kept] / scale, scale * left[:, kept].T)


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
    x, y = x.double(), y.double()
    shift = x.mean(dim=0) - y.mean(dim=0)
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    of_x, of_y = _whitened(x), _whitened(y)
    left, singular, right = torch.linalg.svd(of_x.factor.T @ of_y.factor, full_matrices=False)
    distance = shift.square().sum() - 2 * singular.sum()
    variance = torch.zeros_like(distance)
    for centred, apart, white, directions in (
        (x, shift, of_x.white, left.T),
        (y, -shift, of_y.white, right),
    ):
        energy = centred.square().sum(dim=1)
        distance += energy.sum() / (len(centred) - 1)
        influence = 2 * centred @ apart + energy - (directions @ white).square().T @ singular
        variance += influence.var() / len(centred)
    return FrechetEstimate(distance.clamp(min=0), variance.sqrt())


class FrechetDistance(SetMetric):
    """FID: `infinitesimal_jackknife` of generated against held-out images, with its interval.

    Biased upward for small sets: state the sizes beside each figure.
    """

    higher_is_better = False
    sets = ("generated", "held_out")

    def figures(self, *, generated: Tensor, held_out: Tensor) -> Figures:
        distance = infinitesimal_jackknife(generated, held_out)
        return with_bounds({"fid": normal_interval(*distance)})
