"""A target domain of physical fields: read, resized, scaled to colours, and back."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ood_sampler.data.arrays import ArraySource, FieldFacts
from ood_sampler.data.contrast import warn_of_narrow_range
from ood_sampler.data.domain import (
    InspectedImages,
    TargetDomain,
    check_unchanged,
    checked_resolution,
    warn_of_upsampling,
)
from ood_sampler.data.layout import Layout
from ood_sampler.data.limits import ScaleOptions
from ood_sampler.data.listing import user_path
from ood_sampler.data.options import from_keys
from ood_sampler.data.published import Origin, missing_data
from ood_sampler.data.radiation import FieldScale
from ood_sampler.data.sequences import LazySequence
from ood_sampler.data.split import Picture, Split, content_of
from ood_sampler.faults import printable

_CLIPPED = 0.001
"""Largest share of clipped values without a warning."""

FIELDS_VERSION = 1
"""Part of every digest; raise it when a field gives other colours than before."""


class FieldSet(LazySequence[Tensor]):
    """Inspected fields of files, read and resized again at each access: float64, $(C, R, R)$."""

    def __init__(
        self, source: ArraySource, pictures: Sequence[Picture], *, resolution: int
    ) -> None:
        self.pictures = list(pictures)
        self.resolution = resolution
        self._source = source

    def __len__(self) -> int:
        return len(self.pictures)

    def item(self, index: int) -> Tensor:
        picture = self.pictures[index]
        field = self._source.read(picture.index)
        check_unchanged(picture, _hash(field), self._source.path(picture.index))
        return resize(torch.from_numpy(field), self.resolution)

    def facts(self) -> list[FieldFacts]:
        """Return the metadata of each field."""
        return [self._source.facts[picture.index] for picture in self.pictures]


class PhysicalFields(InspectedImages):
    """The colour images that a scale makes of fields."""

    def __init__(self, fields: FieldSet, scale: FieldScale) -> None:
        super().__init__(fields.pictures, resolution=fields.resolution)
        scaled = f"{FIELDS_VERSION} {sorted(scale.as_dict().items())} {self.digest}"
        self.digest = hashlib.sha256(scaled.encode()).hexdigest()
        self._fields = fields
        self._scale = scale

    def __getitem__(self, index: int) -> Tensor:
        return self._scale.to_pictures(self._fields[index])[0]

    def clipped(self) -> float:
        """Return the fraction of all values that lies outside of the scale."""
        shares = [self._scale.to_pictures(field)[1] for field in self._fields]
        return sum(shares) / len(shares)


@from_keys(Split, Layout, ScaleOptions)
def array_domain(
    split: Split,
    layout: Layout,
    scaling: ScaleOptions,
    *,
    name: str,
    root: str,
    held_out_root: str | None,
    resolution: int,
    origin: Origin,
) -> TargetDomain:
    """Make a domain of physical fields.

    Each field is cropped to its central square, resized by `resize`, limited to [low, high] and
    scaled to colours; a single band gives a grey image. `TargetDomain.scale` leads back, and
    `TargetDomain.clipped` says how much was limited.

    Args:
        split: Divides the fields.
        layout: Where in a file its fields are, and what is taken of them.
        scaling: How to map values to colours; limits are measured on few-shot values alone.
        name: Name of the domain in tables.
        root: File or folder, as in `ArraySource`.
        held_out_root: The same for the held-out set; None splits `root`.
        resolution: Side of the images in pixels.
        origin: How to obtain the data set.

    Raises:
        FileNotFoundError: A root does not exist.
        ImageError: A file cannot be read, or `split.on_error` is `raise` and a field is unusable.
        ValueError: There are too few fields, or an argument is out of range.
    """
    checked_resolution(resolution)
    path = user_path(str(root), key="data.root")
    if not path.exists():
        raise missing_data(name, path, origin)
    first = ArraySource(path, layout)
    second = None
    if held_out_root is not None:
        second = ArraySource(held_out_root, layout, key="data.held_out_root")
    chosen = split.choose(first, second, partial(inspect_field, resolution=resolution))
    return _scaled(
        name,
        FieldSet(first, chosen.few_shot, resolution=resolution),
        FieldSet(second or first, chosen.held_out, resolution=resolution),
        scaling,
        chosen.skipped,
    )


def _scaled(
    name: str,
    few_shot_fields: FieldSet,
    held_out_fields: FieldSet,
    scaling: ScaleOptions,
    skipped: list[tuple[str, str]],
) -> TargetDomain:
    """Make a domain of chosen fields; warn of all that their scale loses."""
    _check_same_bands(few_shot_fields, held_out_fields)
    scale = scaling.scale_of(few_shot_fields)
    few_shot = PhysicalFields(few_shot_fields, scale)
    held_out = PhysicalFields(held_out_fields, scale)
    domain = TargetDomain(
        name=name,
        few_shot=few_shot,
        held_out=held_out,
        skipped=skipped,
        scale=scale,
        clipped=(few_shot.clipped(), held_out.clipped()),
        unit=_common_unit(few_shot_fields, held_out_fields),
    )
    warn_of_upsampling(domain)
    _warn_of_clipping(domain)
    _warn_of_filling(few_shot_fields, held_out_fields)
    warn_of_narrow_range(name, few_shot, bands=len(scale.low))
    return domain


def inspect_field(source: ArraySource, index: int, *, resolution: int) -> Picture:
    """Read field `index` of `source`; equal values have equal hashes in every file format.

    The content is rounded to float32, so that single and double precision give the same one.

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

    Downsampling averages over areas: an output pixel is the mean of the area that it covers, which
    keeps the mean of the field. Upsampling interpolates bilinearly. Neither leaves the range of the
    field's values.

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
    # Row i holds the share of each input pixel in output pixel i.
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
            stacklevel=5,
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
    """Return the unit of all fields, None without one; warn if units differ."""
    units = Counter(facts.unit for fields in sets for facts in fields.facts() if facts.unit)
    if len(units) > 1:
        listed = ", ".join(f"{unit} ({count})" for unit, count in units.most_common())
        warnings.warn(
            f"fields have different units: {listed}; their values are used as they stand, convert "
            "them to one unit",
            stacklevel=5,
        )
    return next(iter(units)) if len(units) == 1 else None


def _warn_of_filling(*sets: FieldSet) -> None:
    counts = [facts.filled for fields in sets for facts in fields.facts() if facts.filled]
    if counts:
        warnings.warn(
            f"{sum(counts)} NaN values in {len(counts)} fields are replaced as data.nan says",
            stacklevel=5,
        )


def _as_precise_as_float32(field: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # Rounded by hand: float32 cannot hold the smallest and largest values.
    mantissa, exponent = np.frexp(field)
    rounded: npt.NDArray[np.float64] = np.ldexp(np.rint(mantissa * 2**24), exponent - 24)
    return rounded + 0.0  # turns -0 into 0


def _hash(field: npt.NDArray[np.float64]) -> str:
    shape = " ".join(map(str, field.shape))
    return hashlib.sha256(shape.encode() + b"\0" + field.astype("<f8").tobytes()).hexdigest()
