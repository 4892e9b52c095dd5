"""Kernel distance between two feature sets (KID; Bińkowski et al., 2018)."""

import math
from collections.abc import Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor

from ood_sampler.metrics.base import Figures, SetMetric
from ood_sampler.metrics.feature_sets import check_sets, row_blocks
from ood_sampler.statistics.intervals import STANDARD_ERRORS, with_bounds
from ood_sampler.statistics.resampling import Interval


class KernelEstimate(NamedTuple):
    """An estimate of a squared maximum mean discrepancy, or of the difference of two.

    `value` may be negative.
    """

    value: Tensor
    standard_error: Tensor


class KernelTerms(NamedTuple):
    r"""An estimate and its variance: first order, of single vectors, and second, of pairs.

    If two distributions agree, no single vector tells them apart, and the first order is 0. Its
    estimate is unbiased and may be negative, which counts as 0. That of the second order is
    unbiased and at least 0.
    """

    value: Tensor
    first_order: Tensor
    second_order: Tensor

    @property
    def estimate(self) -> KernelEstimate:
        variance = self.first_order.clamp(min=0) + self.second_order
        return KernelEstimate(self.value, variance.sqrt())

    @property
    def interval(self) -> Interval:
        r"""95% interval of a distance (not of a difference), longer upwards than downwards.

        A small estimate comes with a small error, so a symmetric interval would miss a larger true
        distance in up to one case of five. Like Wilson's interval of a share (1927), this one holds
        all $\theta$ that are at most 1.96 errors *at* $\theta$ from $\hat\theta$, which grow with
        the distance. With $v$ the second order and $s$ the error of `estimate`, this error is

        $$\sqrt{v + b \max(\theta, 0)}, \qquad b = \frac{s^2}{\max(\hat\theta, 0) + \sqrt v}$$

        where $b$ is the ratio of first order to distance, pulled to $\sqrt v$ near 0, where it is
        unknown (its value for a shift if noise has eight equal dimensions).
        """
        value, null = float(self.value), math.sqrt(float(self.second_order))
        scale = max(value, 0.0) + null
        slope = float(self.estimate.standard_error) ** 2 / scale if scale > 0 else 0.0
        flat = STANDARD_ERRORS * null
        middle = value + STANDARD_ERRORS**2 * slope / 2
        reach = math.sqrt(max(middle**2 - value**2 + flat**2, 0.0))
        return Interval(
            value,
            value - flat if value < flat else middle - reach,
            value + flat if value < -flat else middle + reach,
        )


class WithinPairs(NamedTuple):
    r"""Sums of $k(x_i, x_j)$, $i \ne j$: of each row, $(n,)$, and of the squares of all, $()$."""

    rows: Tensor
    squares: Tensor

    @property
    def mean(self) -> Tensor:
        n = len(self.rows)
        return self.rows.sum() / (n * (n - 1))

    @property
    def variance(self) -> Tensor:
        r"""Second order of the variance of the mean, $2 \rho / (n (n - 1))$.

        $\rho$ is the variance of $k(x, x')$ that neither vector has alone, unbiased as the mean
        square of the U-centred matrix (Székely & Rizzo, 2014, prop. 1).
        """
        n, total = len(self.rows), self.rows.sum()
        alone = 2 * self.rows.square().sum() / (n - 2) - total.square() / ((n - 1) * (n - 2))
        interaction = (self.squares - alone) / (n * (n - 3))
        # equal vectors may give less than 0 by rounding
        return 2 * interaction.clamp(min=0) / (n * (n - 1))


class BetweenPairs(NamedTuple):
    r"""Sums of $k(x_i, y_j)$: of rows, $(n,)$, of columns, $(m,)$, and of all squares, $()$."""

    rows: Tensor
    columns: Tensor
    squares: Tensor

    @property
    def mean(self) -> Tensor:
        return self.rows.sum() / (len(self.rows) * len(self.columns))

    @property
    def variance(self) -> Tensor:
        r"""Second order as for `WithinPairs`, $\rho / (n m)$: the residual of a two-way layout."""
        n, m, total = len(self.rows), len(self.columns), self.rows.sum()
        alone = self.rows.square().sum() / m + self.columns.square().sum() / n
        residual = self.squares - alone + total.square() / (n * m)
        interaction = residual.clamp(min=0) / ((n - 1) * (m - 1))
        return interaction / (n * m)

    @property
    def swapped(self) -> Self:
        return self._replace(rows=self.columns, columns=self.rows)


def kernel_distance(x: Tensor, y: Tensor) -> Tensor:
    r"""Unbiased squared maximum mean discrepancy of both whole sets.

    $$\frac{\sum_{i \ne j} k(x_i, x_j)}{n (n - 1)} + \frac{\sum_{i \ne j} k(y_i, y_j)}{m (m - 1)}
    - \frac{2 \sum_{i, j} k(x_i, y_j)}{n m}, \qquad k(x, y) = (x^\top y / D + 1)^3$$

    (Gretton et al., 2012, eq. 3; Bińkowski et al., 2018, eq. 4). For two sets from one distribution
    its mean is 0, so it is negative about half of the time.

    Args:
        x: Shape $(n, D)$, $n \ge 2$.
        y: Shape $(m, D)$, $m \ge 2$.

    Returns:
        A float64 scalar.
    """
    check_sets(rows=2, x=x, y=y)
    return within_pairs(x).mean + within_pairs(y).mean - 2 * between_pairs(x, y).mean


