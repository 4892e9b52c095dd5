import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.Image import Resampling

from ood_sampler.data.images import MAX_PIXELS, ImageError, fit_square, read_rgb

MODES = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "JPEG": ["L", "RGB", "CMYK"],
    "WEBP": ["RGB", "RGBA"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"],
    "BMP": ["1", "L", "P", "RGB"],
}


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def random_pixels(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_image(mode: str, height: int, width: int) -> Image.Image:
    pixels = random_pixels(height, width)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(pixels[..., 0].astype(np.int32) * 257)
    if mode == "F":
        return Image.fromarray(pixels[..., 0].astype(np.float32))
    if mode == "LAB":
        return Image.frombytes("LAB", (width, height), pixels.tobytes())
    return Image.fromarray(pixels).convert(mode)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    kind=st.sampled_from([(format, mode) for format, modes in MODES.items() for mode in modes]),
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    resolution=st.integers(1, 40),
    orientation=st.sampled_from([None, 1, 2, 6]),
)
def test_every_mode_and_size_becomes_a_square(
    kind: tuple[str, str], height: int, width: int, resolution: int, orientation: int | None
) -> None:
    format, mode = kind
    options = {}
    if orientation is not None and format != "BMP":
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    pixels = read_rgb(encode(random_image(mode, height, width), format, **options), name="a")
    turned = bool(options) and orientation == 6
    assert pixels.shape == ((width, height, 3) if turned else (height, width, 3))
    assert pixels.dtype == np.uint8
    square = fit_square(pixels, resolution)
    assert square.shape == (3, resolution, resolution)
    assert square.dtype == torch.uint8
    assert square.is_contiguous()


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_lossless_rgb_keeps_its_bytes(format: str) -> None:
    pixels = random_pixels(5, 7)
    np.testing.assert_array_equal(
        read_rgb(encode(Image.fromarray(pixels), format), name="a"), pixels
    )


# The EXIF standard says where row 0 and column 0 of the stored image are in the upright one.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_orientation_is_applied(orientation: int, format: str) -> None:
    upright = random_pixels(3, 5)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(stored, format, exif=exif, **options)
    np.testing.assert_array_equal(read_rgb(data, name="a"), upright)


