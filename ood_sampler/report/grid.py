"""Grids of images."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.data import Dataset

from ood_sampler.metrics.features import quantise
from ood_sampler.store.files import write_atomically
from ood_sampler.store.sets import TensorSet

EDGE = 96
"""Edge at which small images are shown, about, in pixels."""

LARGEST_EDGE = 128
"""Edge that large images are reduced to, in pixels."""

_PAIRS_PER_ROW = 4
_MARGIN = 16
_GAP = 10
_FRAME = 4
_SEAM = 2
_LINE = 20
_KEY = 12
_TITLE, _CAPTION = 15, 13

_PAPER = (255, 255, 255)
_CARD = (228, 232, 238)
_INK = (28, 32, 38)
_FAINT = (96, 104, 116)

NEAR_COPY = (213, 94, 0)
"""Red, green and blue that mark a near-copy; visible to the colour-blind too."""


def to_uint8(images: Tensor) -> Tensor:
    """Round images in $[-1, 1]$ to 0..255; values outside are clipped."""
    return quantise(images.detach().cpu())


def tile(images: Tensor, *, columns: int, gap: int = 2) -> Tensor:
    """Lay images out row by row on white, shape $(N, 3, H, W)$ to $(3, H', W')$, uint8."""
    pictures = to_uint8(images) if images.is_floating_point() else images
    n, channels, height, width = pictures.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    canvas = torch.full(
        (channels, rows * (height + gap) + gap, columns * (width + gap) + gap),
        255,
        dtype=torch.uint8,
    )
    for k, picture in enumerate(pictures):
        y, x = gap + k // columns * (height + gap), gap + k % columns * (width + gap)
        canvas[:, y : y + height, x : x + width] = picture
    return canvas


def viewable(images: Tensor) -> Tensor:
    r"""Scale square images to a size to look at, uint8.

    Small ones are enlarged by a whole factor, to about `EDGE`, so that each pixel stays one square;
    those above `LARGEST_EDGE` are reduced to it (Lanczos).

    Args:
        images: in [-1, 1] or uint8, shape $(N, 3, R, R)$.
    """
    pictures = to_uint8(images) if images.is_floating_point() else images
    edge = pictures.shape[-1]
    if edge > LARGEST_EDGE:
        size = (LARGEST_EDGE, LARGEST_EDGE)
        reduced = [_image(picture).resize(size, Image.Resampling.LANCZOS) for picture in pictures]
        return torch.stack([_picture(image) for image in reduced])
    factor = max(1, round(EDGE / edge))
    return pictures.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)


def gather(images: TensorSet | Dataset[Tensor], indices: Sequence[int]) -> Tensor:
    """Read some images to show, in [-1, 1]; large ones are reduced as they are read.

    Args:
        images: of shape $(3, R, R)$ each.
        indices: which of them.
    """
    taken = []
    for index in indices:
        one = images.take([index]) if isinstance(images, TensorSet) else images[index][None]
        taken.append(viewable(one) / 127.5 - 1 if one.shape[-1] > LARGEST_EDGE else one)
    return torch.cat(taken)


def overview(
    samples: Tensor,
    nearest: Tensor,
    held_out: Tensor,
    *,
    near_copies: Sequence[bool] = (),
    pairs: int = 32,
) -> Tensor:
    """Draw samples beside their nearest few-shot images, and held-out images below.

    Near-copies stand on a coloured card, and the title says how many there are.

    Args:
        samples: in [-1, 1], shape $(N, 3, R, R)$; the first `pairs` are shown.
        nearest: the nearest few-shot image of each sample, of the same shape.
        held_out: in random order, shape $(M, 3, R, R)$; the first `pairs` are shown.
        near_copies: of all samples of the run, not only of those given.
        pairs: how many of each, at most.

    Returns:
        A uint8 image, shape $(3, H, W)$.
    """
    if samples.shape != nearest.shape:
        raise ValueError(
            f"nearest must have the shape of samples, {tuple(samples.shape)}, got "
            f"{tuple(nearest.shape)}"
        )
    if not len(samples) or not len(held_out):
        raise ValueError(
            f"samples and held_out must not be empty, got {len(samples)} and {len(held_out)}"
        )
    left, right = viewable(samples[:pairs]), viewable(nearest[:pairs])
    others = viewable(held_out[:pairs])
    edge, per_line = left.shape[-1], 2 * _PAIRS_PER_ROW
    # With these gaps four cards are exactly as wide as eight images.
    pitch = (2 * edge + _SEAM + 2 * _FRAME + _GAP, edge + 2 * _FRAME + _GAP)
    top_cards = _MARGIN + 2 * _LINE
    top_title = top_cards + -(-len(left) // _PAIRS_PER_ROW) * pitch[1] + _GAP
    top_others = top_title + _LINE + _FRAME
    width = 2 * _MARGIN + _PAIRS_PER_ROW * pitch[0] - _GAP
    height = top_others + -(-len(others) // per_line) * (edge + _GAP) - _GAP + _MARGIN

    canvas = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    _write_titles(draw, near_copies)
    for column in range(min(_PAIRS_PER_ROW, len(left))):
        for k, side in enumerate(("sample", "nearest")):
            at = (_MARGIN + column * pitch[0] + _FRAME + k * (edge + _SEAM), top_cards - _LINE + 2)
            draw.text(at, side, _FAINT, ImageFont.load_default(_CAPTION))
    copied = [*near_copies, *[False] * len(left)]
    cards = [
        _card(sample, neighbour, NEAR_COPY if marked else _CARD)
        for sample, neighbour, marked in zip(left, right, copied, strict=False)
    ]
    _paste(canvas, cards, top=top_cards, pitch=pitch, per_line=_PAIRS_PER_ROW)
    heading = "Held-out images of the same domain"
    draw.text((_MARGIN, top_title), heading, _INK, ImageFont.load_default(_TITLE))
    pitch = (edge + _GAP, edge + _GAP)
    _paste(canvas, map(_image, others), top=top_others, pitch=pitch, per_line=per_line)
    return _picture(canvas)


def _paste(
    canvas: Image.Image,
    images: Iterable[Image.Image],
    *,
    top: int,
    pitch: tuple[int, int],
    per_line: int,
) -> None:
    """Lay images out line by line, `pitch` pixels apart."""
    for k, image in enumerate(images):
        line, place = divmod(k, per_line)
        canvas.paste(image, (_MARGIN + place * pitch[0], top + line * pitch[1]))


def _card(left: Tensor, right: Tensor, colour: tuple[int, int, int]) -> Image.Image:
    """Draw two images side by side on a card."""
    edge = left.shape[-1]
    card = Image.new("RGB", (2 * edge + _SEAM + 2 * _FRAME, edge + 2 * _FRAME), _PAPER)
    frame = (0, 0, card.width - 1, card.height - 1)
    ImageDraw.Draw(card).rounded_rectangle(frame, _FRAME, colour)
    card.paste(_image(left), (_FRAME, _FRAME))
    card.paste(_image(right), (_FRAME + edge + _SEAM, _FRAME))
    return card


def _write_titles(draw: ImageDraw.ImageDraw, near_copies: Sequence[bool]) -> None:
    """Write the heading of an overview, and the number of near-copies beside their colour."""
    title, caption = ImageFont.load_default(_TITLE), ImageFont.load_default(_CAPTION)
    heading = "Samples and their nearest few-shot images"
    draw.text((_MARGIN, _MARGIN - 6), heading, _INK, title)
    if near_copies:
        x = _MARGIN + int(draw.textlength(heading, title)) + 2 * _GAP
        draw.rectangle((x, _MARGIN - 4, x + _KEY, _MARGIN - 4 + _KEY), NEAR_COPY)
        told = f"near-copies: {sum(near_copies)} of {len(near_copies)} samples"
        draw.text((x + _KEY + _GAP, _MARGIN - 5), told, _INK, caption)


def strip(
    blocks: Sequence[Sequence[Tensor | None]],
    *,
    row_labels: Sequence[str],
    column_labels: Sequence[str] = ("",),
    columns: int,
) -> Tensor:
    """Draw a table of blocks of images; a block without images is left blank.

    Args:
        blocks: rows of blocks, each in [-1, 1], shape $(N, 3, R, R)$ with one $R$ for all.
        row_labels: to the left of each row; may have several lines.
        column_labels: above each column.
        columns: images side by side in a block.

    Returns:
        A uint8 image, shape $(3, H, W)$.
    """
    tiles = [
        [None if block is None else tile(viewable(block), columns=columns) for block in row]
        for row in blocks
    ]
    shapes = [picture.shape for row in tiles for picture in row if picture is not None]
    if not shapes:
        raise ValueError("blocks must hold at least one image, got none")
    height, width = (max(shape[k] for shape in shapes) for k in (1, 2))
    font = ImageFont.load_default(14)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    boxes = [measure.multiline_textbbox((0, 0), text, font, spacing=6) for text in row_labels]
    left = _MARGIN + int(max(box[2] for box in boxes)) + _GAP
    top = _MARGIN + (_LINE if any(column_labels) else 0)
    row_height = max(height, int(max(box[3] for box in boxes)))
    canvas = Image.new(
        "RGB",
        (
            left + len(column_labels) * (width + _GAP) - _GAP + _MARGIN,
            top + len(tiles) * (row_height + _GAP) - _GAP + _MARGIN,
        ),
        _PAPER,
    )
    draw = ImageDraw.Draw(canvas)
    for j, label in enumerate(column_labels):
        draw.text((left + j * (width + _GAP) + _SEAM, _MARGIN - _SEAM), label, _INK, font)
    for i, (text, row) in enumerate(zip(row_labels, tiles, strict=True)):
        y = top + i * (row_height + _GAP)
        middle = y + row_height // 2
        draw.multiline_text((_MARGIN, middle), text, _INK, font, anchor="lm", spacing=6)
        for j, picture in enumerate(row):
            if picture is not None:
                canvas.paste(_image(picture), (left + j * (width + _GAP), y))
    return _picture(canvas)


def save_grid(images: Tensor, path: Path, *, columns: int = 8) -> None:
    """Save images as one PNG, small ones enlarged."""
    save_png(tile(images, columns=columns), path, scale=max(1, EDGE // images.shape[-1]))


def save_png(picture: Tensor, path: Path, *, scale: int = 1) -> None:
    """Write a uint8 image $(3, H, W)$ atomically."""
    write_atomically(path, png(picture, scale=scale))


def png(picture: Tensor, *, scale: int = 1) -> bytes:
    """Encode a uint8 image $(3, H, W)$ as PNG, enlarged by a whole factor."""
    image = _image(picture)
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    data = io.BytesIO()
    image.save(data, format="PNG")
    return data.getvalue()


def _image(picture: Tensor) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).numpy()))


def _picture(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
