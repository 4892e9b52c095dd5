"""Reproducible randomness: draws for sample `i` depend on `(seed, i)` alone."""

import math
from collections.abc import Sequence
from copy import copy
from enum import IntEnum
from typing import Self

import numpy as np
import torch
from torch import Tensor


class Stream(IntEnum):
    """Independent purposes of randomness within one sample."""

    LATENT = 0
    DECODE = 1
    FIT = 2
    INVERT = 3
    INVERT_OWN = 4


class SampleNoise:
    """Random draws for a batch of samples, one counter-based stream per sample.

    Philox (Salmon et al., 2011) with the key `(seed, i)` and the stream in its counter: no draw
    depends on the batch, worker or device of a sample, and any sample can be drawn without those
    before it. (`torch.Generator` on the CPU keeps only 32 bits of its seed.)

    Args:
        seed: of the run, in $[0, 2^{64})$.
        indices: of the samples within the run.
        stream: purpose of the draws.

    Raises:
        ValueError: `seed` is out of range.
    """

    def __init__(self, seed: int, indices: Sequence[int], *, stream: Stream) -> None:
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be in 0..2**64 - 1, got {seed}")
        self.seed = seed
        self.indices = indices
        self.stream = stream
        self.generators = [_generator(seed, index, 0, stream) for index in indices]

    def __len__(self) -> int:
        return len(self.generators)

    def attempts(self, sample: int, numbers: Sequence[int]) -> Self:
        """Noise for some attempts at one sample of the batch.

        Attempt `k` at sample `i` depends on `(seed, i, k)` alone, not on earlier draws for sample
        `i`.
        """
        made = copy(self)
        index = self.indices[sample]
        made.indices = [index] * len(numbers)
        made.generators = [
            _generator(self.seed, index, number + 1, self.stream) for number in numbers
        ]
        return made

    def only(self, samples: Sequence[int]) -> Self:
        """Streams of some samples of the batch, which continue from their current positions."""
        made = copy(self)
        made.indices = [self.indices[sample] for sample in samples]
        made.generators = [self.generators[sample] for sample in samples]
        return made

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normals, float32, shape (samples, *shape)."""
        draws = np.empty((len(self), math.prod(shape)), dtype=np.float32)
        for generator, row in zip(self.generators, draws, strict=True):
            generator.standard_normal(dtype=np.float32, out=row)
        return torch.from_numpy(draws.reshape(len(self), *shape))

    def uniform(self, *shape: int) -> Tensor:
        """Draw from $[0, 1)$, float32, shape (samples, *shape)."""
        draws = [g.random(shape, dtype=np.float32) for g in self.generators]
        return torch.from_numpy(np.stack(draws))

    def choice(self, population: int, k: int) -> Tensor:
        """Draw `k` distinct integers below `population` per sample, shape (samples, k)."""
        draws = [g.choice(population, size=k, replace=False) for g in self.generators]
        return torch.from_numpy(np.stack(draws))


def _generator(seed: int, index: int, attempt: int, stream: Stream) -> np.random.Generator:
    """Make a generator whose draws use the lower half of the counter, streams the upper half."""
    key = np.array((seed, index), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, attempt, stream]))
