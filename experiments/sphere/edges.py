"""Pencil-like edges of photographs, beside the photographs: two folders for `experiment=attribute`.

    python experiments/sphere/edges.py PHOTOGRAPHS OUT --count 300

PHOTOGRAPHS is a folder or zip. OUT gets two folders of PNG files, `a_photographs` and `b_edges`, in
the order that makes edges the attribute. No photograph is in both: edges of a photograph would be
paired with it, and pairs must be independent.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ood_sampler.data.images import read_rgb
from ood_sampler.data.sources import open_source

_BLUR = 0.6
_DARKEST = 98.0

Array = NDArray[np.float64]


def edges(photograph: Array) -> Array:
    """Draw dark lines on white where brightness changes, values 0 to 255, shape (H, W).

    The length of the Gaussian gradient, from 0 (white) to its percentile `_DARKEST` (black).
    """
    grey = photograph.mean(axis=2)
    length = ndimage.gaussian_gradient_magnitude(grey, _BLUR)
    return np.asarray(255 * (1 - np.clip(length / max(np.percentile(length, _DARKEST), 1.0), 0, 1)))


def main() -> None:
    """Write both folders."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photographs", help="folder or zip")
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--count", type=int, default=300, help="images in each folder")
    options = parser.parse_args()
    source = open_source(options.photographs, key="photographs")
    if len(source) < 2 * options.count:
        parser.error(f"--count must be <= {len(source) // 2}, half of the photographs")
    for index in range(2 * options.count):
        picture = np.asarray(read_rgb(source.read(index), name=source.path(index)))
        drawn = index >= options.count
        folder = options.out / ("b_edges" if drawn else "a_photographs")
        folder.mkdir(parents=True, exist_ok=True)
        shown = edges(picture.astype(float)) if drawn else picture
        Image.fromarray(shown.astype(np.uint8)).convert("RGB").save(folder / f"{index:05d}.png")


if __name__ == "__main__":
    main()
