import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ood_sampler.data.images import ImageError, read_rgb
from ood_sampler.data.png import without_metadata

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
MIB = 2**20


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + zlib.crc32(kind + body).to_bytes(4)


def encode(kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **options)
    return buffer.getvalue()


def with_chunks(*chunks: bytes, behind: bool = False) -> bytes:
    """A PNG file with more chunks, before the pixels or behind them."""
    data = encode()
    place = data.index(b"IEND" if behind else b"IDAT") - 4
    return data[:place] + b"".join(chunks) + data[place:]


def read(data: bytes) -> npt.NDArray[np.uint8]:
    return read_rgb(data, name="a")


BOMB = zlib.compress(bytes(3 * MIB))
METADATA = {
    "tEXt": chunk(b"tEXt", b"Comment\0" + b"x" * MIB) * 70,
    "zTXt": chunk(b"zTXt", b"Comment\0\0" + BOMB),
    "iTXt": chunk(b"iTXt", b"parameters\0\1\0\0\0" + BOMB),
    "many": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * MIB)) * 70,
    "profile": chunk(b"iCCP", b"sRGB\0\0" + BOMB),
    "method": chunk(b"iCCP", b"sRGB\0\7" + b"text"),
    "xmp": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    "long xmp": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<" * 65 * MIB),
    "raw profile": chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB),
    "broken raw profile": chunk(b"tEXt", b"Raw profile type exif\0\nexif\n4\nno hex"),
    "cut text": chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB[:20]),
    "exif": chunk(b"eXIf", b"II*\0" + b"\xff" * 40),
    "no exif": chunk(b"eXIf", b""),
    "size": chunk(b"pHYs", b"1"),
    "checksum": chunk(b"tEXt", b"Comment\0text")[:-1] + b"\0",
    "exif's checksum": chunk(b"eXIf", b"II*\0")[:-1] + b"\0",
    "private": chunk(b"prVt", b"data"),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("kind", METADATA)
def test_metadata_never_refuses_a_picture(kind: str, behind: bool) -> None:
    np.testing.assert_array_equal(read(with_chunks(METADATA[kind], behind=behind)), PIXELS)


def test_all_that_is_not_used_is_left_out() -> None:
    whole = without_metadata(with_chunks(*METADATA.values()))
    assert whole.replace(METADATA["broken raw profile"], b"").replace(METADATA["exif"], b"") == (
        encode()
    )
    assert without_metadata(encode()) == encode()
    jpeg = encode("JPEG")
    assert without_metadata(jpeg) is jpeg


def orientation(value: int) -> bytes:
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0)


XMP = b'<x tiff:Orientation="6"/>'
RAW = b"\nexif\n32\n" + (b"Exif\0\0" + orientation(6)).hex().encode()
ORIENTED = {
    "exif": chunk(b"eXIf", orientation(6)),
    "xmp": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "packed xmp": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
    "profile": chunk(b"tEXt", b"Raw profile type exif\0" + RAW),
    "packed profile": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW)),
}


@pytest.mark.parametrize("kind", ORIENTED)
def test_orientation_is_kept_beside_metadata_that_is_not(kind: str) -> None:
    data = with_chunks(METADATA["iTXt"], ORIENTED[kind], METADATA["profile"])
    np.testing.assert_array_equal(read(data), PIXELS.swapaxes(0, 1)[:, ::-1])


def test_pixels_and_transparency_stay_as_they_are() -> None:
    info = PngInfo()
    info.add_itxt("parameters", "x" * 2 * MIB, zip=True)
    color = tuple(int(value) for value in PIXELS[2, 3])
    expected = PIXELS.copy()
    expected[2, 3] = 0
    np.testing.assert_array_equal(read(encode(pnginfo=info, transparency=color)), expected)
    frames = [Image.fromarray(255 - PIXELS)]
    animated = encode(pnginfo=info, save_all=True, append_images=frames)
    np.testing.assert_array_equal(read(animated), PIXELS)


@pytest.mark.parametrize("kind", ["iTXt", "profile"])
def test_damage_behind_metadata_is_found(kind: str) -> None:
    data = with_chunks(METADATA[kind])
    place = data.index(b"IDAT")
    for end in (place + 30, place + 4, place - 20):
        with pytest.raises(ImageError, match=r"cut\.png .*; replace or remove it"):
            read_rgb(data[:end], name="cut.png")


def exif(kind: str) -> bytes:
    return (
        b"Exif\0\0"
        + {
            "cut": orientation(6)[:14],
            "text": b"text",
            "offset": b"MM\0*" + struct.pack(">I", 2**31),
            "count": b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 2**31, 6, 0, 0),
            "type": b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 99, 1, 6, 0, 0),
            "value": orientation(99),
        }[kind]
    )


@pytest.mark.parametrize("broken", ["cut", "text", "offset", "count", "type", "value"])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_orientation_that_cannot_be_read_is_taken_for_upright(kind: str, broken: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    found = read(encode(kind, exif=exif(broken), **options))
    np.testing.assert_array_equal(found, read(encode(kind, **options)))


@pytest.mark.parametrize("pointer", [0, 1, 8, 10**6, 2**32 - 1])
def test_tiff_with_a_broken_exif_folder_is_read(pointer: int) -> None:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    tags = ImageFileDirectory_v2()
    tags[0x8769], tags.tagtype[0x8769] = 10**6, 4
    data = bytearray(encode("TIFF", tiffinfo=tags))
    place = data.index(struct.pack("<HHI", 0x8769, 4, 1)) + 8
    struct.pack_into("<I", data, place, pointer)
    np.testing.assert_array_equal(read(bytes(data)), PIXELS)
