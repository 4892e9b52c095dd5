"""Which of two sets of samples is nearer to the same pictures, with an interval."""

import torch
from torch import Tensor

from ood_sampler.latents.resampling import Interval, percentiles, resampling_weights
from ood_sampler.metrics.feature_sets import check_sets
from ood_sampler.metrics.kernel import kernel_blocks, kernel_distance, self_kernel


def kernel_difference(
    first: Tensor, second: Tensor, reference: Tensor, *, seed: int = 0
) -> Interval:
    r"""`kernel_distance` of `first` to `reference` less that of `second`, with its interval.

    The three sets are resampled, each on its own, and the same resampled reference serves both:
    its part of the error, the same on both sides, drops out as it does from the value. A vector
    drawn twice has no distance to itself, so the two terms leave it out: with $w$ the counts of a
    draw, $\sum_{i \ne j} k(x_i, x_j) / (n (n - 1))$ becomes
    $\sum_{i \ne j} w_i w_j k(x_i, x_j) / \sum_{i \ne j} w_i w_j$.
    """
    check_sets(rows=2, first=first, second=second, reference=reference)
    weights = [
        resampling_weights(len(features), seed=3 * seed + k).to(features.device)
        for k, features in enumerate((first, second, reference))
    ]
    value = kernel_distance(first, reference) - kernel_distance(second, reference)
    resampled = [
        _within(features, counts) - 2 * _between(features, counts, reference, weights[2])
        for features, counts in zip((first, second), weights[:2], strict=True)
    ]
    return percentiles(float(value), resampled[0] - resampled[1])


def _within(x: Tensor, counts: Tensor) -> Tensor:
    total = counts.new_zeros(len(counts))
    for rows, kernel in kernel_blocks(x, x):
        total += torch.linalg.vecdot(counts[:, rows] @ kernel, counts)
    squares = counts.square()
    pairs = len(x) ** 2 - squares.sum(dim=1)
    return (total - squares @ self_kernel(x)) / pairs


def _between(x: Tensor, counts_x: Tensor, y: Tensor, counts_y: Tensor) -> Tensor:
    total = counts_x.new_zeros(len(counts_x))
    for rows, kernel in kernel_blocks(x, y):
        total += torch.linalg.vecdot(counts_x[:, rows] @ kernel, counts_y)
    return total / (len(x) * len(y))
