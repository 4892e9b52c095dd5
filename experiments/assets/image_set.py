"""What the simulated domains share: one random stream per image, storage, previews, the command."""

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save

Value = TypeVar("Value", bound=np.generic)

ASSETS = Path(__file__).resolve().parents[2] / "ood_sampler" / "assets"
IMAGES = 2000
FEW_SHOT = 500  # the first images, indices 0..499; the rest is held out


def image_stream(seed: int, index: int) -> np.random.Generator:
    """Return the random stream of image `index`, which depends on `(seed, index)` alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(index,))))


def images_of(
    simulate: Callable[[int, int], NDArray[Value]], *, seed: int, count: int
) -> NDArray[Value]:
    """Stack `simulate(seed, index)` for the indices below `count`, with a line every 5 seconds."""
    images = []
    start = shown = time.monotonic()
    for index in range(count):
        images.append(simulate(seed, index))
        now = time.monotonic()
        if now - shown > 5 or index == count - 1:
            shown = now
            print(f"{index + 1}/{count} images, {now - start:.0f} s", file=sys.stderr)
    return np.stack(images)


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` never holds a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def safetensors_bytes(
    tensors: Mapping[str, NDArray[np.generic]], metadata: dict[str, str]
) -> bytes:
    """Serialise with the keys of the header in order: the library writes metadata in random order.

    The header is a little-endian 8-byte length and JSON padded with blanks to a multiple of 8.
    """
    raw: bytes = save(
        {name: np.ascontiguousarray(value) for name, value in tensors.items()}, metadata
    )
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.dumps(json.loads(raw[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + raw[end:]


def preview(images: NDArray[np.uint8], *, columns: int = 8, scale: int = 2) -> Image.Image:
    """Tile images of shape (N, 3, H, W), N a multiple of `columns`, each pixel `scale` wide."""
    n, _, height, width = images.shape
    rows = images.reshape(n // columns, columns, 3, height, width).transpose(0, 3, 1, 4, 2)
    sheet = rows.reshape(n // columns * height, columns * width, 3)
    return Image.fromarray(sheet.repeat(scale, axis=0).repeat(scale, axis=1))


def write_preview(path: Path, images: NDArray[np.uint8]) -> None:
    """Write a sheet of the first 64 images (none if there are fewer)."""
    if len(images) >= 64:
        png = io.BytesIO()
        preview(images[:64]).save(png, format="PNG", optimize=True)
        write_atomically(path, png.getvalue())


def arguments(name: str, *, seed: int) -> argparse.Namespace:
    """Read the command line shared by the two scripts: `--out`, `--count`, `--seed`."""
    parser = argparse.ArgumentParser(description=f"Simulate the target domain {name}.")
    parser.add_argument("--out", type=Path, default=ASSETS / name, help="folder to write into")
    parser.add_argument("--count", type=int, default=IMAGES, help="number of images")
    parser.add_argument("--seed", type=int, default=seed, help="seed of the whole set")
    options = parser.parse_args()
    if options.count < 1:
        parser.error(f"--count must be >= 1, got {options.count}")
    if options.count != IMAGES and options.out == parser.get_default("out"):
        parser.error(f"--count {options.count} needs --out: the set in the package has {IMAGES}")
    if options.seed < 0:
        parser.error(f"--seed must be >= 0, got {options.seed}")
    return options
