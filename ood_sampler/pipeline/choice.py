"""What a search tried, and what it chose."""

from collections.abc import Sequence
from dataclasses import dataclass

from ood_sampler.samplers.base import Sampler
from ood_sampler.statistics.band import Point


@dataclass(frozen=True)
class Trial:
    """The result of a candidate.

    Attributes:
        step: inversion step.
        sampler: label of the strategy.
        samples: number of samples.
        point: retention, novelty, near-copies and distance to the validation part.
        usable: whether it keeps the domain and makes new images.
    """

    step: int
    sampler: str
    samples: int
    point: Point
    usable: bool

    def as_dict(self) -> dict[str, float | int | str | bool]:
        """The trial as a row of a table."""
        return {
            "step": self.step,
            "sampler": self.sampler,
            "samples": self.samples,
            "retention": self.point.retention,
            "novelty": self.point.novelty,
            "near_copies": self.point.near_copies,
            "kid": self.point.distance,
            "kid_standard_error": self.point.error,
            "usable": self.usable,
        }


@dataclass(frozen=True)
class Choice:
    """The winner and all trials.

    Attributes:
        step: inversion step.
        sampler: the strategy.
        trials: of all candidates, those with more samples later.
        evaluations: network evaluations of the search.
        remark: the choice in a sentence.
    """

    step: int
    sampler: Sampler
    trials: Sequence[Trial]
    evaluations: int
    remark: str
