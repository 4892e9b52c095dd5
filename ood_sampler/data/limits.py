"""Find the limits of a scale: given, or measured as quantiles of the few-shot values."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ood_sampler.data.radiation import SCALINGS, FieldScale, make_scale

_BINS = 2**16
"""Number of bins of a histogram, at first between the smallest and the largest value."""

_ROUNDS = 4
"""Largest number of times that bins are divided again, down to the precision of float64."""

_FINE = 1e-3
"""Width at which bins are fine enough, as a part of the range between the two quantiles."""

_Interval = tuple[float, float]
_Pairs = list[tuple[_Interval, _Interval]]

Limits = float | Sequence[float] | None


@dataclass(frozen=True)
class ScaleOptions:
    """How to make the scale of a domain.

    Raises:
        ValueError: An argument is out of range.
    """

    scaling: str
    """As in `make_scale`."""

    low: Limits
    """Lower limit, one number or one for each band; None measures it."""

    high: Limits
    """Upper limit, likewise."""

    quantiles: Sequence[float]
    """Quantiles of the values (of the positive ones for `log`) that stand in for missing limits;
    0 and 1 are the smallest and the largest value."""

    softening: float
    """As in `make_scale`."""

    def __post_init__(self) -> None:
        _check_scaling(self.scaling, self.quantiles, self.softening)
        _check_limits("low", self.low)
        _check_limits("high", self.high)

    def scale_of(self, fields: Sequence[Tensor]) -> FieldScale:
        """Make the scale of a set of fields, shape $(C, H, W)$ each.

        Raises:
            ValueError: Limits cannot be measured, or do not fit the fields or the scaling.
        """
        low, high = self.low, self.high
        if low is None or high is None:
            positive = self.scaling == "log"
            measured = measure_limits(fields, self.quantiles, positive=positive)
            low = measured[0] if low is None else low
            high = measured[1] if high is None else high
        bands = len(fields[0])
        limits = [
            [float(limit)] * bands if isinstance(limit, int | float) else [float(v) for v in limit]
            for limit in (low, high)
        ]
        if any(len(limit) != bands for limit in limits):
            raise ValueError(
                f"data.low and data.high must be one number, or one for each of the {bands} bands, "
                f"got {limits[0]} and {limits[1]}"
            )
        try:
            return make_scale(self.scaling, *limits, softening=self.softening)
        except ValueError as error:
            raise ValueError(
                f"{error}; set data.low and data.high, or another data.scaling"
            ) from error


def measure_limits(
    fields: Iterable[Tensor], quantiles: Sequence[float], *, positive: bool
) -> tuple[list[float], list[float]]:
    """Find two quantiles of each band, over all values of all fields.

    Values are counted in 65,536 bins between the smallest and the largest, of equal width on a
    logarithmic scale if `positive`. If an outlier makes the bins too wide to tell the two quantiles
    apart, the bin of each is divided again. The quantiles 0 and 1 are exact. Fields are read one at
    a time, twice, and once more per division.

    Args:
        fields: Shape $(C, H, W)$ each; iterated several times.
        quantiles: Two numbers in [0, 1].
        positive: Whether only values above 0 count.

    Raises:
        ValueError: Fields differ in their number of bands, or a band has no value that counts.
    """
    ends = _extremes(fields, positive=positive)
    if not set(quantiles) <= {0, 1}:
        whole = [(math.log(low), math.log(high)) if positive else (low, high) for low, high in ends]
        pairs = [(band, band) for band in whole]
        for _ in range(_ROUNDS):
            pairs = _divided(fields, pairs, quantiles, positive=positive)
            if all(_is_fine(*pair) for pair in pairs):
                break
        centres = [[(low + high) / 2 for low, high in pair] for pair in pairs]
    lows, highs = (
        [
            ends[band][int(quantile)]
            if quantile in (0, 1)
            else (math.exp if positive else float)(centres[band][which])
            for band in range(len(ends))
        ]
        for which, quantile in enumerate(quantiles)
    )
    return lows, highs


def _divided(
    fields: Iterable[Tensor], pairs: _Pairs, quantiles: Sequence[float], *, positive: bool
) -> _Pairs:
    """Divide the intervals that hold the quantiles of each band; return the bins that hold them."""
    counts = torch.zeros(len(pairs), 2, _BINS, dtype=torch.float64)
    below = torch.zeros(len(pairs), 2, dtype=torch.float64)
    total = torch.zeros(len(pairs), dtype=torch.float64)
    for field in fields:
        for band, pair in enumerate(pairs):
            values = field[band]
            if positive:
                values = values[values > 0].log()
            total[band] += values.numel()
            for which, (low, high) in enumerate(pair):
                below[band, which] += int((values < low).sum())
                if low < high:
                    counts[band, which] += torch.histc(values, _BINS, low, high)
    ranks = total[:, None] * torch.tensor(quantiles, dtype=torch.float64)
    reached = below[..., None] + counts.cumsum(2)
    bins = torch.searchsorted(reached, ranks[..., None].contiguous())[..., 0].clamp(max=_BINS - 1)

    def part(interval: _Interval, index: int) -> _Interval:
        low, high = interval
        return low + index / _BINS * (high - low), low + (index + 1) / _BINS * (high - low)

    return [
        (part(low, first), part(high, second))
        for (low, high), (first, second) in zip(pairs, bins.tolist(), strict=True)
    ]


def _is_fine(low: _Interval, high: _Interval) -> bool:
    width = max(low[1] - low[0], high[1] - high[0])
    return width <= _FINE * (high[0] - low[1])


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
