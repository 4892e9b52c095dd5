"""Compare two sets of samples by their distance to the same images."""

from torch import Tensor

from ood_sampler.metrics.feature_sets import check_sets
from ood_sampler.metrics.kernel import (
    BetweenPairs,
    KernelEstimate,
    KernelTerms,
    WithinPairs,
    between_pairs,
    first_order,
    mean_variance,
    within_pairs,
)


def kernel_difference(first: Tensor, second: Tensor, reference: Tensor) -> KernelEstimate:
    r"""`kernel_distance` of `first` to `reference` minus that of `second`, with standard error.

    The kernel within the reference cancels in the value. In the error, the common effect of its
    vectors on both sets cancels, which two separate errors would count twice. The variance is that
    of `kernel_terms` over three sets. The two sets are taken as independent; for images made from
    the same noise, which differ by less, the error is too large.

    Args:
        first: Shape $(n, D)$, $n \ge 4$.
        second: Shape $(p, D)$, $p \ge 4$.
        reference: Shape $(m, D)$, $m \ge 4$.
    """
    check_sets(rows=4, first=first, second=second, reference=reference)
    return difference_terms(
        within_pairs(first),
        within_pairs(second),
        between_pairs(first, reference),
        between_pairs(second, reference),
    ).estimate


def difference_terms(
    xx: WithinPairs, yy: WithinPairs, xr: BetweenPairs, yr: BetweenPairs
) -> KernelTerms:
    """Compute the terms of `kernel_difference` from sums over pairs; `r` is the reference."""
    shared = mean_variance(2 * (xr.columns / len(xr.rows) - yr.columns / len(yr.rows)))
    between = 4 * (xr.variance + yr.variance)
    return KernelTerms(
        value=(xx.mean - 2 * xr.mean) - (yy.mean - 2 * yr.mean),
        first_order=first_order(xx, xr) + first_order(yy, yr) + shared - between,
        second_order=xx.variance + yy.variance + between,
    )
