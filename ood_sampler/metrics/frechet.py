"""Fréchet distance between the Gaussians of two feature sets (FID; Heusel et al., 2017)."""

from typing import NamedTuple

import torch
from torch import Tensor

from ood_sampler.metrics.base import Figures, SetMetric
from ood_sampler.metrics.feature_sets import check_sets
from ood_sampler.statistics.intervals import normal_interval, with_bounds


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
    # rounding lets some singular matrices pass, with the root of a rounding error as a pivot
    if not failed and pivots.min() > tiny * pivots.max():
        return triangle
    values, vectors = torch.linalg.eigh(cov)
    # Rounding moves zero eigenvalues by about this much; the roots of D - r of them would add up.
    kept = values > values[-1] * tiny
    factor: Tensor = vectors[:, kept] * values[kept].sqrt()
    return factor


def infinitesimal_jackknife(x: Tensor, y: Tensor) -> FrechetEstimate:
    r"""`frechet_distance` of two sets and its infinitesimal jackknife standard error.

    $$s^2 = \frac{\operatorname{var}(g)}{n} + \frac{\operatorname{var}(h)}{m}, \qquad
    g_i = 2 (\mu_x - \mu_y)^\top c_i + \|c_i\|^2 - c_i^\top T c_i, \quad c_i = x_i - \mu_x$$

    (Jaeckel, 1972). Here $g_i$ is the derivative by the weight of $x_i$, where
    $T = C_x^{-1/2} (C_x^{1/2} C_y C_x^{1/2})^{1/2} C_x^{-1/2}$ carries one Gaussian to the other,
    and $h$ is the same with the sets exchanged. With $X$ and $Y$ the centred vectors over
    $\sqrt{n - 1}$ and $\sqrt{m - 1}$ and $X Y^\top = A \Sigma B^\top$, the last term is
    $(n - 1) (A \Sigma A^\top)_{ii}$, without making or inverting a covariance. A bootstrap would
    add its own bias to that of the distance, which is already large.

    This is the error of the distance *at these sizes*, and the interval is about that distance: it
    does not say how much more images would lower it. If both distributions agree, the error is 1.2
    to 1.5 times too large; otherwise it is right to a tenth for features of a network. (Simulated
    coverage: `experiments/intervals`.)

    Args:
        x: Shape $(n, D)$, $n \ge 2$.
        y: Shape $(m, D)$, $m \ge 2$.
    """
    check_sets(rows=2, x=x, y=y)
    mean_x, mean_y = (features.double().mean(dim=0) for features in (x, y))
    centred_x, centred_y = x.double() - mean_x, y.double() - mean_y
    left, singular, right = _product_svd(
        *(centred / (len(centred) - 1) ** 0.5 for centred in (centred_x, centred_y))
    )
    shift = mean_x - mean_y
    traces = sum(c.square().sum() / (len(c) - 1) for c in (centred_x, centred_y))
    value = (shift.square().sum() + traces - 2 * singular.sum()).clamp(min=0)
    variance = _influence_variance(centred_x, shift, left, singular)
    variance += _influence_variance(centred_y, -shift, right, singular)
    return FrechetEstimate(value, variance.sqrt())


def _product_svd(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Find $A$, the diagonal of $\Sigma$, and $B$ of $X Y^\top = A \Sigma B^\top$."""
    if min(len(x), len(y)) <= x.shape[1]:
        left, singular, right = torch.linalg.svd(x @ y.T, full_matrices=False)
        return left, singular, right.T
    # a matrix of at most D rows and columns between orthogonal bases
    (basis_x, factor_x), (basis_y, factor_y) = torch.linalg.qr(x), torch.linalg.qr(y)
    left, singular, right = torch.linalg.svd(factor_x @ factor_y.T)
    return basis_x @ left, singular, basis_y @ right.T


def _influence_variance(
    centred: Tensor, shift: Tensor, directions: Tensor, singular: Tensor
) -> Tensor:
    carried = (len(centred) - 1) * directions.square() @ singular
    influence = 2 * centred @ shift + centred.square().sum(dim=1) - carried
    variance: Tensor = influence.var() / len(centred)
    return variance


class FrechetDistance(SetMetric):
    """FID: `infinitesimal_jackknife` of generated against held-out images, with its interval.

    Biased upward for small sets: state the sizes with each value.
    """

    higher_is_better = False
    sets = ("generated", "held_out")

    def figures(self, *, generated: Tensor, held_out: Tensor) -> Figures:
        distance = infinitesimal_jackknife(generated, held_out)
        return with_bounds({"fid": normal_interval(*distance)})
