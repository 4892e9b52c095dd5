"""Base of strategies that keep the geometric criteria of an inverted set."""

import math
from abc import ABC
from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from ood_sampler.latents.geometry import Criteria, set_criteria
from ood_sampler.samplers.base import Fitted, Sampler
from ood_sampler.store.sets import TensorSet

CRITERIA = Criteria._fields
_UNITS = ("", "°", "°")


@dataclass(frozen=True)
class Targets:
    """Target values of the criteria and their tolerances, each of shape (3,)."""

    values: Tensor
    tolerances: Tensor

    def deviations(self, measured: Criteria) -> Tensor:
        """Signed distances from the values in units of the tolerances, shape (B, 3)."""
        return (torch.stack(measured, dim=1) - self.values.double()) / self.tolerances.double()

    def passed(self, measured: Criteria) -> Tensor:
        """Whether latents are within each tolerance, shape (B, 3)."""
        return self.deviations(measured).abs() <= 1

    def describe(self, measured: Criteria) -> str:
        """Say how many latents met each criterion, and the values found."""
        shares = self.passed(measured).double().mean(0).tolist()
        return ", ".join(
            f"{name} {value:.6g} +- {tolerance:.3g}{unit} (met by {share:.2%}, mean "
            f"of all {float(found.mean()):.6g} +- {float(found.std(correction=0)):.3g}{unit})"
            for name, unit, value, tolerance, share, found in zip(
                CRITERIA,
                _UNITS,
                self.values.tolist(),
                self.tolerances.tolist(),
                shares,
                measured,
                strict=True,
            )
        )

    def hardest(self, measured: Criteria) -> str:
        """Name of the criterion that fewest latents met; in a tie, that with the largest miss."""
        shares = self.passed(measured).double().mean(0).tolist()
        distances = self.deviations(measured).abs().mean(0).tolist()
        return min(
            zip(CRITERIA, shares, distances, strict=True), key=lambda found: (found[1], -found[2])
        )[0]


class CriteriaOptions(TypedDict):
    """Arguments of `CriteriaSampler`."""

    references: int
    distance: float | None
    origin_angle: float | None
    pair_angle: float | None
    tolerance: float
    distance_tolerance: float | None
    origin_angle_tolerance: float | None
    pair_angle_tolerance: float | None


class CriteriaSampler(Sampler, ABC):
    r"""Draw latents with the mean distance and angles of the inverted ones (Zhu et al., 2023).

    A latent is measured against random inverted ones. Values default to the means over the inverted
    latents, each measured against others; tolerances default to a multiple of the standard
    deviation there.

    Args:
        references: inverted latents per measurement, >= 2; capped at their number minus one.
        distance: mean distance to the references, > 0, or None for the measured value.
        origin_angle: mean angle at the origin with a reference, degrees, or None.
        pair_angle: mean angle at the latent between two references, degrees, or None.
        tolerance: of each criterion, > 0, in its standard deviations among the inverted latents.
        distance_tolerance: > 0, overrides `tolerance`; or None.
        origin_angle_tolerance: > 0, degrees, overrides `tolerance`; or None.
        pair_angle_tolerance: > 0, degrees, overrides `tolerance`; or None.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, **options: Unpack[CriteriaOptions]) -> None:
        self.references = options["references"]
        self.distance = options["distance"]
        self.origin_angle = options["origin_angle"]
        self.pair_angle = options["pair_angle"]
        self.tolerance = options["tolerance"]
        self.distance_tolerance = options["distance_tolerance"]
        self.origin_angle_tolerance = options["origin_angle_tolerance"]
        self.pair_angle_tolerance = options["pair_angle_tolerance"]
        if self.references < 2:
            raise ValueError(f"references must be >= 2, got {self.references}")
        if not _is_between(self.distance, 0, math.inf):
            raise ValueError(f"distance must be > 0 and finite, or null, got {self.distance}")
        for name in ("origin_angle", "pair_angle"):
            angle = getattr(self, name)
            if not _is_between(angle, 0, 180):
                raise ValueError(f"{name} must be in (0, 180) degrees, or null, got {angle}")
        for name in ("tolerance", *(f"{criterion}_tolerance" for criterion in CRITERIA)):
            width = getattr(self, name)
            if not _is_between(width, 0, math.inf):
                raise ValueError(f"{name} must be > 0 and finite, got {width}")

    @property
    def minimum_images(self) -> int:
        # each member is measured against two others
        return 3

    @property
    def measured_alone(self) -> bool:
        """Whether all values and tolerances are measured on the set."""
        given = [getattr(self, f"{name}{end}") for name in CRITERIA for end in ("", "_tolerance")]
        return all(value is None for value in given)

    def references_of(self, latents: TensorSet) -> int:
        """References per measurement, capped at the number of other members."""
        return min(self.references, len(latents) - 1)

    def measure(self, latents: TensorSet) -> tuple[Tensor, Targets]:
        """Inner products of the set, shape (N, N), float64, and the targets of a draw."""
        products, measured = set_criteria(latents, self.references)
        values, tolerances = [], []
        for name, members in zip(CRITERIA, measured, strict=True):
            value, width = getattr(self, name), getattr(self, f"{name}_tolerance")
            values.append(members.mean() if value is None else torch.tensor(value).double())
            spread = (self.tolerance * members.std()).clamp(min=1e-6 * float(values[-1]))
            tolerances.append(spread if width is None else torch.tensor(width).double())
        return products, Targets(torch.stack(values).float(), torch.stack(tolerances).float())


def targets_of(fitted: Fitted) -> Targets:
    """Read the targets that `fit` stored."""
    return Targets(fitted["values"], fitted["tolerances"])


def take_rows(latents: TensorSet, index: Tensor) -> tuple[Tensor, Tensor]:
    """Read members of a set once each.

    Args:
        latents: the set.
        index: of the members, with repetitions, shape (B, k).

    Returns:
        The distinct members, shape (n, d), and the row of each `index` in them, shape (B, k).
    """
    numbers, places = index.unique(return_inverse=True)
    return latents.take(numbers.tolist()).flatten(1), places


def _is_between(value: object, low: float, high: float) -> bool:
    """Whether a setting is a number in an open interval, or None."""
    return value is None or (isinstance(value, int | float) and low < value < high)
