"""Read LMDB databases defensively: a damaged one raises an error and never ends the process.

The `lmdb` library maps the file and follows the numbers found there: a truncated file or a wrong
number ends the process with SIGBUS or a failed assertion. The format is that of LMDB 0.9 on 64-bit
little-endian machines, in which data sets are published: pages of one size, the first two of which
say where the tree begins.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HEADER = struct.Struct("<QHHHH")
"""Header of a page: number, padding, kind, ends of the list of nodes and of the free space."""

_META = struct.Struct("<IIQQIHHQQQQQIHHQQQQQQQ")
"""Magic, version, address, map size; two trees; last page, transaction. Each tree: page size or
padding, flags, depth; numbers of branches, leaves, overflow pages and entries; root."""

_NODE = struct.Struct("<HHHH")
"""Low and high half of a value's size, flags, size of the key."""

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _IS_META = 1, 2, 4, 8
_LARGE = 1
"""Flag of a node whose value lies on pages of its own."""

_NO_PAGE = 2**64 - 1
_PAGE_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
_DEEPEST = 32
"""Largest depth of a tree that the library follows."""


class DatabaseError(ValueError):
    """A file is not a complete LMDB database."""


@dataclass(frozen=True)
class Leaf:
    """A page of entries, in the order of the database.

    Attributes:
        page: Its number.
        keys: Keys of the entries.
        places: Offsets of the nodes on the page.
    """

    page: int
    keys: list[bytes]
    places: list[int]


class Database:
    """An LMDB database, open for reading while used as a context; no lock is taken.

    Args:
        file: The file `data.mdb`.

    Raises:
        OSError: It cannot be read.
        DatabaseError: It is truncated, damaged, or has flags that data sets do not use.
    """

    def __init__(self, file: Path) -> None:
        self._file = file.open("rb", buffering=0)
        try:
            self._read_meta()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def leaves(self) -> Iterator[Leaf]:
        """Yield all leaves in the order of their keys, which increase.

        Raises:
            DatabaseError: The tree is damaged.
        """
        if self._root == _NO_PAGE:
            return
        # Pages still to read, the next one last, with their levels.
        waiting = [(self._root, 1)]
        visited, entries, last = 0, 0, b""
        while waiting:
            page, level = waiting.pop()
            visited += 1
            if visited > self._pages or level > min(self._depth, _DEEPEST):
                raise DatabaseError("its pages lead round in circles")
            if level < self._depth:
                waiting += [(child, level + 1) for child in reversed(self._children(page))]
                continue
            leaf = self.leaf(page)
            for key in leaf.keys:
                if entries and key <= last:
                    raise DatabaseError(f"the keys of page {page} are not in order")
                entries, last = entries + 1, key
            yield leaf
        if entries != self._entries:
            raise DatabaseError(f"it must have {self._entries} entries, got {entries}")

    def leaf(self, page: int) -> Leaf:
        """Read a page of entries.

        Raises:
            DatabaseError: It is not one, or damaged.
        """
        data, places = self._nodes(page, _LEAF)
        keys = []
        for place in places:
            _, _, _, size = _NODE.unpack_from(data, place)
            start = place + _NODE.size
            if start + size > len(data):
                raise DatabaseError(f"a key on page {page} has {size} bytes")
            keys.append(data[start : start + size])
        return Leaf(page, keys, places)

    def value_size(self, leaf: Leaf, entry: int) -> int:
        """Return the size of a value in bytes, as the database states it."""
        low, high, _, _ = _NODE.unpack_from(self._page(leaf.page), leaf.places[entry])
        return int(low | high << 16)

    def value(self, leaf: Leaf, entry: int) -> bytes:
        """Read a value.

        Raises:
            DatabaseError: There is no value of its size at the place that the database gives.
        """
        data, place = self._page(leaf.page), leaf.places[entry]
        low, high, options, key_size = _NODE.unpack_from(data, place)
        size, start = low | high << 16, place + _NODE.size + key_size
        if options == 0 and start + size <= len(data):
            return data[start : start + size]
        if options != _LARGE or start + 8 > len(data):
            raise DatabaseError(f"entry {entry} of page {leaf.page} holds no value")
        page = int.from_bytes(data[start : start + 8], "little")
        number, _, kind, *count = _HEADER.unpack(self._page(page)[: _HEADER.size])
        pages = count[0] | count[1] << 16
        if (
            number != page
            or kind != _OVERFLOW
            or page + pages > self._pages
            or _HEADER.size + size > pages * self._page_size
        ):
            raise DatabaseError(f"page {page} does not hold a value of {size} bytes")
        return self._bytes(page * self._page_size + _HEADER.size, size)

    def _children(self, page: int) -> list[int]:
        data, places = self._nodes(page, _BRANCH)
        nodes = (_NODE.unpack_from(data, place) for place in places)
        return [low | middle << 16 | high << 32 for low, middle, high, _ in nodes]

    def _nodes(self, page: int, kind: int) -> tuple[bytes, list[int]]:
        """Return a page and the offsets of its nodes."""
        data = self._page(page)
        number, _, found, lower, upper = _HEADER.unpack_from(data)
        count, odd = divmod(lower - _HEADER.size, 2)
        if number != page or found != kind or odd or not count > 0 or lower > upper:
            raise DatabaseError(f"page {page} is damaged")
        if upper > len(data):
            raise DatabaseError(f"page {page} is damaged")
        places = list(struct.unpack_from(f"<{count}H", data, _HEADER.size))
        if min(places) < upper or max(places) + _NODE.size > len(data):
            raise DatabaseError(f"the nodes of page {page} are not on it")
        return data, places

    def _page(self, page: int) -> bytes:
        if not 2 <= page < self._pages:
            raise DatabaseError(f"page {page} must be in 2..{self._pages - 1}")
        return self._bytes(page * self._page_size, self._page_size)

    def _bytes(self, start: int, size: int) -> bytes:
        data = os.pread(self._file.fileno(), size, start)
        if len(data) < size:
            raise DatabaseError(f"it ends at byte {start + len(data)}")
        return data

    def _read_meta(self) -> None:
        first = self._meta(0)
        self._page_size = int(first[4])
        if self._page_size not in _PAGE_SIZES:
            raise DatabaseError(f"its pages have {self._page_size} bytes")
        meta = max(first, self._meta(self._page_size), key=lambda fields: fields[-1])
        # The second of the two trees holds the entries.
        _, options, self._depth, *_, self._entries, self._root, last, _ = meta[12:]
        if options:
            raise DatabaseError("its keys are integers, reversed or repeated")
        if self._root == _NO_PAGE and self._entries:
            raise DatabaseError(f"its {self._entries} entries are on no page")
        self._pages = last + 1
        size = os.fstat(self._file.fileno()).st_size
        if size < self._pages * self._page_size:
            raise DatabaseError(
                f"it is truncated, it must have {self._pages * self._page_size} bytes and has "
                f"{size}"
            )

    def _meta(self, start: int) -> tuple[int, ...]:
        data = self._bytes(start, _HEADER.size + _META.size)
        kind = _HEADER.unpack_from(data)[2]
        meta = _META.unpack_from(data, _HEADER.size)
        if not kind & _IS_META or meta[:2] != (_MAGIC, _VERSION):
            raise DatabaseError("it does not begin as one")
        return meta
