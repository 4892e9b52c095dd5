"""Map physical fields to colours in [-1, 1], and back."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

_ROUNDING = 1e-6  # rounding error of float32, in units of the colour

_FLOAT32 = (1e-30, 1e30)  # magnitudes that float32 holds to its full precision


class FieldScale(ABC):
    r"""Increasing map of physical values $F$ to colours, one per band.

    $$x = 2 \frac{b(F) - b(F_{\text{low}})}{b(F_{\text{high}}) - b(F_{\text{low}})} - 1$$

    It is -1 at `low` and 1 at `high`; subclasses define $b$. Bands are the third axis from the end:
    $(\dots, C, H, W)$. All computations are in float64.

    Raises:
        ValueError: `low` and `high` have no bands or differ in their number, or a low is not below
            its high.
    """

    scaling: ClassVar[str]
    """Name of $b$."""

    def __init__(self, low: Sequence[float], high: Sequence[float]) -> None:
        if not low or len(low) != len(high):
            raise ValueError(
                f"low and high must have one value for each band, got {len(low)} and {len(high)}"
            )
        for lowest, highest in zip(low, high, strict=True):
            self._check(lowest, highest)
        self.low = tuple(float(value) for value in low)
        self.high = tuple(float(value) for value in high)

    @abstractmethod
    def bend(self, flux: Tensor) -> Tensor:
        r"""Apply $b$ to float64 values, shape $(\dots, C, H, W)$."""

    @abstractmethod
    def unbend(self, bent: Tensor) -> Tensor:
        """Apply the inverse of $b$."""

    def to_rgb(self, flux: Tensor) -> Tensor:
        """Map values of any real type to colours in [-1, 1], float32.

        Raises:
            ValueError: A value lies outside [low, high] or is not finite. Nothing is clipped
                silently; use `clip` for that.
        """
        self._check_bands(flux)
        low, high = self._bent_limits(flux)
        rgb = 2 * (self.bend(flux.double()) - low) / (high - low) - 1
        outside = int((~(rgb.abs() <= 1 + _ROUNDING)).sum())
        if outside:
            raise ValueError(
                f"flux must lie in {list(self.low)} to {list(self.high)}, got {outside} of "
                f"{flux.numel()} values outside: use clip() or a wider scale"
            )
        return rgb.clamp(-1, 1).float()

    def to_flux(self, rgb: Tensor) -> Tensor:
        """Map colours to values of type `dtype`, the inverse of `to_rgb`, also beyond [-1, 1]."""
        return self._to_double(rgb).to(self.dtype)

    def clip(self, flux: Tensor) -> tuple[Tensor, float]:
        """Limit values to [low, high], as `dtype`; return them and the fraction that was outside.

        Raises:
            ValueError: A value is NaN.
        """
        clipped, fraction = self._limit(flux)
        return clipped.to(self.dtype), fraction

    def to_pictures(self, fields: Tensor) -> tuple[Tensor, float]:
        r"""Make colour images of fields of one or three bands.

        Args:
            fields: Finite values, shape $(\dots, C, H, W)$; those outside the limits are clipped.

        Returns:
            Images in [-1, 1], float32, shape $(\dots, 3, H, W)$, a single band repeated three
            times, and the fraction of values that was clipped.
        """
        if len(self.low) not in (1, 3):
            raise ValueError(f"images must have 1 or 3 bands, got {len(self.low)}")
        clipped, fraction = self._limit(fields)
        rgb = self.to_rgb(clipped)
        return rgb.expand(*rgb.shape[:-3], 3, *rgb.shape[-2:]).contiguous(), fraction

    def from_pictures(self, pictures: Tensor) -> Tensor:
        r"""Make physical fields of colour images, the inverse of `to_pictures`.

        Args:
            pictures: Shape $(\dots, 3, H, W)$. A single band is the mean of the three colours, as
                a model does not keep them equal.

        Returns:
            Fields of $C$ bands, shape $(\dots, C, H, W)$, of the type `dtype`.
        """
        if pictures.ndim < 3 or pictures.shape[-3] != 3:
            raise ValueError(f"images must have shape (..., 3, H, W), got {tuple(pictures.shape)}")
        if len(self.low) == 1:
            pictures = pictures.double().mean(dim=-3, keepdim=True)
        return self._to_double(pictures).to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The smallest type that holds values between the limits.

        This is float32 unless a limit is too small or too large for it, or rounding would change a
        value by more than a millionth of the range: 1000 to 1000.001 needs float64.
        """
        smallest, largest = _FLOAT32
        sizes = [abs(value) for value in (*self.low, *self.high) if value]
        held = all(smallest <= size <= largest for size in sizes)
        rounding = torch.finfo(torch.float32).eps / 2
        fine = all(
            rounding * max(abs(low), abs(high)) <= _ROUNDING * (high - low)
            for low, high in zip(self.low, self.high, strict=True)
        )
        return torch.float32 if held and fine else torch.float64

    def as_dict(self) -> dict[str, Any]:
        """Return plain values from which `read_scale` makes the scale."""
        return {"scaling": self.scaling, "low": list(self.low), "high": list(self.high)}

    def _check(self, lowest: float, highest: float) -> None:
        if not -float("inf") < lowest < highest < float("inf"):
            raise ValueError(f"low must be finite and < high, got low={lowest}, high={highest}")

    def _to_double(self, rgb: Tensor) -> Tensor:
        self._check_bands(rgb)
        low, high = self._bent_limits(rgb)
        return self.unbend(low + (rgb.double() + 1) / 2 * (high - low))

    def _limit(self, flux: Tensor) -> tuple[Tensor, float]:
        self._check_bands(flux)
        if bool(flux.isnan().any()):
            raise ValueError(f"flux must be a number, got {int(flux.isnan().sum())} NaN values")
        low, high = (_column(bound, flux) for bound in (self.low, self.high))
        clipped = flux.double().clamp(low, high)
        # Bounds are not exact in float32: a flux at one of them may seem to lie outside.
        tolerance = _ROUNDING * torch.minimum(clipped.abs(), high - low)
        changed = (clipped - flux.double()).abs() > tolerance
        return clipped, float(changed.double().mean())

    def _bent_limits(self, like: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (self.bend(_column(bound, like)) for bound in (self.low, self.high))
        return low, high

    def _check_bands(self, values: Tensor) -> None:
        bands = len(self.low)
        if values.ndim < 3 or values.shape[-3] != bands:
            raise ValueError(
                f"the shape must be (..., {bands}, H, W) for {bands} bands, "
                f"got {tuple(values.shape)}"
            )


class FluxScale(FieldScale):
    """Logarithmic scale of positive fluxes: equal factors are equal steps.

    Raises:
        ValueError: A band does not have 0 < low < high < infinity.
    """

    scaling = "log"

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """Read the scale stored beside a set of fluxes: `flux_low`, `flux_high`, one per band."""
        low, high = (
            [float(value) for value in metadata[key].split()] for key in ("flux_low", "flux_high")
        )
        return cls(low, high)

    def bend(self, flux: Tensor) -> Tensor:
        return flux.log()

    def unbend(self, bent: Tensor) -> Tensor:
        return bent.exp()

    def _check(self, lowest: float, highest: float) -> None:
        if not 0 < lowest < highest < float("inf"):
            raise ValueError(f"low must be > 0 and < high, got low={lowest}, high={highest}")


class LinearScale(FieldScale):
    """Linear scale."""

    scaling = "linear"

    def bend(self, flux: Tensor) -> Tensor:
        return flux

    def unbend(self, bent: Tensor) -> Tensor:
        return bent


class AsinhScale(FieldScale):
    r"""Linear near zero and logarithmic far from it, for values of both signs.

    $b(F) = \operatorname{arsinh}(F / s)$ (Lupton, Gunn and Szalay, 1999).

    Args:
        low: As in `FieldScale`, like `high`.
        high: Likewise.
        softening: $s > 0$, one per band, in units of the field.
    """

    scaling = "asinh"

    def __init__(
        self, low: Sequence[float], high: Sequence[float], softening: Sequence[float]
    ) -> None:
        super().__init__(low, high)
        if len(softening) != len(self.low) or not all(0 < s < float("inf") for s in softening):
            raise ValueError(
                f"softening must be > 0, one value for each of {len(self.low)} bands, "
                f"got {list(softening)}"
            )
        self.softening = tuple(float(value) for value in softening)

    def bend(self, flux: Tensor) -> Tensor:
        return (flux / _column(self.softening, flux)).asinh()

    def unbend(self, bent: Tensor) -> Tensor:
        return bent.sinh() * _column(self.softening, bent)

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"softening": list(self.softening)}


