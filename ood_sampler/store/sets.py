"""Sets of equally shaped tensors that need not fit into memory."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

_BLOCK_BYTES = 2**24
"""Bytes of a block of float32 items; float64 results computed from it stay below 0.2 GB."""


class TensorSet(ABC):
    """`N` tensors of one shape, read on demand."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one item."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, indices: Sequence[int]) -> Tensor:
        """Read some items, in the order of `indices`, shape (len(indices), *shape)."""

    def blocks(self, size: int = 128) -> Iterator[Tensor]:
        """Read all items in order, at most `size` at a time, fewer if they are large."""
        size = min(size, max(1, _BLOCK_BYTES // (4 * math.prod(self.shape))))
        for start in range(0, len(self), size):
            yield self.take(range(start, min(start + size, len(self))))


class InMemory(TensorSet):
    """A tensor in memory as a tensor set, shape (N, ...)."""

    def __init__(self, items: Tensor) -> None:
        self.items = items

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.items.shape[1:])

    def __len__(self) -> int:
        return len(self.items)

    def take(self, indices: Sequence[int]) -> Tensor:
        return self.items[torch.as_tensor(list(indices), dtype=torch.long)]


class Selected(TensorSet):
    """Some items of another set.

    Args:
        items: the other set.
        indices: of the items, in order.
    """

    def __init__(self, items: TensorSet, indices: Sequence[int]) -> None:
        self.items = items
        self.indices = indices

    @property
    def shape(self) -> tuple[int, ...]:
        return self.items.shape

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: Sequence[int]) -> Tensor:
        return self.items.take([self.indices[index] for index in indices])


class Taken(TensorSet):
    """A data set of single items as a tensor set.

    Args:
        items: the data set.
        count: number of items to take, from the first on.
    """

    def __init__(self, items: Dataset[Tensor], count: int) -> None:
        self.items = items
        self.count = count

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.items[0].shape)

    def __len__(self) -> int:
        return self.count

    def take(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([self.items[int(index)] for index in indices])


class Empty(TensorSet):
    """An empty set that knows its shape."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._shape = tuple(shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def __len__(self) -> int:
        return 0

    def take(self, indices: Sequence[int]) -> Tensor:
        raise IndexError("the set is empty")
