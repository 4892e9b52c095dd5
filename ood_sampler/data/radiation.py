"""From physical fluxes to colours in [-1, 1], and back."""

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

_ROUNDING = 1e-6  # of float32, in units of the colour


class FluxScale:
    r"""Logarithmic map of positive fluxes $F$ to colours, for each band of its own.

    $$x = 2 \frac{\log (F / F_{\text{low}})}{\log (F_{\text{high}} / F_{\text{low}})} - 1$$

    is -1 at `low` and 1 at `high`. Bands are the third axis from the end: $(\dots, C, H, W)$.
    Both directions compute in float64 and return float32.

    Raises:
        ValueError: unless both have the same number of bands (at least one) and
            0 < low < high < infinity in each.
    """

    def __init__(self, low: Sequence[float], high: Sequence[float]) -> None:
        if not low or len(low) != len(high):
            raise ValueError(
                f"low and high must have one value for each band, got {len(low)} and {len(high)}"
            )
        for lowest, highest in zip(low, high, strict=True):
            if not 0 < lowest < highest < float("inf"):
                raise ValueError(f"low must be > 0 and < high, got low={lowest}, high={highest}")
        self.low = tuple(low)
        self.high = tuple(high)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """Read the scale stored beside a set of fluxes: `flux_low`, `flux_high`, one per band."""
        low, high = (
            [float(value) for value in metadata[key].split()] for key in ("flux_low", "flux_high")
        )
        return cls(low, high)

    def to_rgb(self, flux: Tensor) -> Tensor:
        """Map fluxes of any real type to colours in [-1, 1].

        Raises:
            ValueError: if a flux lies outside [low, high] or is not finite: nothing is clipped in
                silence, `clip` does it on request.
        """
        low, high = self._log_bounds(flux)
        rgb = 2 * (flux.double().log() - low) / (high - low) - 1
        outside = int((~(rgb.abs() <= 1 + _ROUNDING)).sum())
        if outside:
            raise ValueError(
                f"flux must lie in {list(self.low)} to {list(self.high)}, got {outside} of "
                f"{flux.numel()} values outside: use clip() or a wider scale"
            )
        return rgb.clamp(-1, 1).float()

    def to_flux(self, rgb: Tensor) -> Tensor:
        """Map colours to fluxes, the inverse of `to_rgb`; beyond [-1, 1] the scale goes on."""
        low, high = self._log_bounds(rgb)
        return (low + (rgb.double() + 1) / 2 * (high - low)).exp().float()

    def clip(self, flux: Tensor) -> tuple[Tensor, float]:
        """Limit fluxes to [low, high], as float32; return them and the fraction that was outside.

        Raises:
            ValueError: if a flux is NaN.
        """
        if bool(flux.isnan().any()):
            raise ValueError(f"flux must be a number, got {int(flux.isnan().sum())} NaN values")
        low, high = (bound.exp() for bound in self._log_bounds(flux))
        clipped = flux.double().clamp(low, high)
        # The bounds are not exact in float32, so that a flux at one of them may seem outside.
        changed = (clipped - flux.double()).abs() > _ROUNDING * clipped
        return clipped.float(), float(changed.double().mean())

    def _log_bounds(self, values: Tensor) -> tuple[Tensor, Tensor]:
        bands = len(self.low)
        if values.ndim < 3 or values.shape[-3] != bands:
            raise ValueError(
                f"the shape must be (..., {bands}, H, W) for {bands} bands, "
                f"got {tuple(values.shape)}"
            )
        low, high = (
            torch.tensor(bound, dtype=torch.float64, device=values.device).log().view(-1, 1, 1)
            for bound in (self.low, self.high)
        )
        return low, high
