"""A target domain of physical fields: read, resized, scaled to colours, and back."""

import hashlib
import math
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ood_sampler.data.arrays import ArraySource, BandAxis
from ood_sampler.data.artifact import atomic
from ood_sampler.data.domain import (
    ImageSet,
    TargetDomain,
    checked_resolution,
    digest_of,
    warn_of_upsampling,
)
from ood_sampler.data.images import ImageError
from ood_sampler.data.listing import user_path
from ood_sampler.data.published import Origin, missing_data
from ood_sampler.data.radiation import SCALINGS, FieldScale, make_scale
from ood_sampler.data.split import Picture, content_of, split_sources
from ood_sampler.faults import printable

_BINS = 2**16
"""Bins between the smallest and the largest value, in which quantiles are counted."""

_CLIPPED = 0.001
"""More than this share of clipped values is worth a warning."""

Limits = float | Sequence[float] | None

FIELDS_VERSION = 1
"""Raised whenever a field gives other colours than before; part of every digest."""


class FieldSet(Sequence[Tensor]):
    """Inspected fields of files, read and resized again at each access: float64, $(C, R, R)$."""

    def __init__(
        self, source: ArraySource, pictures: Sequence[Picture], *, resolution: int
    ) -> None:
        self.pictures = list(pictures)
        self.resolution = checked_resolution(resolution)
        self._source = source

    def __len__(self) -> int:
        return len(self.pictures)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        picture = self.pictures[index]
        field = self._source.read(picture.index)
        # Results are cached under the digest of the values that were inspected.
        if _hash(field) != picture.sha256:
            path = self._source.path(picture.index)
            raise ImageError(f"{path} has changed since the run began; start the run again")
        return resize(torch.from_numpy(field), self.resolution)


class PhysicalFields(ImageSet):
    """The colour pictures that a scale makes of fields."""

    def __init__(self, fields: FieldSet, scale: FieldScale) -> None:
        pictures = fields.pictures
        self.names = [printable(picture.name) for picture in pictures]
        self.resolution = fields.resolution
        self.upsampled = [printable(p.name) for p in pictures if p.shorter_side < fields.resolution]
        content = digest_of(
            [picture.name for picture in pictures],
            (picture.sha256 for picture in pictures),
            resolution=fields.resolution,
        )
        scaled = f"{FIELDS_VERSION} {sorted(scale.as_dict().items())} {content}"
        self.digest = hashlib.sha256(scaled.encode()).hexdigest()
        self._fields = fields
        self._scale = scale

    def __getitem__(self, index: int) -> Tensor:
        return self._scale.to_pictures(self._fields[index])[0]

    def clipped(self) -> float:
        """Return the fraction of all values that lies outside of the scale."""
        shares = [self._scale.to_pictures(field)[1] for field in self._fields]
        return sum(shares) / len(shares)


def array_domain(
    *,
    name: str,
    root: str,
    resolution: int,
    few_shot: int | None,
    held_out: int | None,
    held_out_root: str | None,
    array: str | None,
    band_axis: BandAxis | None,
    bands: Sequence[int] | int | None,
    scaling: str,
    low: Limits,
    high: Limits,
    quantiles: Sequence[float],
    softening: float,
    seed: int,
    on_error: Literal["raise", "skip"],
    origin: Origin,
) -> TargetDomain:
    """Make a domain of physical fields, split as `folder_domain` says.

    Each field is cropped to its central square, resized by `resize`, limited to [low, high] and
    scaled to colours by `make_scale`; a single band gives a grey picture. `TargetDomain.scale`
    leads back, and `TargetDomain.clipped` says how much was limited.

    Args:
        name: What the domain is called in tables.
        root: File or folder, as in `ArraySource`.
        resolution: As in `folder_domain`, like the next two.
        few_shot: Likewise.
        held_out: Likewise.
        held_out_root: File or folder of the held-out set; None splits `root`.
        array: As in `ArraySource`, like the next two.
        band_axis: Likewise.
        bands: Likewise.
        scaling: As in `make_scale`, like `softening`.
        low: Lower limit, one number or one for each band; None measures it.
        high: Upper limit, likewise.
        quantiles: Of the few-shot values (of the positive ones for `log`), which become the limits
            that are not given; 0 and 1 are the smallest and the largest value.
        softening: As in `make_scale`.
        seed: As in `folder_domain`, like `on_error`.
        on_error: Likewise.
        origin: How to come by the data set.

    Raises:
        FileNotFoundError: A root does not exist.
        ImageError: A file cannot be read, or `on_error` is `raise` and a field is unusable.
        ValueError: There are too few fields, or an argument is out of range.
    """
    checked_resolution(resolution)
    _check_scaling(scaling, quantiles, softening)
    _check_limits("low", low)
    _check_limits("high", high)
    path = user_path(str(root), key="data.root")
    if not path.exists():
        raise missing_data(name, path, origin)
    options: dict[str, Any] = {"array": array, "band_axis": band_axis, "bands": bands}
    first = ArraySource(path, **options)
    second = None
    if held_out_root is not None:
        second = ArraySource(held_out_root, key="data.held_out_root", **options)
    split = split_sources(
        first,
        second,
        partial(inspect_field, resolution=resolution),
        few_shot=few_shot,
        held_out=held_out,
        seed=seed,
        on_error=on_error,
    )
    few_shot_fields = FieldSet(first, split.few_shot, resolution=resolution)
    held_out_fields = FieldSet(second or first, split.held_out, resolution=resolution)
    scale = _scale_of(few_shot_fields, scaling, low, high, quantiles, softening)
    few_shot_pictures = PhysicalFields(few_shot_fields, scale)
    held_out_pictures = PhysicalFields(held_out_fields, scale)
    domain = TargetDomain(
        name=name,
        few_shot=few_shot_pictures,
        held_out=held_out_pictures,
        skipped=split.skipped,
        scale=scale,
        clipped=(few_shot_pictures.clipped(), held_out_pictures.clipped()),
    )
    warn_of_upsampling(domain)
    _warn_of_clipping(domain)
    return domain


