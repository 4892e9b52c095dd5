"""Decode images of any mode, size and orientation to square uint8 tensors, by stated rules."""

import struct
import warnings
import zlib
from io import BytesIO

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from PIL.Image import Resampling, Transpose
from torch import Tensor

from ood_sampler.data.png import without_metadata
from ood_sampler.faults import printable

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")

MAX_PIXELS = 89_478_485
"""Pillow's own warning threshold, a quarter of a gigabyte as RGB; more is rejected as a bomb."""

READER_VERSION = 1
"""Part of every digest; raise it when a file gives other pixels than before."""

_ORIENTATION_TAG = 0x0112

_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

# What Pillow's decoders raise on damaged files, without a common base class.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    struct.error,
    zlib.error,
)


class ImageError(ValueError):
    """An image or an archive cannot be used; the message names the file and the remedy."""

    kind: str = "unreadable"
    """The problem in a word or two; errors of one kind are counted together."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def read_rgb(data: bytes, *, name: str) -> npt.NDArray[np.uint8]:
    """Decode one image to uint8 RGB, shape $(H, W, 3)$.

    The format (PNG, JPEG, WebP, TIFF or BMP) is detected by content, not by suffix. Rules, in this
    order:

    - an animation gives its first frame; the EXIF orientation is applied, an unreadable one counts
      as upright; colour profiles, texts and all other metadata are ignored;
    - 16-bit and 32-bit integer grey values are scaled linearly, 65535 to 255 (values outside of
      0...65535 are an error); float grey values, which have no agreed range, are scaled linearly
      so that the image's own minimum becomes 0 and its maximum 255 (a constant becomes 0);
    - transparency (alpha channel, transparent palette entry or colour) is composited over black,
      the colour of an empty sky;
    - grey, 1-bit, palette, CMYK, YCbCr and the rest become RGB as Pillow converts them.

    Args:
        data: The whole encoded file.
        name: Name of the file in error messages.

    Raises:
        ImageError: The data is empty, truncated, damaged, not one of the five formats, larger than
            `MAX_PIXELS` by its header (checked before decoding), or holds values without a rule.
    """
    if not data:
        raise _error(name, "is empty")
    try:
        # Pillow warns about odd metadata, harmless here, and large sizes, an error below.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(without_metadata(data)), formats=FORMATS) as image:
                _check_size(image, name)
                image.load()
                return _to_rgb(_upright(image), name)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise _error(name, f"is not an image in one of the formats {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise _error(name, f"must have at most {MAX_PIXELS} pixels: {error}") from error
    except _DECODER_ERRORS as error:
        raise _error(name, f"is truncated or damaged ({error})") from error


def fit_square(image: npt.NDArray[np.uint8], resolution: int) -> Tensor:
    """Crop the central square, then resize it to `resolution` by antialiased Lanczos.

    An image that is `resolution` by `resolution` keeps its pixels; a smaller one is upsampled.

    Args:
        image: uint8 RGB, shape $(H, W, 3)$.
        resolution: $R$, the side of the result in pixels.

    Returns:
        uint8 tensor, shape $(3, R, R)$.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"image must be uint8 of shape (H, W, 3), got {image.dtype} of shape {image.shape}"
        )
    if resolution < 1:
        raise ValueError(f"resolution must be >= 1, got {resolution}")
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side != resolution:
        pixels = Image.fromarray(np.ascontiguousarray(square))
        square = np.asarray(pixels.resize((resolution, resolution), Resampling.LANCZOS))
    return torch.from_numpy(square.transpose(2, 0, 1).copy(order="C"))


def _error(name: str, problem: str) -> ImageError:
    return ImageError(f"{name} {problem}; replace or remove it")


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _error(name, f"must have at most {MAX_PIXELS} pixels, got {width} x {height}")


def _upright(image: Image.Image) -> Image.Image:
    # ImageOps.exif_transpose rewrites the metadata, which fails on tags that it cannot encode.
    # When a TIFF is loaded, Pillow turns it and drops the tag.
    try:
        transpose = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except _DECODER_ERRORS:
        return image
    return image if transpose is None else image.transpose(transpose)


def _to_rgb(image: Image.Image, name: str) -> npt.NDArray[np.uint8]:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey_to_rgb(_scale_integers(np.asarray(image).astype(np.int64), name))
    if image.mode == "F":
        return _grey_to_rgb(_scale_floats(np.asarray(image).astype(np.float64), name))
    if not image.has_transparency_data:
        return np.array(image.convert("RGB"))
    rgba = np.asarray(image.convert("RGBA")).astype(np.uint16)
    over_black: npt.NDArray[np.uint16] = (rgba[..., :3] * rgba[..., 3:] + 127) // 255
    return over_black.astype(np.uint8)


def _scale_integers(values: npt.NDArray[np.int64], name: str) -> npt.NDArray[np.uint8]:
    low, high = values.min(), values.max()
    if low < 0 or high > 65535:
        raise _error(name, f"must hold integers in 0...65535, got {low}...{high}")
    return ((values + 128) // 257).astype(np.uint8)


def _scale_floats(values: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.uint8]:
    if not np.isfinite(values).all():
        raise _error(name, "must hold finite values, got NaN or infinity")
    span = np.ptp(values)
    if span == 0:
        return np.zeros(values.shape, dtype=np.uint8)
    unit: npt.NDArray[np.float64] = (values - values.min()) / span
    return np.rint(unit * 255).astype(np.uint8)


def _grey_to_rgb(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.stack((grey, grey, grey), axis=2)
