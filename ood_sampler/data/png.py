"""Strip PNG files of metadata: a long text or damaged profile makes Pillow refuse the whole image.

Lifting Pillow's limits does not help: a wrong checksum or length of a chunk still is an error.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_MAGIC = b"\x89PNG\r\n\x1a\n"

_HEADER = struct.Struct(">I4s")
"""Header of a chunk: bytes of its body, its kind. A checksum of four bytes follows the body."""

_ANCILLARY = 0x20
"""Bit in the first letter of a chunk's kind: set if pixels can be decoded without the chunk."""

_PIXELS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")
"""Ancillary chunks that change pixels: transparency, and the frames of an animation."""

_KEYWORDS = (b"XML:com.adobe.xmp", b"Raw profile type exif")
"""Keywords of texts that may hold an orientation."""

_LONGEST = 2**16
"""Largest chunk that is searched for an orientation, in bytes; JPEG has no room for more."""


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    body: memoryview
    whole: memoryview
    """Header, body and checksum."""


def without_metadata(data: bytes) -> bytes:
    """Remove from a PNG file all chunks that affect neither its pixels nor its orientation.

    No text is decompressed beyond `_LONGEST` bytes, so none can be a decompression bomb. Other
    formats, and everything from the first damaged chunk on, are returned unchanged.
    """
    if not data.startswith(_MAGIC):
        return data
    kept = [memoryview(_MAGIC)]
    orienting: set[bytes] = set()
    end = len(_MAGIC)
    for chunk in _chunks(data):
        end += len(chunk.whole)
        # Only the first text per keyword is kept: many short ones would add up to a long one.
        label = _may_orient(chunk)
        if _decides_pixels(chunk.kind) or (label and label not in orienting):
            kept.append(chunk.whole)
        orienting.add(label)
    if end == sum(map(len, kept)):
        return data
    return b"".join([*kept, memoryview(data)[end:]])


def _chunks(data: bytes) -> Iterator[_Chunk]:
    view = memoryview(data)
    position = len(_MAGIC)
    while position + _HEADER.size <= len(data):
        size, kind = _HEADER.unpack_from(data, position)
        start = position + _HEADER.size
        end = start + size + 4
        if end > len(data) or not kind.isalpha():
            return
        yield _Chunk(kind, view[start : start + size], view[position:end])
        position = end


def _decides_pixels(kind: bytes) -> bool:
    return not kind[0] & _ANCILLARY or kind in _PIXELS


def _may_orient(chunk: _Chunk) -> bytes:
    """Return a label if an intact, short chunk may hold an orientation, else an empty one."""
    if len(chunk.body) > _LONGEST or chunk.kind not in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
        return b""
    body = bytes(chunk.body)
    if zlib.crc32(chunk.kind + body).to_bytes(4) != chunk.whole[-4:]:
        return b""
    if chunk.kind == b"eXIf":
        return chunk.kind
    keyword, _, rest = body.partition(b"\0")
    return keyword if keyword in _KEYWORDS and _is_short(chunk.kind, rest) else b""


def _is_short(kind: bytes, rest: bytes) -> bool:
    """Tell whether the text after a keyword is still short when it is decompressed."""
    if kind == b"zTXt":
        packed = rest[1:]
    elif kind == b"iTXt" and rest[:1] != b"\0":
        # After the compression method, the language and the translated keyword.
        packed = rest[2:].split(b"\0", 2)[-1]
    else:
        return True
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(packed, _LONGEST)
    except zlib.error:
        return False
    return not unpacking.unconsumed_tail