def test_orientation_of_a_jpeg_with_unreadable_other_tags_is_applied() -> None:
    stored = Image.new("RGB", (16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "text"
    data = encode(stored, "JPEG", exif=exif).replace(b"\x01\x0e\x00\x02", b"\x01\x0e\x00\xff")
    assert read_rgb(data, name="a").shape == (16, 8, 3)


def test_alpha_is_composited_over_black() -> None:
    pixels = np.array([[[200, 100, 51, 255], [200, 100, 51, 0], [200, 100, 51, 128]]], np.uint8)
    expected = [[[200, 100, 51], [0, 0, 0], [100, 50, 26]]]
    np.testing.assert_array_equal(
        read_rgb(encode(Image.fromarray(pixels), "PNG"), name="a"), expected
    )


def test_grey_with_alpha_is_composited_over_black() -> None:
    pixels = np.array([[[200, 255], [200, 0], [200, 51]]], np.uint8)
    image = read_rgb(encode(Image.fromarray(pixels, "LA"), "PNG"), name="a")
    np.testing.assert_array_equal(image[0], [[200] * 3, [0] * 3, [40] * 3])


def test_transparent_palette_entry_becomes_black() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([250, 240, 230, 10, 20, 30])
    image.putdata([0, 1])
    data = encode(image, "PNG", transparency=0)
    np.testing.assert_array_equal(read_rgb(data, name="a"), [[[0, 0, 0], [10, 20, 30]]])


def test_transparent_colour_becomes_black() -> None:
    pixels = np.array([[[9, 8, 7], [1, 2, 3]]], np.uint8)
    data = encode(Image.fromarray(pixels), "PNG", transparency=(9, 8, 7))
    np.testing.assert_array_equal(read_rgb(data, name="a"), [[[0, 0, 0], [1, 2, 3]]])


def test_one_bit_is_black_and_white() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(read_rgb(encode(image, "PNG"), name="a"), [[[0] * 3, [255] * 3]])


@pytest.mark.parametrize(("format", "kind"), [("PNG", np.uint16), ("TIFF", np.uint16)])
def test_sixteen_bit_grey_is_scaled_not_cut(format: str, kind: type[np.uint16]) -> None:
    values = np.array([[0, 128, 129, 257, 32896, 65535]], dtype=kind)
    image = read_rgb(encode(Image.fromarray(values), format), name="a")
    expected = np.rint(values / 65535 * 255)
    np.testing.assert_array_equal(image, np.repeat(expected[..., None], 3, axis=2))


def test_thirty_two_bit_grey_is_scaled_like_sixteen_bit() -> None:
    values = np.array([[0, 257, 65535]], dtype=np.int32)
    image = read_rgb(encode(Image.fromarray(values), "TIFF"), name="a")
    np.testing.assert_array_equal(image[0, :, 0], [0, 1, 255])


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_without_a_rule_are_refused(value: int) -> None:
    data = encode(Image.fromarray(np.array([[0, value]], dtype=np.int32)), "TIFF")
    with pytest.raises(ImageError, match=r"wide\.tif must hold integers in 0\.\.\.65535"):
        read_rgb(data, name="wide.tif")


def test_float_grey_is_stretched_from_its_minimum_to_its_maximum() -> None:
    values = np.array([[-2.0, -1.0, 3.0]], dtype=np.float32)
    image = read_rgb(encode(Image.fromarray(values), "TIFF"), name="a")
    np.testing.assert_array_equal(image[0], [[0] * 3, [51] * 3, [255] * 3])


def test_constant_float_grey_is_black() -> None:
    data = encode(Image.fromarray(np.full((2, 2), 0.7, dtype=np.float32)), "TIFF")
    assert not read_rgb(data, name="a").any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_floats_are_refused(value: float) -> None:
    data = encode(Image.fromarray(np.array([[0, value]], dtype=np.float32)), "TIFF")
    with pytest.raises(ImageError, match=r"nan\.tif must hold finite values"):
        read_rgb(data, name="nan.tif")


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_an_animation_gives_its_first_frame(format: str) -> None:
    first, second = Image.fromarray(random_pixels(4, 4, 1)), Image.fromarray(random_pixels(4, 4, 2))
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(first, format, save_all=True, append_images=[second], **options)
    np.testing.assert_array_equal(read_rgb(data, name="a"), np.asarray(first))


@pytest.mark.parametrize("format", MODES)
def test_truncated_file_is_refused(format: str) -> None:
    data = encode(Image.fromarray(random_pixels(24, 24)), format)
    for length in (20, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(ImageError, match=r"cut\.x .*; replace or remove it"):
            read_rgb(data[:length], name="cut.x")


@pytest.mark.parametrize(
    "data", [b"", b"GIF", b"\x00" * 100, b"just some text", encode(Image.new("L", (4, 4)), "GIF")]
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"note\.png is .*; replace or remove it"):
        read_rgb(data, name="note.png")


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_picture_without_pixels_is_refused(size: tuple[int, int]) -> None:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")
    with pytest.raises(ImageError, match=r"zero\.png"):
        read_rgb(b"\x89PNG\r\n\x1a\n" + header + body, name="zero.png")


@pytest.mark.parametrize("side", [9460, 30_000])
def test_decompression_bomb_is_refused_by_its_header(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: Image.Image) -> None:
        raise AssertionError("the bomb was decoded")

    assert side * side > MAX_PIXELS
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(b"\x00")) + png_chunk(b"IEND", b"")
    with pytest.raises(ImageError, match=f"bomb.png must have at most {MAX_PIXELS} pixels"):
        read_rgb(b"\x89PNG\r\n\x1a\n" + header + body, name="bomb.png")


def test_square_of_the_right_size_keeps_its_bytes() -> None:
    pixels = random_pixels(32, 32)
    np.testing.assert_array_equal(fit_square(pixels, 32).numpy(), pixels.transpose(2, 0, 1))


def test_crop_takes_the_centre() -> None:
    pixels = random_pixels(4, 9)
    expected = pixels[:, 2:6].transpose(2, 0, 1)
    np.testing.assert_array_equal(fit_square(pixels, 4).numpy(), expected)
    np.testing.assert_array_equal(
        fit_square(pixels.swapaxes(0, 1).copy(), 4).numpy(), expected.swapaxes(1, 2)
    )


def test_resize_is_antialiased_lanczos_after_the_crop() -> None:
    pixels = random_pixels(20, 30)
    cropped = Image.fromarray(pixels).crop((5, 0, 25, 20))
    expected = np.asarray(cropped.resize((8, 8), Resampling.LANCZOS)).transpose(2, 0, 1)
    np.testing.assert_array_equal(fit_square(pixels, 8).numpy(), expected)


def test_a_one_pixel_checkerboard_shrinks_to_grey() -> None:
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    shrunk = fit_square(np.stack((board,) * 3, axis=2), 16)[:, 2:-2, 2:-2]
    assert (shrunk.float() - 127.5).abs().max() <= 2


@settings(deadline=None, derandomize=True, max_examples=50)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    resolution=st.integers(1, 40),
    value=st.integers(0, 255),
)
def test_flat_picture_stays_flat(height: int, width: int, resolution: int, value: int) -> None:
    square = fit_square(np.full((height, width, 3), value, np.uint8), resolution)
    assert (square == value).all()


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match=r"image must be uint8 of shape \(H, W, 3\), got float32"):
        fit_square(np.zeros((4, 4, 3), np.float32), 4)
    with pytest.raises(ValueError, match=r"got uint8 of shape \(4, 4\)"):
        fit_square(np.zeros((4, 4), np.uint8), 4)
    with pytest.raises(ValueError, match="resolution must be >= 1, got 0"):
        fit_square(np.zeros((4, 4, 3), np.uint8), 0)
