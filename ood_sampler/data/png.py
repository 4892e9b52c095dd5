"""PNG files without their metadata: Pillow refuses whole images for a long text or profile."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_MAGIC = b"\x89PNG\r\n\x1a\n"

_HEADER = struct.Struct(">I4s")
"""Of a chunk: bytes of its body, its kind. A checksum of four bytes follows the body."""

_ANCILLARY = 0x20
"""Bit in the first letter of a chunk's kind: pixels can be decoded without the chunk."""

_PIXELS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")
"""Ancillary chunks that decide the pixels: transparency, and the frames of an animation."""

_KEYWORDS = (b"XML:com.adobe.xmp", b"Raw profile type exif")
"""Of texts that may hold an orientation."""

_LONGEST = 2**16
"""Bytes of metadata in which an orientation is looked for; JPEG has no room for more."""


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    body: memoryview
    whole: memoryview
    """With header and checksum."""


def without_metadata(data: bytes) -> bytes:
    """Leave out of a PNG file whatever decides neither its pixels nor its orientation.

    No text is decompressed beyond `_LONGEST`, so that none can be a bomb. Data of other formats,
    and all from the first damaged chunk on, are returned as they are.
    """
    if not data.startswith(_MAGIC):
        return data
    kept = [memoryview(_MAGIC)]
    orienting: set[bytes] = set()
    end = len(_MAGIC)
    for chunk in _chunks(data):
        end += len(chunk.whole)
        # Of several texts with one keyword the first one counts: many short ones are long again.
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
    """Return what a whole and short chunk with an orientation is called, empty for others."""
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
    """Tell whether the text behind a keyword stays short when it is decompressed."""
    if kind == b"zTXt":
        packed = rest[1:]
    elif kind == b"iTXt" and rest[:1] != b"\0":
        # The method, language and translated keyword come first.
        packed = rest[2:].split(b"\0", 2)[-1]
    else:
        return True
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(packed, _LONGEST)
    except zlib.error:
        return False
    return not unpacking.unconsumed_tail
