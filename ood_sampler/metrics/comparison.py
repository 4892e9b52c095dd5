"""Differences between two sets of samples against the same pictures, with intervals."""

from typing import NamedTuple

import torch
from torch import Tensor

from ood_sampler.latents.resampling import Interval, percentiles
from ood_sampler.metrics.authenticity import authentic
from ood_sampler.metrics.feature_sets import check_sets
from ood_sampler.metrics.intervals import difference_interval, resampling_weights
from ood_sampler.metrics.kernel import kernel_blocks, kernel_distance, self_kernel


class Comparison(NamedTuple):
    """Figures of one set of samples less those of another."""

    kid: Interval
    authenticity: Interval


def compare(
    first: Tensor, second: Tensor, *, held_out: Tensor, few_shot: Tensor, seed: int = 0
) -> Comparison:
    """Compare two sets of samples of one domain: KID and authenticity, first less second.

    Bootstrap intervals of 95%; one that does not hold 0 tells the sets apart.

    Args:
        first: Features, shape $(N, D)$.
        second: Features, shape $(M, D)$.
        held_out: Features of the pictures that KID is against.
        few_shot: Features of the pictures that authenticity is against, which stay as they are:
            both sets were made from these.
        seed: Of the resampling.
    """
    return Comparison(
        kid=kernel_difference(first, second, held_out, seed=seed),
        authenticity=difference_interval(
            authentic(first, few_shot), authentic(second, few_shot), seed=seed
        ),
    )


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
