"""Pictures of many pictures."""

import io
from collections.abc import Sequence
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
"""Small pictures are shown at about this size, in pixels."""

LARGEST_EDGE = 128
"""Large pictures are reduced to this size, in pixels."""

_PAIRS_PER_ROW = 4
_MARGIN = 16
_GAP = 10
_FRAME = 4
_SEAM = 2
_LINE = 20
_KEY = 12

_PAPER = (255, 255, 255)
_CARD = (228, 232, 238)
_INK = (28, 32, 38)
_FAINT = (96, 104, 116)

NEAR_COPY = (213, 94, 0)
"""Colour that marks a near-copy, red, green and blue; told apart by the colour-blind too."""


def to_uint8(images: Tensor) -> Tensor:
    """Round images in $[-1, 1]$ to 0..255; what lies outside is clipped."""
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
    r"""Bring square images to a size at which they can be looked at, uint8.

    Small ones are enlarged by a whole factor, to about `EDGE`, so that each pixel stays one square;
    those above `LARGEST_EDGE` are reduced to it (Lanczos).

    Args:
        images: In [-1, 1] or uint8, shape $(N, 3, R, R)$.
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
    """Take some images to be shown, in [-1, 1]; large ones are reduced as they are read.

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
    """Draw samples beside their nearest few-shot pictures, and held-out pictures below.

    Near-copies stand on a coloured card, and the title says how many there are.

    Args:
        samples: In [-1, 1], shape $(N, 3, R, R)$; the first `pairs` are shown.
        nearest: The nearest few-shot picture of each sample, of the same shape.
        held_out: Pictures in random order, shape $(M, 3, R, R)$; the first `pairs` are shown.
        near_copies: Of all samples of the run, not only of those given.
        pairs: How many of each, at most.

    Returns:
        A uint8 picture, shape $(3, H, W)$.
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
    edge = left.shape[-1]
    card = (2 * edge + _SEAM + 2 * _FRAME, edge + 2 * _FRAME)
    # With these gaps four cards are exactly as wide as eight pictures.
    pitch = (card[0] + _GAP, card[1] + _GAP)
    per_line = 2 * _PAIRS_PER_ROW
    width = 2 * _MARGIN + _PAIRS_PER_ROW * pitch[0] - _GAP
    card_rows = -(-len(left) // _PAIRS_PER_ROW)
    rows = -(-len(others) // per_line)
    top_cards = _MARGIN + 2 * _LINE
    top_title = top_cards + card_rows * pitch[1] + _GAP
    top_others = top_title + _LINE + _FRAME
    height = top_others + rows * (edge + _GAP) - _GAP + _MARGIN

    canvas = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    title, caption = ImageFont.load_default(15), ImageFont.load_default(13)
    heading = "Samples and their nearest few-shot pictures"
    draw.text((_MARGIN, _MARGIN - 6), heading, _INK, title)
    if near_copies:
        x = _MARGIN + int(draw.textlength(heading, title)) + 2 * _GAP
        draw.rectangle((x, _MARGIN - 4, x + _KEY, _MARGIN - 4 + _KEY), NEAR_COPY)
        told = f"near-copies: {sum(near_copies)} of {len(near_copies)} samples"
        draw.text((x + _KEY + _GAP, _MARGIN - 5), told, _INK, caption)
    for column in range(min(_PAIRS_PER_ROW, len(left))):
        x = _MARGIN + column * pitch[0] + _FRAME
        draw.text((x, top_cards - _LINE + 2), "sample", _FAINT, caption)
        draw.text((x + edge + _SEAM, top_cards - _LINE + 2), "nearest", _FAINT, caption)
    for k, (sample, neighbour) in enumerate(zip(left, right, strict=True)):
        x = _MARGIN + k % _PAIRS_PER_ROW * pitch[0]
        y = top_cards + k // _PAIRS_PER_ROW * pitch[1]
        copied = k < len(near_copies) and near_copies[k]
        frame = (x, y, x + card[0] - 1, y + card[1] - 1)
        draw.rounded_rectangle(frame, _FRAME, NEAR_COPY if copied else _CARD)
        canvas.paste(_image(sample), (x + _FRAME, y + _FRAME))
        canvas.paste(_image(neighbour), (x + _FRAME + edge + _SEAM, y + _FRAME))
    draw.text((_MARGIN, top_title), "Held-out pictures of the same domain", _INK, title)
    for k, picture in enumerate(others):
        x = _MARGIN + k % per_line * (edge + _GAP)
        y = top_others + k // per_line * (edge + _GAP)
        canvas.paste(_image(picture), (x, y))
    return _picture(canvas)


def strip(
    blocks: Sequence[Sequence[Tensor | None]],
    *,
    row_labels: Sequence[str],
    column_labels: Sequence[str] = ("",),
    columns: int,
) -> Tensor:
    """Draw a table of blocks of pictures; a block without pictures is left blank.

    Args:
        blocks: Rows of blocks, each in [-1, 1], shape $(N, 3, R, R)$ with one $R$ for all.
        row_labels: One for each row, to its left; may have several lines.
        column_labels: One for each column, drawn above it.
        columns: Pictures side by side in a block.

    Returns:
        A uint8 picture, shape $(3, H, W)$.
    """
    tiles = [
        [None if block is None else tile(viewable(block), columns=columns) for block in row]
        for row in blocks
    ]
    shapes = [picture.shape for row in tiles for picture in row if picture is not None]
    if not shapes:
        raise ValueError("blocks must hold at least one picture, got none")
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
    """Save images as one PNG, small ones enlarged to be seen."""
    save_png(tile(images, columns=columns), path, scale=max(1, EDGE // images.shape[-1]))


def save_png(picture: Tensor, path: Path, *, scale: int = 1) -> None:
    """Write a uint8 picture $(3, H, W)$ atomically."""
    write_atomically(path, png(picture, scale=scale))


def png(picture: Tensor, *, scale: int = 1) -> bytes:
    """Encode a uint8 picture $(3, H, W)$, enlarged by a whole factor."""
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
