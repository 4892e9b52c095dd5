"""Kernel distance between two feature sets (KID; Bińkowski et al., 2018)."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ood_sampler.metrics.base import Figures, SetMetric
from ood_sampler.metrics.feature_sets import check_sets, row_blocks
from ood_sampler.metrics.intervals import normal_interval, with_bounds


class KernelEstimate(NamedTuple):
    """An estimate of a squared maximum mean discrepancy; `value` may be negative."""

    value: Tensor
    standard_error: Tensor


class _KernelSums(NamedTuple):
    """Row sums of $k$ within $x$ and $y$ (a row's own entry left out), and between the two."""

    xx: Tensor
    yy: Tensor
    xy: Tensor
    yx: Tensor

    def value(self) -> Tensor:
        n, m = len(self.xx), len(self.yy)
        within = self.xx.sum() / (n * (n - 1)) + self.yy.sum() / (m * (m - 1))
        return within - 2 * self.xy.sum() / (n * m)


def kernel_distance(x: Tensor, y: Tensor) -> Tensor:
    r"""Unbiased squared maximum mean discrepancy over the whole of both sets.

    $$\frac{\sum_{i \ne j} k(x_i, x_j)}{n (n - 1)} + \frac{\sum_{i \ne j} k(y_i, y_j)}{m (m - 1)}
    - \frac{2 \sum_{i, j} k(x_i, y_j)}{n m}, \qquad k(x, y) = (x^\top y / D + 1)^3$$

    (Gretton et al., 2012, eq. 3; Bińkowski et al., 2018, eq. 4). Its mean over draws from one
    distribution is 0, so it is negative about half of the time there.

    Args:
        x: Shape $(n, D)$, $n \ge 2$.
        y: Shape $(m, D)$, $m \ge 2$.

    Returns:
        A float64 scalar.
    """
    check_sets(rows=2, x=x, y=y)
    return _kernel_sums(x, y).value()


def jackknife(x: Tensor, y: Tensor) -> KernelEstimate:
    r"""`kernel_distance` $\theta$ of the whole sets and its jackknife standard error.

    $$s^2 = \frac{n-1}{n} \sum_i (\theta_{-x_i} - \bar\theta_{-x})^2
    + \frac{m-1}{m} \sum_j (\theta_{-y_j} - \bar\theta_{-y})^2$$

    over the subsets that leave one vector out (Efron & Stein, 1981). Exact subsets, not drawn, make
    it free of seeds and order, and it is the error of the value reported: the spread over random
    subsets is that of a smaller set. It errs upward (at most by $\sqrt 2$) where both
    distributions agree.

    Args:
        x: Shape $(n, D)$, $n \ge 3$.
        y: Shape $(m, D)$, $m \ge 3$.
    """
    check_sets(rows=3, x=x, y=y)
    sums = _kernel_sums(x, y)
    # Leaving x_i out takes its row and its column from the first sum, its row from the last.
    mirrored = _KernelSums(xx=sums.yy, yy=sums.xx, xy=sums.yx, yx=sums.xy)
    variance = _leave_one_out_variance(sums) + _leave_one_out_variance(mirrored)
    return KernelEstimate(sums.value(), variance.sqrt())


def _leave_one_out_variance(sums: _KernelSums) -> Tensor:
    """Jackknife variance from leaving out each vector of the first set (the rest is constant)."""
    n, m = len(sums.xx), len(sums.yy)
    within = (sums.xx.sum() - 2 * sums.xx) / ((n - 1) * (n - 2))
    between = (sums.xy.sum() - sums.xy) / ((n - 1) * m)
    estimates = within - 2 * between
    return (estimates - estimates.mean()).square().sum() * (n - 1) / n


def kernel_blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    r"""Compute $k(x_i, y_j)$ for some rows of `x` at a time, float64, $(b, m)$, until the next."""
    y = y.double()
    for rows, values, room in row_blocks(x, columns=len(y)):
        torch.mm(values, y.T, out=room)
        yield rows, room.div_(y.shape[1]).add_(1).pow_(3)


def _kernel_sums(x: Tensor, y: Tensor) -> _KernelSums:
    xy, yx = _row_sums(x, y)
    return _KernelSums(
        xx=_row_sums(x, x)[0] - self_kernel(x),
        yy=_row_sums(y, y)[0] - self_kernel(y),
        xy=xy,
        yx=yx,
    )


def _row_sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Sum $k(x_i, y_j)$ over $j$, shape $(n,)$, and over $i$, shape $(m,)$."""
    over_y = torch.empty(len(x), dtype=torch.float64, device=x.device)
    over_x = torch.zeros(len(y), dtype=torch.float64, device=x.device)
    for rows, kernel in kernel_blocks(x, y):
        over_y[rows] = kernel.sum(dim=1)
        over_x += kernel.sum(dim=0)
    return over_y, over_x


def self_kernel(x: Tensor) -> Tensor:
    """Compute $k(x_i, x_i)$, float64, shape $(n,)$."""
    squares: Tensor = torch.linalg.vecdot(x.double(), x.double())
    return (squares / x.shape[1] + 1) ** 3


class KernelDistance(SetMetric):
    """KID: `jackknife` between generated and held-out images, with standard error and interval."""

    higher_is_better = False
    sets = ("generated", "held_out")

    def figures(self, *, generated: Tensor, held_out: Tensor) -> Figures:
        distance = jackknife(generated, held_out)
        return {
            **with_bounds({"kid": normal_interval(*distance)}),
            "kid_standard_error": float(distance.standard_error),
        }
