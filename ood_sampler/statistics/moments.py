"""Mean and variance of sets that need not fit into memory."""

import torch
from torch import Tensor

from ood_sampler.store.sets import TensorSet


def mean_and_variance(items: TensorSet) -> tuple[Tensor, Tensor]:
    r"""Per-coordinate mean and unbiased variance in float64, in two passes over the set.

    Raises:
        ValueError: the set has fewer than two items.
    """
    n = len(items)
    if n < 2:
        raise ValueError(f"a variance needs at least 2 inverted images, got {n}")
    mean = sum((block.double().sum(0) for block in items.blocks()), torch.zeros(())) / n
    squares = sum(
        ((block.double() - mean).square().sum(0) for block in items.blocks()), torch.zeros(())
    )
    return mean, squares / (n - 1)
