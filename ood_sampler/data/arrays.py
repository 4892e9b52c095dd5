"""Physical fields in NumPy, FITS and HDF5 files, read one at a time; nothing is ever unpickled."""

import math
import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ood_sampler.data.images import MAX_PIXELS, ImageError
from ood_sampler.data.listing import (
    PACKED,
    files_below,
    is_hidden,
    it_holds,
    list_folder,
    user_path,
    warn_of_passed_over,
)
from ood_sampler.data.names import Numbered
from ood_sampler.data.sources import MAX_BYTES, MissingPackageError, Source, load_extra

FITS = (".fits", ".fit", ".fts", ".fz")
HDF5 = (".h5", ".hdf5", ".hdf")
ARRAYS = (".npy", ".npz", *FITS, *HDF5)

Field = npt.NDArray[np.float64]

BandAxis = Literal["first", "last"]

# What the readers let escape on damaged files; FITS adds one of its own.
_READER_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
    OverflowError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


class ArraySource(Source):
    """Fields of one file that holds many, or of a folder of files that hold one each.

    A file holds $(N, H, W)$ or $(N, C, H, W)$ or $(N, H, W, C)$; each file of a folder the same
    without $N$, further axes of length 1 before these dropped. A folder with a single file is that
    file. Files are opened for each reading, and only the wanted field is read, except of compressed
    .npz files, which are read whole.

    Args:
        root: File or folder; hidden files and folders are left out.
        array: Name of the array in .npz and HDF5 files; of the HDU in FITS files its number from 0,
            its name, or name and version (`SCI,2`). None takes the only one.
        band_axis: Whether bands are the `first` or `last` axis of a field; None takes the shorter.
        bands: Indices of the bands to use, in this order, or a single one; None takes all.
        key: The setting to name in errors.

    Raises:
        FileNotFoundError: Nothing is there.
        ImageError: The file cannot be read, or does not hold one array of that name and shape.
        ValueError: A folder without such files, or an argument is out of range.
    """

    location: Path

    def __init__(
        self,
        root: str | Path,
        *,
        array: str | None,
        band_axis: BandAxis | None,
        bands: Sequence[int] | int | None,
        key: str = "data.root",
    ) -> None:
        if band_axis not in (None, "first", "last"):
            raise ValueError(f"band_axis must be first, last or null, got {band_axis!r}")
        self._array = None if array is None else str(array)
        self._band_axis = band_axis
        self._bands = None if bands is None else _checked_bands(bands)
        self._loaded: _Stored | None = None
        path = user_path(root, key=key)
        files = _array_files(path, key)
        self._stack = files[0] if path.is_file() or len(files) == 1 else None
        if self._stack is None:
            self.location = path
            self.names = [file.relative_to(path).as_posix() for file in files]
        else:
            self.location = self._stack
            with self._opened(self._stack) as stored:
                self.names = Numbered("[{}]", self._count(stored.shape))

    def read(self, index: int) -> Field:
        """Return field `index`, native float64 of shape $(C, H, W)$ with $C$ 1 or 3, all finite.

        Raises:
            ImageError: It cannot be read, has another shape, or holds NaN or infinity.
        """
        path = self.path(index)
        file = self._stack or Path(self.location, self.names[index])
        with self._opened(file) as stored:
            shape = stored.shape if self._stack is None else stored.shape[1:]
            _check_size(shape, path)
            values = stored.get(... if self._stack is None else index)
        field = self._choose_bands(self._bands_first(np.asarray(values), path), path)
        _check_finite(field, path)
        return np.array(field, dtype=np.float64, order="C")

    def path(self, index: int) -> str:
        if self._stack is None:
            return f"{self.location}/{self.names[index]}"
        return f"{self.location}{self.names[index]}"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": None}

    @contextmanager
    def _opened(self, file: Path) -> Iterator["_Stored"]:
        if self._loaded is not None:
            yield self._loaded
            return
        try:
            with _opener(file)(file, self._array) as stored:
                if stored.dtype.kind not in "biuf":
                    raise ImageError(f"{file} must hold real numbers, got {stored.dtype}")
                if stored.in_memory and self._stack is not None:
                    self._loaded = stored
                yield stored
        except (ImageError, MissingPackageError):
            raise
        except _READER_ERRORS as error:
            raise _damaged(file, error) from error

    def _count(self, shape: tuple[int, ...]) -> int:
        if len(shape) not in (3, 4):
            raise ImageError(
                f"{self.location} must hold (N, H, W), (N, C, H, W) or (N, H, W, C), got {shape}; "
                "files of one field each belong together in a folder"
            )
        return shape[0]

    def _bands_first(self, values: npt.NDArray[Any], path: str) -> npt.NDArray[Any]:
        while self._stack is None and values.ndim > 3 and values.shape[0] == 1:
            values = values[0]
        if values.ndim == 2:
            return values[None]
        if values.ndim != 3:
            raise ImageError(
                f"{path} must have shape (H, W), (C, H, W) or (H, W, C), got {values.shape}; "
                "give a file of many fields as data.root itself"
            )
        first, last = values.shape[0], values.shape[2]
        if self._band_axis is None and first == last:
            raise ImageError(
                f"{path} must show where its bands are, got {values.shape}; set data.band_axis to "
                "first or last"
            )
        is_first = first < last if self._band_axis is None else self._band_axis == "first"
        return values if is_first else np.moveaxis(values, 2, 0)

    def _choose_bands(self, values: npt.NDArray[Any], path: str) -> npt.NDArray[Any]:
        count = len(values)
        if self._bands is not None:
            if max(self._bands) >= count:
                raise ImageError(
                    f"{path} must have the bands {self._bands}, got {count} bands; change "
                    "data.bands or data.band_axis"
                )
            return values[self._bands]
        if count not in (1, 3):
            raise ImageError(
                f"{path} must have 1 or 3 bands, got {count}; choose 1 or 3 of them with "
                "data.bands, for example data.bands=[0,1,2]"
            )
        return values


