"""A target domain of physical fields: read, resized, scaled to colours, and back."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Literal, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ood_sampler.data.arrays import ArraySource, FieldFacts
from ood_sampler.data.contrast import warn_of_narrow_range
from ood_sampler.data.domain import (
    ImageSet,
    TargetDomain,
    checked_resolution,
    digest_of,
    warn_of_upsampling,
)
from ood_sampler.data.images import ImageError
from ood_sampler.data.layout import BandAxis, Layout, Nan
from ood_sampler.data.limits import Limits, ScaleOptions
from ood_sampler.data.listing import user_path
from ood_sampler.data.published import Origin, missing_data
from ood_sampler.data.radiation import FieldScale
from ood_sampler.data.split import Picture, content_of, split_sources
from ood_sampler.faults import printable

_CLIPPED = 0.001
"""More than this share of clipped values is worth a warning."""

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

    def facts(self) -> list[FieldFacts]:
        """Return what reading each field has told."""
        return [self._source.facts[picture.index] for picture in self.pictures]


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
    nan: Nan,
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
        array: As in `Layout`, like the next three.
        band_axis: Likewise.
        bands: Likewise.
        nan: Likewise.
        scaling: As in `ScaleOptions`, like the next four; measured on few-shot values alone.
        low: Likewise.
        high: Likewise.
        quantiles: Likewise.
        softening: Likewise.
        seed: As in `folder_domain`, like `on_error`.
        on_error: Likewise.
        origin: How to come by the data set.

    Raises:
        FileNotFoundError: A root does not exist.
        ImageError: A file cannot be read, or `on_error` is `raise` and a field is unusable.
        ValueError: There are too few fields, or an argument is out of range.
    """
    checked_resolution(resolution)
    options = ScaleOptions(scaling, low, high, quantiles, softening)
    layout = Layout(array, band_axis, bands, nan)
    path = user_path(str(root), key="data.root")
    if not path.exists():
        raise missing_data(name, path, origin)
    first = ArraySource(path, layout)
    second = None
    if held_out_root is not None:
        second = ArraySource(held_out_root, layout, key="data.held_out_root")
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
    _check_same_bands(few_shot_fields, held_out_fields)
    scale = options.scale_of(few_shot_fields)
    few_shot_pictures = PhysicalFields(few_shot_fields, scale)
    held_out_pictures = PhysicalFields(held_out_fields, scale)
    domain = TargetDomain(
        name=name,
        few_shot=few_shot_pictures,
        held_out=held_out_pictures,
        skipped=split.skipped,
        scale=scale,
        clipped=(few_shot_pictures.clipped(), held_out_pictures.clipped()),
        unit=_common_unit(few_shot_fields, held_out_fields),
    )
    warn_of_upsampling(domain)
    _warn_of_clipping(domain)
    _warn_of_filling(few_shot_fields, held_out_fields)
    warn_of_narrow_range(name, few_shot_pictures, bands=len(scale.low))
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


def _warn_of_clipping(domain: TargetDomain) -> None:
    few_shot, held_out = domain.clipped or (0.0, 0.0)
    if max(few_shot, held_out) > _CLIPPED:
        warnings.warn(
            f"{few_shot:.2%} of the few-shot and {held_out:.2%} of the held-out values of "
            f"{domain.name} lie outside of the scale and are clipped; widen data.low and "
            "data.high, or data.quantiles",
            stacklevel=3,
        )


def _check_same_bands(*sets: FieldSet) -> None:
    names: dict[int, list[str]] = {}
    for fields in sets:
        for picture, facts in zip(fields.pictures, fields.facts(), strict=True):
            names.setdefault(facts.bands, []).append(printable(picture.name))
    if len(names) > 1:
        found = sorted(names.items(), key=lambda item: -len(item[1]))
        listed = " and ".join(f"{bands} ({len(of)} times, {of[0]})" for bands, of in found)
        raise ValueError(
            f"all fields must have as many bands, got {listed}; set data.bands, or remove some "
            "files"
        )


def _common_unit(*sets: FieldSet) -> str | None:
    """Return the unit of all fields, None where none is given; warn if they differ."""
    units = Counter(facts.unit for fields in sets for facts in fields.facts() if facts.unit)
    if len(units) > 1:
        listed = ", ".join(f"{unit} ({count})" for unit, count in units.most_common())
        warnings.warn(
            f"fields have different units: {listed}; their values are used as they stand, convert "
            "them to one unit",
            stacklevel=3,
        )
    return next(iter(units)) if len(units) == 1 else None


def _warn_of_filling(*sets: FieldSet) -> None:
    counts = [facts.filled for fields in sets for facts in fields.facts() if facts.filled]
    if counts:
        warnings.warn(
            f"{sum(counts)} NaN values in {len(counts)} fields are replaced as data.nan says",
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