def inspect_field(source: ArraySource, index: int, *, resolution: int) -> Picture:
    """Read field `index` of `source`; equal values have equal hashes, however they are stored.

    The content is that of float32, so that a field is the same one in files of either precision.

    Raises:
        ImageError: It is unreadable.
    """
    field = source.read(index)
    return Picture(
        index=index,
        name=source.names[index],
        sha256=_hash(field),
        content=content_of(resize(torch.from_numpy(_as_precise_as_float32(field)), resolution)),
        shorter_side=min(field.shape[1:]),
    )


def resize(field: Tensor, resolution: int) -> Tensor:
    r"""Crop a field to its central square and resize that.

    Downwards by the exact area average: an output pixel is the mean of the area that it covers, so
    that the mean of the field stays. Upwards by bilinear interpolation. Neither makes values beyond
    those of the field.

    Args:
        field: Shape $(C, H, W)$.
        resolution: $R$, the side of the result.

    Returns:
        Shape $(C, R, R)$.
    """
    height, width = field.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = field[:, top : top + side, left : left + side]
    if side == resolution:
        return square.clone()
    if side < resolution:
        return interpolate(square[None], size=(resolution, resolution), mode="bilinear")[0]
    # Row i holds the part that each input pixel has in output pixel i.
    edges = torch.arange(resolution + 1, dtype=field.dtype) * (side / resolution)
    pixels = torch.arange(side, dtype=field.dtype)
    start = torch.maximum(edges[:-1, None], pixels)
    end = torch.minimum(edges[1:, None], pixels + 1)
    parts = (end - start).clamp(min=0) * (resolution / side)
    return parts @ square @ parts.T


def measure_limits(
    fields: Iterable[Tensor], quantiles: Sequence[float], *, positive: bool
) -> tuple[list[float], list[float]]:
    """Find two quantiles of each band, over all values of all fields.

    They are counted in 65,536 bins between the smallest and the largest value, equal on the scale
    of logarithms if `positive`, and exact at the quantiles 0 and 1. Fields are read twice, one at
    a time.

    Args:
        fields: Shape $(C, H, W)$ each; iterated twice.
        quantiles: Two numbers in [0, 1].
        positive: Whether only values above 0 count.

    Raises:
        ValueError: Fields differ in their number of bands, or a band has no value that counts.
    """
    ends = _extremes(fields, positive=positive)
    counts = torch.zeros(len(ends), _BINS, dtype=torch.float64)
    if not set(quantiles) <= {0, 1}:
        for field in fields:
            for band, (low, high) in enumerate(ends):
                values = field[band]
                if positive:
                    values = values[values > 0].log()
                    low, high = math.log(low), math.log(high)
                counts[band] += torch.histc(values, _BINS, low, high)
    lows, highs = (
        [
            _quantile(row, quantile, end, positive=positive)
            for row, end in zip(counts, ends, strict=True)
        ]
        for quantile in quantiles
    )
    return lows, highs


def write_physical(path: Path, blocks: Iterable[Tensor], count: int, scale: FieldScale) -> None:
    r"""Write images as physical fields to a .npy file, block by block, atomically.

    Args:
        path: The file; it appears once it is whole.
        blocks: Images in [-1, 1], shape $(B, 3, H, W)$ each; at least one.
        count: The number of all images.
        scale: What their training set was scaled by (`TargetDomain.scale`).

    Raises:
        OSError: The file cannot be written.
        ValueError: The blocks do not hold `count` images.
    """
    written = 0
    with atomic(path) as partial, partial.open("wb") as file:
        for block in blocks:
            fields = scale.from_pictures(block).numpy()
            if not written:
                np.lib.format.write_array_header_1_0(
                    file,
                    {
                        "descr": np.lib.format.dtype_to_descr(fields.dtype),
                        "fortran_order": False,
                        "shape": (count, *fields.shape[1:]),
                    },
                )
            file.write(np.ascontiguousarray(fields).data)
            written += len(fields)
        if written != count:
            raise ValueError(f"count must be the number of images, {written}, got {count}")


