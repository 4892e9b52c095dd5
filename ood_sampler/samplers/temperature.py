"""The spread of draws about the mean of the set that a strategy is fitted to."""

import torch
from torch import Tensor

from ood_sampler.store.sets import TensorSet


def mean_of(latents: TensorSet) -> Tensor:
    """Mean of a set, summed in float64, float32, shape $(C, H, W)$."""
    total = sum((block.double().sum(0) for block in latents.blocks()), torch.zeros(()))
    return (total / len(latents)).float()


def tempered(latents: Tensor, mean: Tensor, temperature: float) -> Tensor:
    r"""Scale the deviation of draws from a mean, $z \leftarrow \mu + \tau (z - \mu)$.

    Below 1 draws lie nearer to the mean: they are more typical, and less varied.

    Args:
        latents: draws of any strategy, shape $(B, C, H, W)$.
        mean: $\mu$, shape $(C, H, W)$.
        temperature: $\tau > 0$.
    """
    return mean + temperature * (latents - mean)