def jackknife(x: Tensor, y: Tensor) -> KernelEstimate:
    """`kernel_distance` of the whole sets and its bias-corrected jackknife standard error.

    See `kernel_terms`, which has the interval too.
    """
    return kernel_terms(x, y).estimate


def kernel_terms(x: Tensor, y: Tensor) -> KernelTerms:
    r"""`kernel_distance` of the whole sets and the two orders of its variance.

    $$\frac{4 \zeta_x}{n} + \frac{4 \zeta_y}{m} \quad \text{and} \quad
    \frac{2 \rho_{xx}}{n (n - 1)} + \frac{2 \rho_{yy}}{m (m - 1)} + \frac{4 \rho_{xy}}{n m}$$

    (Hoeffding, 1948; Sutherland et al., 2017, app. A) with $\zeta_x$ the variance over $x$ of its
    mean kernel with $x'$ minus that with $y$, and $\rho$ as in `WithinPairs`. The jackknife
    estimates the first order without bias but counts the second twice (Efron & Stein, 1981), so the
    second is estimated separately and subtracted. No seed or order matters, as nothing is drawn,
    and this is the error of the reported value; the spread over random subsets would be that of a
    smaller set.

    Args:
        x: Shape $(n, D)$, $n \ge 4$.
        y: Shape $(m, D)$, $m \ge 4$.
    """
    check_sets(rows=4, x=x, y=y)
    return distance_terms(within_pairs(x), within_pairs(y), between_pairs(x, y))


def distance_terms(xx: WithinPairs, yy: WithinPairs, xy: BetweenPairs) -> KernelTerms:
    """Compute `kernel_terms` from sums over pairs, which several comparisons can share."""
    return KernelTerms(
        value=xx.mean + yy.mean - 2 * xy.mean,
        first_order=first_order(xx, xy) + first_order(yy, xy.swapped),
        second_order=xx.variance + yy.variance + 4 * xy.variance,
    )


def first_order(xx: WithinPairs, xy: BetweenPairs) -> Tensor:
    r"""Unbiased estimate of $4 \zeta_x / n$: the jackknife over $x$ minus the part of pairs."""
    n, m = len(xx.rows), len(xy.columns)
    jackknifed = mean_variance(2 * (xx.rows / (n - 2) - xy.rows / m))
    return jackknifed - 2 * (n - 1) / (n - 2) * xx.variance - 4 * xy.variance


def mean_variance(values: Tensor) -> Tensor:
    """Variance of the mean of independent values, shape $(n,)$."""
    return values.var() / len(values)


def within_pairs(x: Tensor) -> WithinPairs:
    """Sum the kernel over the pairs of distinct rows of `x`."""
    pairs = between_pairs(x, x)
    own = _self_kernel(x)
    return WithinPairs(pairs.rows - own, pairs.squares - own.square().sum())


def between_pairs(x: Tensor, y: Tensor) -> BetweenPairs:
    """Sum the kernel over the pairs of a row of `x` and one of `y`."""
    rows = torch.empty(len(x), dtype=torch.float64, device=x.device)
    columns = torch.zeros(len(y), dtype=torch.float64, device=x.device)
    squares = columns.new_zeros(())
    for block, kernel in _kernel_blocks(x, y):
        rows[block] = kernel.sum(dim=1)
        columns += kernel.sum(dim=0)
        squares += kernel.square_().sum()
    return BetweenPairs(rows, columns, squares)


def _kernel_blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    r"""Compute $k(x_i, y_j)$ for blocks of rows of `x`, float64, $(b, m)$, valid until the next."""
    y = y.double()
    for rows, values, room in row_blocks(x, columns=len(y)):
        torch.mm(values, y.T, out=room)
        yield rows, room.div_(y.shape[1]).add_(1).pow_(3)


def _self_kernel(x: Tensor) -> Tensor:
    """Compute $k(x_i, x_i)$, float64, shape $(n,)$."""
    squares: Tensor = torch.linalg.vecdot(x.double(), x.double())
    return (squares / x.shape[1] + 1) ** 3


class KernelDistance(SetMetric):
    """KID: `kernel_terms` of generated and held-out images, with standard error and interval."""

    higher_is_better = False
    sets = ("generated", "held_out")

    def figures(self, *, generated: Tensor, held_out: Tensor) -> Figures:
        terms = kernel_terms(generated, held_out)
        return {
            **with_bounds({"kid": terms.interval}),
            "kid_standard_error": float(terms.estimate.standard_error),
        }
