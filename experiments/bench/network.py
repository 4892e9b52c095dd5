"""The frozen model that is timed, `dog32`, as a stage prepares it, and the galaxies it is fed."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.utils.data import Dataset

from experiments.bench.table import seconds
from ood_sampler.data.domain import embedded_domain
from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.solvers import MultistepSolver, Solver
from ood_sampler.models.frozen import FrozenModel
from ood_sampler.modules.allocation import keep_freed_memory

STEP = 500
"""Of the latents, as in a run by default."""
BATCHES = (8, 16, 32, 64)
"""Candidates for the best batch."""


def default_solver() -> Solver:
    """The solver of a run by default."""
    return MultistepSolver(steps=33, power=2)


@cache
def frozen_model() -> FrozenModel:
    """Load it, and prepare the process and its weights."""
    keep_freed_memory()
    model = FrozenModel(name="dog32", path="dog32", resolution=32)
    model.denoiser.to(memory_format=torch.channels_last)
    return model


def network() -> Denoiser:
    """The network of `frozen_model`."""
    return frozen_model().denoiser


@cache
def galaxies() -> Dataset[Tensor]:
    """Few-shot images that the model never saw."""
    return embedded_domain(name="galaxy32", resolution=32, few_shot=128, held_out=8).few_shot


def some(count: int) -> Tensor:
    """The first galaxies in memory, shape $(N, 3, 32, 32)$."""
    return torch.stack([galaxies()[index] for index in range(count)])


@torch.no_grad()
def evaluate(images: Tensor, batch_size: int, calls: int) -> None:
    """Ask the network `calls` times about every image, and nothing else."""
    t = torch.tensor(STEP)
    for block in images.split(batch_size):
        for _ in range(calls):
            network().eps(block, t)


def best_batch(candidates: Sequence[int] = BATCHES) -> int:
    """The batch size with most images a second."""
    images = some(max(candidates))

    def cost(batch_size: int) -> float:
        block = images[:batch_size]
        evaluate(block, batch_size, 1)
        return min(seconds(lambda: evaluate(block, batch_size, 2)) for _ in range(2)) / batch_size

    return min(candidates, key=cost)