def _scale_of(
    fields: FieldSet,
    scaling: str,
    low: Limits,
    high: Limits,
    quantiles: Sequence[float],
    softening: float,
) -> FieldScale:
    if low is None or high is None:
        measured = measure_limits(fields, quantiles, positive=scaling == "log")
        low = measured[0] if low is None else low
        high = measured[1] if high is None else high
    bands = len(fields[0])
    limits = [
        [float(limit)] * bands if isinstance(limit, int | float) else [float(v) for v in limit]
        for limit in (low, high)
    ]
    if any(len(limit) != bands for limit in limits):
        raise ValueError(
            f"data.low and data.high must be one number, or one for each of the {bands} bands, got "
            f"{limits[0]} and {limits[1]}"
        )
    try:
        return make_scale(scaling, *limits, softening=softening)
    except ValueError as error:
        raise ValueError(f"{error}; set data.low and data.high, or another data.scaling") from error


def _extremes(fields: Iterable[Tensor], *, positive: bool) -> list[tuple[float, float]]:
    ends: list[tuple[float, float]] = []
    for field in fields:
        ends = ends or [(math.inf, -math.inf)] * len(field)
        if len(field) != len(ends):
            raise ValueError(
                f"all fields must have as many bands, got {len(ends)} and {len(field)}; set "
                "data.bands, or remove some files"
            )
        for band, values in enumerate(field):
            counted = values[values > 0] if positive else values
            if counted.numel():
                low, high = ends[band]
                ends[band] = min(low, float(counted.min())), max(high, float(counted.max()))
    for band, (low, high) in enumerate(ends):
        if not low < high:
            raise ValueError(
                f"band {band} must have two different {'positive ' if positive else ''}values to "
                f"measure limits, got {low}...{high}; set data.low and data.high, or another "
                "data.scaling"
            )
    return ends


def _quantile(
    counts: Tensor, quantile: float, ends: tuple[float, float], *, positive: bool
) -> float:
    if quantile in (0, 1):
        return ends[int(quantile)]
    low, high = (math.log(end) if positive else end for end in ends)
    below = counts.cumsum(0)
    rank = quantile * float(below[-1])
    value = low + (int(torch.searchsorted(below, rank)) + 0.5) / _BINS * (high - low)
    return math.exp(value) if positive else value


def _check_scaling(scaling: str, quantiles: Sequence[float], softening: float) -> None:
    if scaling not in SCALINGS:
        raise ValueError(f"data.scaling must be one of {', '.join(SCALINGS)}, got {scaling!r}")
    numbers = _numbers(quantiles)
    if numbers is None or len(numbers) != 2 or not 0 <= numbers[0] < numbers[1] <= 1:
        raise ValueError(
            f"data.quantiles must be two increasing numbers in [0, 1], got {_shown(quantiles)}"
        )
    if not _is_number(softening) or not 0 < softening < math.inf:
        raise ValueError(f"data.softening must be a number > 0, got {softening!r}")


def _check_limits(key: str, limits: Any) -> None:  # noqa: ANN401 whatever a setting holds
    if limits is not None and not _is_number(limits) and _numbers(limits) is None:
        raise ValueError(
            f"data.{key} must be null, one number, or one number for each band, "
            f"got {_shown(limits)}"
        )


def _numbers(values: Any) -> list[float] | None:  # noqa: ANN401
    """Return a list of numbers, None of anything else."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        return None
    return list(values) if all(_is_number(value) for value in values) else None


def _is_number(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(values: Any) -> str:  # noqa: ANN401
    """Represent a value; lists of a configuration would show as other types."""
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    return repr(list(values) if is_list else values)


def _warn_of_clipping(domain: TargetDomain) -> None:
    few_shot, held_out = domain.clipped or (0.0, 0.0)
    if max(few_shot, held_out) > _CLIPPED:
        warnings.warn(
            f"{few_shot:.2%} of the few-shot and {held_out:.2%} of the held-out values of "
            f"{domain.name} lie outside of the scale and are clipped; widen data.low and "
            "data.high, or data.quantiles",
            stacklevel=3,
        )


def _as_precise_as_float32(field: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # Rounded by hand: float32 itself has no room for the smallest and largest values. Adding 0
    # makes one zero of two.
    mantissa, exponent = np.frexp(field)
    rounded: npt.NDArray[np.float64] = np.ldexp(np.rint(mantissa * 2**24), exponent - 24)
    return rounded + 0.0


def _hash(field: npt.NDArray[np.float64]) -> str:
    shape = " ".join(map(str, field.shape))
    return hashlib.sha256(shape.encode() + b"\0" + field.astype("<f8").tobytes()).hexdigest()
