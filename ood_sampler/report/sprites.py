"""Many small images in one: a sheet that a page cuts its thumbnails from."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ood_sampler.report.grid import to_uint8
from ood_sampler.report.template import data_uri

_LOSSLESS = 48
"""Larger images are stored with losses, as photographs are on the web."""

_QUALITIES = (88, 78, 65, 50)
_REDUCTION = 0.75
_SMALLEST = 8

_EFFORT = 80
"""Effort of the lossless compression, 0 to 100."""

_TRIED = 24
"""Approximate number of images from which the size of a sheet is predicted."""


@dataclass(frozen=True)
class Sheet:
    """Images of one kind as one WebP image.

    Attributes:
        source: the image, as a source within a page.
        count: number of images.
        columns: images side by side.
        edge: side of each, in pixels.
        exact: whether each pixel is as it was given.
    """

    source: str
    count: int
    columns: int
    edge: int
    exact: bool

    def as_dict(self) -> dict[str, Any]:
        """The sheet as a script reads it."""
        return dict(vars(self))


def sheet(images: Tensor, *, largest: int, most_bytes: int, columns: int | None = None) -> Sheet:
    r"""Lay images out on a sheet that is no larger than a number of bytes.

    Small images are kept as they are if that fits. Else quality goes first, then size.

    Args:
        images: in [-1, 1] or uint8, shape $(N, 3, R, R)$, $N \ge 1$.
        largest: side that larger images are reduced to.
        most_bytes: of the file.
        columns: images side by side; None makes the sheet about square.
    """
    pictures = to_uint8(images) if images.is_floating_point() else images
    count, size = len(pictures), pictures.shape[-1]
    across = columns or max(1, round(count**0.5))
    some = pictures[:: max(1, count // _TRIED)]
    for edge, quality in _choices(min(size, largest)):
        # most choices are refused by what a few images take
        expected = len(_encoded(_laid_out(resized(some, edge), len(some)), quality))
        if edge > _SMALLEST and expected * count > most_bytes * len(some):
            continue
        content = _encoded(_laid_out(resized(pictures, edge), across), quality)
        if len(content) <= most_bytes:
            break
    exact = quality is None and edge == size
    return Sheet(data_uri("image/webp", content), count, across, edge, exact)


def _choices(edge: int) -> Iterator[tuple[int, int | None]]:
    """Sides and qualities to try, best first; no quality means without losses."""
    if edge <= _LOSSLESS:
        yield edge, None
    while edge > _SMALLEST:
        yield from ((edge, quality) for quality in _QUALITIES)
        edge = max(_SMALLEST, int(edge * _REDUCTION))
    yield edge, _QUALITIES[-1]


def webp(picture: Tensor) -> bytes:
    """Encode a uint8 image $(3, H, W)$ as WebP with slight losses."""
    image = Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).numpy()))
    return _encoded(image, _QUALITIES[0])


def resized(pictures: Tensor, edge: int) -> Tensor:
    """Scale uint8 images to a side (Lanczos), shape $(N, 3, edge, edge)$."""
    if pictures.shape[-1] == edge:
        return pictures
    arrays = pictures.permute(0, 2, 3, 1).contiguous().numpy()
    small = [
        np.asarray(Image.fromarray(array).resize((edge, edge), Image.Resampling.LANCZOS))
        for array in arrays
    ]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2)


def _laid_out(pictures: Tensor, columns: int) -> Image.Image:
    """Lay images out row by row without gaps, on black."""
    count, _, edge, _ = pictures.shape
    rows = -(-count // columns)
    canvas = np.zeros((rows, columns, edge, edge, 3), dtype=np.uint8)
    places = canvas.reshape(rows * columns, edge, edge, 3)
    places[:count] = pictures.permute(0, 2, 3, 1).numpy()
    return Image.fromarray(
        canvas.transpose(0, 2, 1, 3, 4).reshape(rows * edge, columns * edge, 3).copy()
    )


def _encoded(image: Image.Image, quality: int | None) -> bytes:
    data = io.BytesIO()
    lossless = quality is None
    image.save(data, format="WEBP", lossless=lossless, quality=quality or _EFFORT, method=4)
    return data.getvalue()
