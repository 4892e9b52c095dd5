"""Physical fields in NumPy, FITS and HDF5 files, read one at a time."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ood_sampler.data.formats import ARRAYS, Stored, open_array
from ood_sampler.data.images import MAX_PIXELS
from ood_sampler.data.layout import Field, FieldError, Layout, check_stack
from ood_sampler.data.listing import (
    PACKED,
    files_below,
    is_hidden,
    it_holds,
    list_folder,
    user_path,
    warn_of_passed_over,
)
from ood_sampler.data.sequences import Numbered
from ood_sampler.data.sources import DataSource


@dataclass(frozen=True)
class FieldFacts:
    """Metadata of a field that was read."""

    bands: int
    filled: int
    """Number of NaN values that were replaced."""

    unit: str | None


class ArraySource(DataSource[Field]):
    """Fields of one file that holds many, or of a folder of files that hold one each.

    A file holds $(N, H, W)$, $(N, C, H, W)$ or $(N, H, W, C)$. Each file of a folder holds the same
    without $N$; leading axes of length 1 are dropped. A folder with a single file is read as that
    file. An ambiguous shape is an error that asks for `Layout.band_axis`.

    Each read opens the file and reads the requested field only, but a compressed .npz file whole.

    Args:
        root: File or folder; hidden files and folders are left out.
        layout: Where in a file its fields are, and what is taken of them.
        key: The setting to name in errors.

    Raises:
        FileNotFoundError: The root does not exist.
        ImageError: The file cannot be read, or does not hold one array of that name and shape.
        ValueError: The folder holds no such files.
    """

    location: Path

    facts: dict[int, FieldFacts]
    """Metadata of each field that has been read, by index."""

    def __init__(self, root: str | Path, layout: Layout, *, key: str = "data.root") -> None:
        self._layout = layout
        self._loaded: Stored | None = None
        self.facts = {}
        path = user_path(root, key=key)
        files = _array_files(path, key)
        self._stack = files[0] if path.is_file() or len(files) == 1 else None
        if self._stack is None:
            self.location = path
            self.names = [file.relative_to(path).as_posix() for file in files]
        else:
            self.location = self._stack
            with self._opened(self._stack) as stored:
                check_stack(stored.shape, layout, str(self.location))
                self.names = Numbered("[{}]", stored.shape[0])

    def read(self, index: int) -> Field:
        """Return field `index`, native float64 of shape $(C, H, W)$ with $C$ 1 or 3, all finite.

        Raises:
            ImageError: It cannot be read, has another shape, or holds infinity, or NaN if the
                layout refuses it.
        """
        path = self.path(index)
        file = self._stack or Path(self.location, self.names[index])
        with self._opened(file) as stored:
            shape = stored.shape if self._stack is None else stored.shape[1:]
            _check_size(shape, path)
            values = np.asarray(stored.get(... if self._stack is None else index))
            unit = stored.unit
        bands = self._layout.bands_first(values, path)
        field, filled = self._layout.fill(np.array(bands, dtype=np.float64, order="C"), path)
        self.facts[index] = FieldFacts(bands=len(field), filled=filled, unit=unit)
        return field

    def path(self, index: int) -> str:
        if self._stack is None:
            return f"{self.location}/{self.names[index]}"
        return f"{self.location}{self.names[index]}"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": None}

    @contextmanager
    def _opened(self, file: Path) -> Iterator[Stored]:
        if self._loaded is not None:
            yield self._loaded
            return
        with open_array(file, self._layout.array) as stored:
            if stored.in_memory and self._stack is not None:
                self._loaded = stored
            yield stored


def _array_files(path: Path, key: str) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; set {key} to a file ending in {', '.join(ARRAYS)}, or to a "
            "folder of such files"
        )
    if path.is_file():
        return [path]
    listing = list_folder(path, ARRAYS)
    files = [path / name for name in sorted(listing.names)]
    if not files:
        names = sorted(name for name in files_below(path) if not is_hidden(name))
        packed = [name for name in names if name.endswith(PACKED)]
        advice = f"; unpack {packed[0]} that is in it" if packed else ""
        raise ValueError(
            f"{path} must hold at least one array, got none; {key} accepts a file ending in "
            f"{', '.join(ARRAYS)}, or a folder of such files{it_holds(listing.passed_over())}"
            f"{advice}"
        )
    warn_of_passed_over(path, listing.passed_over(), ARRAYS)
    return files


def _check_size(shape: tuple[int, ...], path: str) -> None:
    pixels = math.prod(shape)
    if not pixels or pixels > 3 * MAX_PIXELS:
        raise FieldError(
            "shape", f"{path} must hold 1 to {3 * MAX_PIXELS} values, got shape {shape}; remove it"
        )
