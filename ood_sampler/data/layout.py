"""Interpret an array as a field: find its axes, choose its bands, replace NaN."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ood_sampler.data.images import ImageError

Field = npt.NDArray[np.float64]

BandAxis = Literal["first", "last", "none"]

Nan = Literal["refuse", "zero", "median"]

Kind = Literal["NaN", "infinite values", "bands", "shape", "several images", "missing array"]


class FieldError(ImageError):
    """A field cannot be used; errors of one kind are counted together.

    Args:
        kind: The problem, in a word or two.
        message: Names the file and the remedy.
    """

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind: str = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.kind, str(self)))


@dataclass(frozen=True)
class Layout:
    """Where a file holds its fields, and which parts of them are used.

    Raises:
        ValueError: An argument is out of range.
    """

    array: str | None = None
    """Name of the array in an .npz or HDF5 file; in a FITS file the number of the HDU (from 0), its
    name, or name and version (`SCI,2`). None takes the only one."""

    band_axis: BandAxis | None = None
    """Whether bands are the `first` or `last` axis of a field, or there is `none`. None infers it
    from an unambiguous shape, see `find_bands`."""

    bands: Sequence[int] | int | None = None
    """Indices of the bands to use, in this order, or a single one. None takes all."""

    nan: Nan = "refuse"
    """What a NaN becomes: an error, zero, or the median of the other values of its band."""

    def __post_init__(self) -> None:
        if self.band_axis not in (None, *get_args(BandAxis)):
            raise ValueError(
                f"data.band_axis must be first, last, none or null, got {self.band_axis!r}"
            )
        if self.nan not in get_args(Nan):
            raise ValueError(f"data.nan must be refuse, zero or median, got {self.nan!r}")
        if self.array is not None:
            object.__setattr__(self, "array", str(self.array))
        if self.bands is not None:
            object.__setattr__(self, "bands", _checked_bands(self.bands))

    def bands_first(self, values: npt.NDArray[Any], place: str) -> npt.NDArray[Any]:
        """Return the wanted bands of a field, shape $(C, H, W)$.

        Args:
            values: As stored; leading axes of length 1 beyond three are dropped.
            place: The file, for errors.

        Raises:
            FieldError: The shape does not fit, or is ambiguous.
        """
        while values.ndim > 3 and values.shape[0] == 1:
            values = values[0]
        axis = self.find_bands(values.shape, place)
        if axis is None:
            bands = values.reshape(1, *values.shape[-2:])
        else:
            bands = np.moveaxis(values, axis, 0)
        return self._chosen(bands, values.shape, place)

    def find_bands(self, shape: tuple[int, ...], place: str) -> int | None:
        """Return the axis of the bands of a field, 0 or 2, or None without one.

        Two axes are height and width. Of three axes the bands are the first or last: the only one
        of length 1, or the one shorter than two equal others. Other shapes are ambiguous.

        Raises:
            FieldError: The shape does not fit `band_axis`, or is ambiguous.
        """
        if len(shape) not in (2, 3):
            raise FieldError(
                "several images",
                f"{place} must have shape (H, W), (C, H, W) or (H, W, C), got {shape}; "
                "give a file of many fields as data.root itself, or store one image a file with "
                "its bands on the axis that data.band_axis names",
            )
        if self.band_axis is None:
            return None if len(shape) == 2 else _unambiguous(shape, place)
        if self.band_axis == "none":
            if len(shape) == 3 and shape[0] != 1:
                raise FieldError(
                    "several images",
                    f"{place} must be one image (H, W), as data.band_axis=none says, got {shape}; "
                    "set data.band_axis to first or last, or give a file of many images as "
                    "data.root itself",
                )
            return None
        if len(shape) == 2:
            raise FieldError(
                "shape",
                f"{place} must have a {self.band_axis} axis of bands, as data.band_axis says, got "
                f"{shape}; set data.band_axis to none",
            )
        return 0 if self.band_axis == "first" else 2

    def fill(self, field: Field, place: str) -> tuple[Field, int]:
        """Replace NaN values as `nan` says; return the field and their number.

        Args:
            field: Shape $(C, H, W)$.
            place: The file, for errors.

        Raises:
            FieldError: A value is infinite, or NaN though these are refused, or a whole band is.
        """
        nan = np.isnan(field)
        count = int(nan.sum())
        infinite = int(np.isinf(field).sum())
        if infinite or (count and self.nan == "refuse"):
            raise _not_finite(field, count, infinite, place)
        if not count:
            return field, 0
        filled = np.zeros_like(field)
        if self.nan == "median":
            if nan.all(axis=(1, 2)).any():
                raise FieldError(
                    "NaN",
                    f"{place} must have a number in each band for data.nan=median, got a band of "
                    "NaN alone; remove it, or set data.nan to zero",
                )
            filled += np.nanmedian(field, axis=(1, 2), keepdims=True)
        return np.where(nan, filled, field), count

    def _chosen(
        self, values: npt.NDArray[Any], shape: tuple[int, ...], place: str
    ) -> npt.NDArray[Any]:
        count = len(values)
        if isinstance(self.bands, list):
            if max(self.bands) >= count:
                raise FieldError(
                    "bands",
                    f"{place} must have the bands {self.bands}, got {count} bands in shape {shape}"
                    "; change data.bands or data.band_axis",
                )
            return values[self.bands]
        if count not in (1, 3):
            raise FieldError(
                "bands",
                f"{place} must have 1 or 3 bands, got {count}; choose 1 or 3 of them with "
                f"data.bands, for example data.bands=[0,1,2], or another data.band_axis for the "
                f"shape {shape}",
            )
        return values


def check_stack(shape: tuple[int, ...], layout: Layout, place: str) -> None:
    """Check that the first axis of an array counts its fields.

    Raises:
        FieldError: It does not have three or four axes, or is ambiguous.
    """
    if len(shape) not in (3, 4):
        raise FieldError(
            "shape",
            f"{place} must hold (N, H, W), (N, C, H, W) or (N, H, W, C), got {shape}; "
            "files of one field each belong together in a folder",
        )
    count, height, width = shape[:3]
    if len(shape) == 3 and layout.band_axis is None and (height != width or count == height):
        raise FieldError(
            "shape",
            f"{place} must show which axis counts its fields, got {shape}; set data.band_axis to "
            f"none if it is (N, H, W), {count} fields of {height}x{width} without bands, or "
            "store it in that order",
        )
    layout.find_bands(shape[1:], f"each field of {place}")


def _unambiguous(shape: tuple[int, ...], place: str) -> int:
    first, middle, last = shape
    if middle == last and first < middle:
        return 0
    if first == middle and last < middle:
        return 2
    # An axis of length 1 is never a side of an image.
    if 1 in (first, last) and sorted(shape)[1] > 1:
        return 0 if first == 1 else 2
    raise FieldError(
        "shape",
        f"{place} must show where its bands are, got {shape}; set data.band_axis to first for "
        f"{first} bands of {middle}x{last}, or to last for {last} bands of {first}x{middle}; many "
        "images in one file belong in data.root itself",
    )


def _checked_bands(bands: Any) -> list[int]:  # noqa: ANN401 whatever a setting holds
    is_list = isinstance(bands, Sequence) and not isinstance(bands, str)
    indices = list(bands) if is_list else [bands]
    # A bool is an int, but not an index.
    if len(indices) not in (1, 3) or not all(type(i) is int and i >= 0 for i in indices):
        raise ValueError(
            "data.bands must be 1 or 3 indices from 0, for grey or for red, green and blue, "
            f"got {indices if is_list else bands!r}"
        )
    return indices


def _not_finite(field: Field, nan: int, infinite: int, place: str) -> FieldError:
    band, row, column = np.argwhere(~np.isfinite(field))[0].tolist()
    remedy = "repair or remove it"
    if not infinite:
        remedy += ", or set data.nan to zero or median"
    return FieldError(
        "infinite values" if infinite else "NaN",
        f"{place} must hold finite values, got {nan} NaN and {infinite} infinite ones, "
        f"the first in band {band}, row {row}, column {column}; {remedy}",
    )
