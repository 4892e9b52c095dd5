"""Measure how much of the range of colours a set of images uses."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

_CENTRAL = (0.01, 0.99)
"""Quantiles between which the range is measured, so that a hot pixel does not count."""

_NARROW = 0.1
"""Smallest part of the range without a warning."""

_LOOKED_AT = 64
"""Largest number of images to decode."""

_BINS = 256


def used_range(images: Sequence[Tensor]) -> list[float]:
    """Return the part of [-1, 1] that the central 98% of the values of each channel span.

    Args:
        images: In [-1, 1], shape $(C, H, W)$ each.
    """
    counts = torch.stack([_histogram(image) for image in images]).sum(0)
    below = counts.cumsum(1) / counts.sum(1, keepdim=True)
    levels = torch.tensor(_CENTRAL, dtype=below.dtype).expand(len(below), 2).contiguous()
    low, high = torch.searchsorted(below, levels).T
    parts: list[float] = ((high - low) / (_BINS - 1)).tolist()
    return parts


def warn_of_narrow_range(name: str, images: "Dataset[Tensor]", *, bands: int | None = None) -> None:
    """Warn if images use less than a tenth of the range, as `used_range` measures it.

    Up to 64 evenly spaced images are measured. For images all channels must be narrow, as one may
    be empty. For physical fields one band is enough, as each has a scale of its own.

    Args:
        name: Name of the domain.
        images: In [-1, 1], shape $(3, R, R)$ each.
        bands: Number of bands of physical fields; None for images.
    """
    count = len(images)  # type: ignore[arg-type]  # these data sets have a length
    shown = min(count, _LOOKED_AT)
    used = used_range([images[index * count // shown] for index in range(shown)])
    part = max(used) if bands is None else min(used[:bands])
    if part >= _NARROW:
        return
    if bands is None:
        remedy = (
            "stretch their values (a camera of 12 bits in 16-bit files uses a sixteenth), or store "
            "them as arrays for data=radiation, whose data.quantiles measure the range"
        )
    else:
        band = "" if bands == 1 else f" of band {used.index(part)}"
        remedy = (
            f"the limits{band} may come from a few outliers: set data.quantiles=[0.001,0.999], or "
            "data.low and data.high"
        )
    warnings.warn(
        f"the few-shot images of {name} use {part:.1%} of the range of values (the central 98% of "
        f"them) and are nearly of one colour; {remedy}",
        stacklevel=5,
    )


def _histogram(image: Tensor) -> Tensor:
    levels = ((image.double() + 1) / 2 * (_BINS - 1)).round().long().clamp(0, _BINS - 1)
    return torch.stack([channel.flatten().bincount(minlength=_BINS) for channel in levels])
