"""Millions of names in little memory."""

from collections.abc import Sequence
from typing import overload

import numpy as np


class Keys(Sequence[str]):
    """Millions of short strings in one buffer, a third of what a list of them takes."""

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

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(f"index must be below {self._count}, got {index}")
        index %= self._count
        start = int(self._ends[index - 1]) if index else 0
        return self._text[start : int(self._ends[index])].decode("utf-8", "surrogateescape")


class Numbered(Sequence[str]):
    """Names that differ in a number from 0, made when asked for.

    Args:
        template: Format string with one place, for the number.
        count: How many.
    """

    def __init__(self, template: str, count: int) -> None:
        self._template = template
        self._numbers = range(count)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._template.format(number) for number in self._numbers[index]]
        return self._template.format(self._numbers[index])