@dataclass(frozen=True)
class _Stored:
    """An array in an open file, of which parts can be read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    get: Callable[[Any], npt.NDArray[Any]]
    in_memory: bool = False


def _checked_bands(bands: Any) -> list[int]:  # noqa: ANN401 whatever a setting holds
    is_list = isinstance(bands, Sequence) and not isinstance(bands, str)
    indices = list(bands) if is_list else [bands]
    # A bool is an int, but no index.
    if len(indices) not in (1, 3) or not all(type(i) is int and i >= 0 for i in indices):
        raise ValueError(
            "data.bands must be 1 or 3 indices from 0, for grey or for red, green and blue, "
            f"got {indices if is_list else bands!r}"
        )
    return indices


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


def _opener(file: Path) -> Callable[[Path, str | None], Any]:
    suffix = file.suffix.lower()
    if suffix == ".npy":
        return _open_npy
    if suffix == ".npz":
        return _open_npz
    if suffix in FITS:
        return _open_fits
    if suffix in HDF5:
        return _open_hdf5
    advice = "; unpack it first" if suffix in PACKED else ""
    raise ImageError(f"{file} must end in {', '.join(ARRAYS)}, got {suffix or 'no suffix'}{advice}")


@contextmanager
def _open_npy(file: Path, array: str | None) -> Iterator[_Stored]:
    with file.open("rb") as stream:
        header = _npy_header(stream)
        if header.dtype.hasobject:
            raise ImageError(f"{_objects(file)}; store it again as numbers")
        needed = stream.tell() + header.size
        if (size := os.fstat(stream.fileno()).st_size) < needed:
            raise ImageError(_truncated(file, needed, size))
        yield header.mapped(file, stream.tell())


@contextmanager
def _open_npz(file: Path, array: str | None) -> Iterator[_Stored]:
    with zipfile.ZipFile(file) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        names = list(members)
        if array is None:
            headers = {name: _member_header(archive, members[name]) for name in names}
            arrays = [name for name in names if len(headers[name].shape) >= 2]
            names = [name for name in arrays if not headers[name].dtype.hasobject]
            if arrays and not names:
                raise ImageError(f"{_objects(file)}; set data.array to an array of numbers")
        member = archive.getinfo(members[_the_only(file, names, array)])
        with archive.open(member) as stream:
            header = _npy_header(stream)
            if header.dtype.hasobject:
                raise ImageError(f"{_objects(file)}; set data.array to an array of numbers")
            start = stream.tell()
            if member.file_size < start + header.size:
                raise ImageError(_truncated(file, start + header.size, member.file_size))
            if member.compress_type == zipfile.ZIP_STORED:
                yield header.mapped(file, _member_start(file, member) + start)
            else:
                yield header.loaded(stream, file)


@contextmanager
def _open_fits(file: Path, array: str | None) -> Iterator[_Stored]:
    use = f"{file}, a FITS file,"
    fits = load_extra("astropy.io.fits", use=use)
    # its errors derive from none of those of Python
    tiles = load_extra("astropy.io.fits.hdu.compressed._compression", use=use)
    with file.open("rb") as stream:
        # The reader would unpack any amount of gzip, bzip2 or zip data.
        if stream.read(6) != b"SIMPLE":
            raise ImageError(f"{file} is no FITS file or is packed; unpack it, or fetch it again")
    try:
        with warnings.catch_warnings():
            # Of truncation, which is an error here, and of headers that are not standard.
            warnings.simplefilter("ignore")
            with fits.open(file, mode="readonly", memmap=False) as units:
                unit = _image_unit(file, units, array)
                _check_span(file, unit)
                yield _Stored(tuple(unit.shape), np.dtype(float), unit.section.__getitem__)
    except (fits.VerifyError, tiles.CfitsioException) as error:
        raise _damaged(file, error) from error


@contextmanager
def _open_hdf5(file: Path, array: str | None) -> Iterator[_Stored]:
    h5py = load_extra("h5py", use=f"{file}, an HDF5 file,")
    # A lock could not be had on a read-only disk.
    with h5py.File(file, "r", locking=False) as root:
        names: list[str] = []
        # Links are not followed.
        least = 0 if array is not None else 2
        root.visititems(lambda name, item: names.append(name) if _axes_of(item) >= least else None)
        stored = root[_the_only(file, names, None if array is None else array.strip("/"))]
        if stored.external or stored.is_virtual:
            raise ImageError(
                f"{file} must hold its data itself, got an array whose data lie in other files; "
                "copy it into one file"
            )
        if stored.chunks and math.prod(stored.chunks) * stored.dtype.itemsize > MAX_BYTES:
            raise ImageError(
                f"{file} must have chunks of at most {MAX_BYTES} bytes, got {stored.chunks}; "
                "store it again in smaller ones"
            )
        yield _Stored(stored.shape, stored.dtype, stored.__getitem__)


@dataclass(frozen=True)
class _NpyHeader:
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def mapped(self, file: Path, offset: int) -> _Stored:
        if not self.size:
            return _Stored(self.shape, self.dtype, np.zeros(self.shape, self.dtype).__getitem__)
        order: Literal["F", "C"] = "F" if self.fortran_order else "C"
        values = np.memmap(file, self.dtype, "r", offset, self.shape, order)
        return _Stored(self.shape, self.dtype, lambda part: np.array(values[part]))

    def loaded(self, stream: Any, file: Path) -> _Stored:  # noqa: ANN401 a member of a zip
        if self.size > MAX_BYTES:
            raise ImageError(
                f"{file} must hold at most {MAX_BYTES} bytes if compressed, got {self.size}; store "
                "it with numpy.savez or numpy.save, which can be read field by field"
            )
        flat = np.frombuffer(stream.read(self.size), self.dtype)
        values = flat.reshape(self.shape, order="F" if self.fortran_order else "C")
        return _Stored(self.shape, self.dtype, values.__getitem__, in_memory=True)


def _npy_header(stream: Any) -> _NpyHeader:  # noqa: ANN401 a file or a member of a zip
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version} of the format is not known")
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    try:
        header = _NpyHeader(*read(stream))
    except (SyntaxError, tokenize.TokenError, MemoryError) as error:
        # The parser of the header lets these escape.
        raise ValueError("its header is damaged") from error
    if min(header.shape, default=0) < 0:
        raise ValueError(f"its shape is {header.shape}")
    return header


def _member_header(archive: zipfile.ZipFile, member: str) -> _NpyHeader:
    with archive.open(member) as stream:
        return _npy_header(stream)


def _member_start(file: Path, member: zipfile.ZipInfo) -> int:
    """Find where the data of an uncompressed member begin: behind its local header."""
    with file.open("rb") as stream:
        stream.seek(member.header_offset)
        name, extra = struct.unpack("<26xHH", stream.read(30))
    return member.header_offset + 30 + int(name) + int(extra)


def _image_unit(file: Path, units: Any, array: str | None) -> Any:  # noqa: ANN401 FITS has no types
    images = {i: unit for i, unit in enumerate(units) if unit.is_image and len(unit.shape) >= 2}
    if array is None:
        chosen = list(images)
    elif array.isdecimal():
        chosen = [index for index in images if index == int(array)]
    else:
        # Names of FITS know no case.
        wanted = array.upper().replace(" ", "")
        chosen = [index for index, unit in images.items() if wanted in _unit_names(unit)]
    if len(chosen) == 1:
        return images[chosen[0]]
    asked = "one image" if array is None else f"one image by data.array={array}"
    listed = ", ".join(_unit_label(i, images[i]) for i in chosen or images)
    raise ImageError(
        f"{file} must hold {asked}, got {listed or 'none'}; set data.array to the number of one"
    )


def _unit_names(unit: Any) -> set[str]:  # noqa: ANN401
    name = unit.name.upper().replace(" ", "")
    return {name, f"{name},{unit.ver}"} if name else set()


def _unit_label(index: int, unit: Any) -> str:  # noqa: ANN401
    return f"{index} ({unit.name},{unit.ver})" if unit.name else str(index)


def _axes_of(item: Any) -> int:  # noqa: ANN401 an array or group of an HDF5 file
    return len(item.shape) if getattr(item, "shape", None) is not None else -1


def _check_span(file: Path, unit: Any) -> None:  # noqa: ANN401
    tile = math.prod(getattr(unit, "tile_shape", None) or (0,))
    if tile * 8 > MAX_BYTES:
        raise ImageError(
            f"{file} must be packed in tiles of at most {MAX_BYTES} bytes, got {unit.tile_shape}; "
            "unpack it with funpack"
        )
    place = unit.fileinfo()
    if hasattr(unit, "tile_shape"):
        needed = place["datLoc"] + place["datSpan"]
    else:
        # Padding at the end of the file may be missing.
        needed = place["datLoc"] + unit.size
    if (size := file.stat().st_size) < needed:
        raise ImageError(_truncated(file, needed, size))


def _the_only(file: Path, names: Sequence[str], array: str | None) -> str:
    if array is None and len(names) == 1:
        return names[0]
    if array is not None and array in names:
        return array
    asked = "one array" if array is None else f"the array {array}"
    raise ImageError(
        f"{file} must hold {asked}, got {', '.join(names) or 'none'}; set data.array to one of them"
    )


def _check_size(shape: tuple[int, ...], path: str) -> None:
    pixels = math.prod(shape)
    if not pixels or pixels > 3 * MAX_PIXELS:
        raise ImageError(
            f"{path} must hold 1 to {3 * MAX_PIXELS} values, got shape {shape}; remove it"
        )


def _check_finite(values: npt.NDArray[Any], path: str) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        nan = int(np.isnan(values).sum())
        band, row, column = bad[0].tolist()
        raise ImageError(
            f"{path} must hold finite values, got {nan} NaN and {len(bad) - nan} infinite ones, "
            f"the first in band {band}, row {row}, column {column}; repair or remove it"
        )


def _objects(file: Path) -> str:
    return f"{file} must hold numbers, got pickled objects, which are never loaded"


def _truncated(file: Path, needed: int, size: int) -> str:
    return f"{file} is truncated, it must have {needed} bytes and has {size}; fetch it again"


def _damaged(file: Path, error: Exception) -> ImageError:
    return ImageError(f"{file} cannot be read ({error}); fetch it again, or remove it")
