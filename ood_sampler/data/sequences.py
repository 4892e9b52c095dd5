"""Sequences of millions of items in little memory."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar, overload

import numpy as np

T_co = TypeVar("T_co", covariant=True)


class LazySequence(Sequence[T_co]):
    """A sequence whose items are made at each access: a subclass has `__len__` and `item`."""

    @abstractmethod
    def item(self, index: int) -> T_co:
        """Return the item at `index`, which is in range and not negative."""

    @overload
    def __getitem__(self, index: int) -> T_co: ...

    @overload
    def __getitem__(self, index: slice) -> list[T_co]: ...

    def __getitem__(self, index: int | slice) -> T_co | list[T_co]:
        if isinstance(index, slice):
            return [self.item(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must be below {len(self)}, got {index}")
        return self.item(index % len(self))


class Keys(LazySequence[str]):
    """Millions of short strings in one buffer, a third of the memory of a list."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends = np.zeros(1024, dtype=np.int64)
        self._count = 0

    def append(self, key: bytes) -> None:
        if self._count == len(self._ends):
            self._ends = np.concatenate((self._ends, np.zeros_like(self._ends)))
        self._text += key
        self._ends[self._count] = len(self._text)
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def item(self, index: int) -> str:
        start = int(self._ends[index - 1]) if index else 0
        return self._text[start : int(self._ends[index])].decode("utf-8", "surrogateescape")


class Numbered(LazySequence[str]):
    """Names that differ in a number, counted from 0.

    Args:
        template: Format string with one place, for the number.
        count: Number of names.
    """

    def __init__(self, template: str, count: int) -> None:
        self._template = template
        self._count = count

    def __len__(self) -> int:
        return self._count

    def item(self, index: int) -> str:
        return self._template.format(index)
