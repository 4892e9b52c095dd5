"""Read arrays in NumPy, FITS and HDF5 files part by part; never unpickle anything."""

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

from ood_sampler.data.images import ImageError
from ood_sampler.data.layout import FieldError
from ood_sampler.data.listing import PACKED
from ood_sampler.data.sources import MAX_BYTES, MissingPackageError, load_extra

FITS = (".fits", ".fit", ".fts", ".fz")
HDF5 = (".h5", ".hdf5", ".hdf")
ARRAYS = (".npy", ".npz", *FITS, *HDF5)

# What readers raise on damaged files; FITS adds one of its own.
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


@dataclass(frozen=True)
class Stored:
    """An array in an open file; parts of it can be read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    get: Callable[[Any], npt.NDArray[Any]]
    in_memory: bool = False
    unit: str | None = None
    """Unit of the values: BUNIT in FITS, the attribute `units` or `unit` in HDF5."""


@contextmanager
def open_array(file: Path, array: str | None) -> Iterator[Stored]:
    """Open the array of that name in a file; None opens the only one.

    Raises:
        ImageError: The file cannot be read, or does not hold one such array of real numbers.
        MissingPackageError: The format needs a package that is not installed.
    """
    try:
        with _opener(file)(file, array) as stored:
            if stored.dtype.kind not in "biuf":
                raise FieldError(
                    "shape", f"{file} must hold real numbers, got {stored.dtype}; remove it"
                )
            yield stored
    except (ImageError, MissingPackageError):
        raise
    except _READER_ERRORS as error:
        raise _damaged(file, error) from error


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
def _open_npy(file: Path, array: str | None) -> Iterator[Stored]:
    with file.open("rb") as stream:
        header = _npy_header(stream)
        if header.dtype.hasobject:
            raise ImageError(f"{_objects(file)}; store it again as numbers")
        needed = stream.tell() + header.size
        if (size := os.fstat(stream.fileno()).st_size) < needed:
            raise ImageError(_truncated(file, needed, size))
        yield header.mapped(file, stream.tell())


@contextmanager
def _open_npz(file: Path, array: str | None) -> Iterator[Stored]:
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
def _open_fits(file: Path, array: str | None) -> Iterator[Stored]:
    use = f"{file}, a FITS file,"
    fits = load_extra("astropy.io.fits", use=use)
    # Its errors derive from no built-in one.
    tiles = load_extra("astropy.io.fits.hdu.compressed._compression", use=use)
    with file.open("rb") as stream:
        # The reader would unpack any amount of gzip, bzip2 or zip data.
        if stream.read(6) != b"SIMPLE":
            raise ImageError(f"{file} is no FITS file or is packed; unpack it, or fetch it again")
    try:
        with warnings.catch_warnings():
            # Warnings of truncation, which is an error here, and of non-standard headers.
            warnings.simplefilter("ignore")
            with fits.open(file, mode="readonly", memmap=False) as units:
                unit = _image_unit(file, units, array)
                _check_span(file, unit)
                yield Stored(
                    tuple(unit.shape),
                    np.dtype(float),
                    unit.section.__getitem__,
                    unit=_text_of(
                        lambda: unit.header.get("BUNIT"), (*_READER_ERRORS, fits.VerifyError)
                    ),
                )
    except (fits.VerifyError, tiles.CfitsioException) as error:
        raise _damaged(file, error) from error


@contextmanager
def _open_hdf5(file: Path, array: str | None) -> Iterator[Stored]:
    h5py = load_extra("h5py", use=f"{file}, an HDF5 file,")
    # A lock cannot be taken on a read-only disk.
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
        yield Stored(
            stored.shape,
            stored.dtype,
            stored.__getitem__,
            unit=_text_of(lambda: stored.attrs.get("units", stored.attrs.get("unit"))),
        )


@dataclass(frozen=True)
class _NpyHeader:
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def mapped(self, file: Path, offset: int) -> Stored:
        if not self.size:
            return Stored(self.shape, self.dtype, np.zeros(self.shape, self.dtype).__getitem__)
        order: Literal["F", "C"] = "F" if self.fortran_order else "C"
        values = np.memmap(file, self.dtype, "r", offset, self.shape, order)
        return Stored(self.shape, self.dtype, lambda part: np.array(values[part]))

    def loaded(self, stream: Any, file: Path) -> Stored:  # noqa: ANN401 a member of a zip
        if self.size > MAX_BYTES:
            raise ImageError(
                f"{file} must hold at most {MAX_BYTES} bytes if compressed, got {self.size}; store "
                "it with numpy.savez or numpy.save, which can be read field by field"
            )
        flat = np.frombuffer(stream.read(self.size), self.dtype)
        values = flat.reshape(self.shape, order="F" if self.fortran_order else "C")
        return Stored(self.shape, self.dtype, values.__getitem__, in_memory=True)


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
        # The parser of the header does not catch these.
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
        # FITS names are case-insensitive.
        wanted = array.upper().replace(" ", "")
        chosen = [index for index, unit in images.items() if wanted in _unit_names(unit)]
    if len(chosen) == 1:
        return images[chosen[0]]
    asked = "one image" if array is None else f"one image by data.array={array}"
    listed = ", ".join(_unit_label(i, images[i]) for i in chosen or images)
    raise FieldError(
        "several images" if array is None and images else "missing array",
        f"{file} must hold {asked}, got {listed or 'none'}; set data.array to the number of one",
    )


def _unit_names(unit: Any) -> set[str]:  # noqa: ANN401
    name = unit.name.upper().replace(" ", "")
    return {name, f"{name},{unit.ver}"} if name else set()


def _unit_label(index: int, unit: Any) -> str:  # noqa: ANN401
    return f"{index} ({unit.name},{unit.ver})" if unit.name else str(index)


def _text_of(
    read: Callable[[], Any], errors: tuple[type[Exception], ...] = _READER_ERRORS
) -> str | None:
    """Return a text of a header, None if it is missing or damaged: that is no reason to stop."""
    try:
        value = read()
        text = value.decode() if isinstance(value, bytes) else value
    except errors:
        return None
    return text.strip() or None if isinstance(text, str) else None


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
    raise FieldError(
        "several images" if array is None and names else "missing array",
        f"{file} must hold {asked}, got {', '.join(names) or 'none'}; set data.array to one of "
        "them",
    )


def _objects(file: Path) -> str:
    return f"{file} must hold numbers, got pickled objects, which are never loaded"


def _truncated(file: Path, needed: int, size: int) -> str:
    return f"{file} is truncated, it must have {needed} bytes and has {size}; fetch it again"


def _damaged(file: Path, error: Exception) -> ImageError:
    return ImageError(f"{file} cannot be read ({error}); fetch it again, or remove it")
