"""Which of two sets of samples is nearer to the same pictures."""

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
    r"""`kernel_distance` of `first` to `reference` less that of `second`, with its standard error.

    The kernel within the reference drops out of the value, and from the error what its vectors do
    to both sets alike: two errors of their own would count it twice. The variance is that of
    `kernel_terms` over three sets. The two sets are independent; the error is too large for images
    made from the same noise, which differ by less.

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
    """Make the terms of `kernel_difference` from the sums over pairs, `r` being the reference."""
    shared = mean_variance(2 * (xr.columns / len(xr.rows) - yr.columns / len(yr.rows)))
    between = 4 * (xr.variance + yr.variance)
    return KernelTerms(
        value=(xx.mean - 2 * xr.mean) - (yy.mean - 2 * yr.mean),
        first_order=first_order(xx, xr) + first_order(yy, yr) + shared - between,
        second_order=xx.variance + yy.variance + between,
    )
