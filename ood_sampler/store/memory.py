"""Items that a stage makes, kept in memory."""

from pathlib import Path

import torch
from torch import Tensor

from ood_sampler.store.artifacts import Artifact, StoredSet


class MemoryArtifact(Artifact):
    """Take the place of an artifact, in one process and without a file.

    Its shards are those of the store, so that batches and bytes are the same.

    Args:
        count: number of items.
        shape: of an item.
    """

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        super().__init__(Path(), "memory", {}, count, shape)
        self._shards: dict[int, Tensor] = {}

    def write(self, shard: int, items: Tensor) -> None:
        self._shards[shard] = items

    def open(self) -> StoredSet:
        raise TypeError("items in memory are read by `items`")

    @property
    def items(self) -> Tensor:
        """All items, shape (N, ...)."""
        return torch.cat([self._shards[shard] for shard in sorted(self._shards)])

    def _verified(self) -> set[int]:
        return set(self._shards)
