"""Small files in the formats in which data sets are published."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, side: int = 16, kind: str = "PNG") -> bytes:
    """An encoded image; equal seeds give equal bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_files(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def key(seed: int) -> str:
    """A key as LSUN has them: 40 hexadecimal digits."""
    return f"{seed * 0x9E3779B97F4A7C15 % 2**64:040x}"


def write_lmdb(folder: Path, seeds: Iterable[int], side: int = 40) -> Path:
    """A database as LSUN publishes them: WebP images and a lock file beside the data."""
    import lmdb

    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**26) as environment, environment.begin(write=True) as t:
        for seed in seeds:
            t.put(key(seed).encode(), picture(seed, side, "WEBP"))
    return folder


def fields(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Positive fluxes over five decades, float64, shape (count, *shape)."""
    generator = np.random.default_rng(seed)
    return np.exp(generator.uniform(np.log(1e-2), np.log(1e3), (count, *shape)))
