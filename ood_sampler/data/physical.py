"""Write images as physical fields: NumPy always, FITS if its package is installed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ood_sampler.data.radiation import FieldScale
from ood_sampler.data.sources import MissingPackageError, load_extra
from ood_sampler.store.files import atomic
from ood_sampler.store.sets import TensorSet

_BLOCK = 2880
"""Bytes of a FITS block; header and data are padded to whole blocks."""


class GreyImages(TensorSet):
    """Images of another set, the three colours of each pixel replaced by their mean.

    Samples of a domain of one band are not quite grey, but each pixel stands for one value, the one
    that `FieldScale.from_pictures` gives.
    """

    def __init__(self, images: TensorSet) -> None:
        self.images = images

    @property
    def shape(self) -> tuple[int, ...]:
        return self.images.shape

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Sequence[int]) -> Tensor:
        colours = self.images.take(indices)
        return colours.mean(dim=1, keepdim=True).expand_as(colours)


def as_bands(images: TensorSet, scale: FieldScale | None) -> TensorSet:
    """Return images as their domain has them: grey if its fields have one band."""
    single = scale is not None and len(scale.low) == 1
    return GreyImages(images) if single else images


def write_fields(
    folder: Path,
    blocks: Callable[[], Iterable[Tensor]],
    count: int,
    scale: FieldScale,
    *,
    unit: str | None,
) -> list[str]:
    """Write `samples.npy`, and `samples.fits` if astropy is installed; return their names.

    Args:
        folder: Folder of the files.
        blocks: Yields the images, as for `write_physical`; called once per file.
        count: As for `write_physical`, like the scale.
        scale: Likewise.
        unit: As for `write_fits`.

    Raises:
        OSError: A file cannot be written.
    """
    write_physical(folder / "samples.npy", blocks(), count, scale)
    try:
        write_fits(folder / "samples.fits", blocks(), count, scale, unit=unit)
    except MissingPackageError:
        return ["samples.npy"]
    return ["samples.npy", "samples.fits"]


def write_physical(path: Path, blocks: Iterable[Tensor], count: int, scale: FieldScale) -> None:
    r"""Write images as physical fields to a .npy file, shape $(N, C, H, W)$, block by block.

    Args:
        path: The file; it appears when it is complete.
        blocks: Images in [-1, 1], shape $(B, 3, H, W)$ each; at least one.
        count: Number of all images.
        scale: Scale of their domain (`TargetDomain.scale`).

    Raises:
        OSError: The file cannot be written.
        ValueError: The blocks do not hold `count` images.
    """
    with atomic(path) as partial, partial.open("wb") as file:
        for fields in _counted(blocks, count, scale):
            if not file.tell():
                header = {
                    "descr": np.lib.format.dtype_to_descr(fields.dtype),
                    "fortran_order": False,
                    "shape": (count, *fields.shape[1:]),
                }
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(fields).data)


def write_fits(
    path: Path, blocks: Iterable[Tensor], count: int, scale: FieldScale, *, unit: str | None
) -> None:
    """Write images as physical fields to the primary array of a FITS file, block by block.

    In NumPy's order its shape is $(N, C, H, W)$, for a single band a cube $(N, H, W)$. The header
    gives the unit (BUNIT) and the scale: SCALING, LOWn, HIGHn and, for asinh, SOFTn of band n,
    counted from 1.

    Args:
        path: As for `write_physical`, like the next three.
        blocks: Likewise.
        count: Likewise.
        scale: Likewise.
        unit: Unit of the values; None if unknown.

    Raises:
        MissingPackageError: astropy is not installed.
        OSError: The file cannot be written.
        ValueError: The blocks do not hold `count` images.
    """
    load_extra("astropy.io.fits", use=f"{path.name}, a FITS file,")
    with atomic(path) as partial, partial.open("wb") as file:
        for fields in _counted(blocks, count, scale):
            values = fields[:, 0] if fields.shape[1] == 1 else fields
            if not file.tell():
                header = _header((count, *values.shape[1:]), scale, unit)
                file.write(header.tostring().encode("ascii"))
            file.write(values.astype(values.dtype.newbyteorder(">")).tobytes())
        file.write(bytes(-file.tell() % _BLOCK))


def _counted(
    blocks: Iterable[Tensor], count: int, scale: FieldScale
) -> Iterator[npt.NDArray[np.floating[Any]]]:
    written = 0
    for block in blocks:
        yield scale.from_pictures(block).numpy()
        written += len(block)
    if written != count:
        raise ValueError(f"count must be the number of images, {written}, got {count}")


def _header(shape: Sequence[int], scale: FieldScale, unit: str | None) -> Any:  # noqa: ANN401
    fits = load_extra("astropy.io.fits", use="samples.fits")
    bits = 32 if scale.dtype == torch.float32 else 64
    header = fits.Header([("SIMPLE", True), ("BITPIX", -bits), ("NAXIS", len(shape))])
    for axis, length in enumerate(reversed(shape), start=1):
        header[f"NAXIS{axis}"] = length
    if (text := _ascii(unit)) is not None:
        header["BUNIT"] = (text, "unit of the values")
    header["SCALING"] = (scale.scaling, "from values to colours in [-1, 1]")
    described = scale.as_dict()
    for key, entry, meaning in (
        ("LOW", "low", "value that is -1"),
        ("HIGH", "high", "value that is 1"),
        ("SOFT", "softening", "softening of asinh"),
    ):
        for band, value in enumerate(described.get(entry, ()), start=1):
            header[f"{key}{band}"] = (value, f"band {band}: {meaning}")
    return header


def _ascii(unit: str | None) -> str | None:
    """Return a unit as FITS can hold it, None if it cannot."""
    # Unicode has two characters for micro; FITS writes it u.
    text = (unit or "").replace("\N{MICRO SIGN}", "u").replace("\N{GREEK SMALL LETTER MU}", "u")
    return text if text and text.isascii() and text.isprintable() else None