SCALINGS = ("log", "linear", "asinh")


def make_scale(
    scaling: str, low: Sequence[float], high: Sequence[float], *, softening: float
) -> FieldScale:
    """Make a scale by name.

    Args:
        scaling: `log`, `linear` or `asinh`.
        low: Lower limits, one per band.
        high: Upper limits, likewise.
        softening: For `asinh` only, as a part of the larger absolute limit.

    Raises:
        ValueError: The name is unknown, or the limits do not fit it.
    """
    if scaling == "asinh":
        largest = [max(abs(a), abs(b)) for a, b in zip(low, high, strict=True)]
        return AsinhScale(low, high, [softening * size for size in largest])
    if scaling not in SCALINGS:
        raise ValueError(f"scaling must be one of {', '.join(SCALINGS)}, got {scaling!r}")
    return FluxScale(low, high) if scaling == "log" else LinearScale(low, high)


def read_scale(record: Mapping[str, Any]) -> FieldScale:
    """Make a scale from the result of `FieldScale.as_dict`.

    Raises:
        ValueError: The name is unknown, or the limits do not fit it.
        KeyError: An entry is missing.
    """
    if record["scaling"] == "asinh":
        return AsinhScale(record["low"], record["high"], record["softening"])
    return make_scale(record["scaling"], record["low"], record["high"], softening=1)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """Return one float64 value per band, to broadcast over rows and columns."""
    return torch.tensor(values, dtype=torch.float64, device=like.device).view(-1, 1, 1)
