"""What a search tried, and what it chose."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ood_sampler.pipeline.correction import GaussianCorrection
from ood_sampler.pipeline.pipeline import Pipeline
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
        correction: weight of the correction of the flow; 0 without one.
        eta: noise of decoding.
        temperature: of the draws.
        shift: of the first move of decoding.
    """

    step: int
    sampler: str
    samples: int
    point: Point
    usable: bool
    correction: float = 0.0
    eta: float = 0.0
    temperature: float = 1.0
    shift: int = 0

    @property
    def setting(self) -> tuple[int, str, float, float, float, int]:
        """What tells candidates apart, however many samples they have."""
        return (
            self.step,
            self.sampler,
            self.correction,
            self.eta,
            self.temperature,
            self.shift,
        )

    @property
    def words(self) -> str:
        """The candidate and its scores."""
        flow = f", correction {self.correction:g}" if self.correction else ""
        eta = f", eta {self.eta:g}" if self.eta else ""
        temperature = "" if self.temperature == 1 else f", temperature {self.temperature:g}"
        shift = f", shift {self.shift:+d}" if self.shift else ""
        point = self.point
        return (
            f"step {self.step}, {self.sampler}, KID "
            f"{1e3 * point.distance:.1f}e-3 ± {1e3 * point.error:.1f}e-3, retention "
            f"{point.retention:.2f}, novelty {point.novelty:.2f}, near-copies "
            f"{point.near_copies:.2f}{flow}{eta}{temperature}{shift}"
        )

    def as_dict(self) -> dict[str, float | int | str | bool]:
        """The trial as a row of a table."""
        return {
            "step": self.step,
            "sampler": self.sampler,
            "correction": self.correction,
            "eta": self.eta,
            "temperature": self.temperature,
            "shift": self.shift,
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
        evaluations: network evaluations for the samples of the search.
        remark: the choice in a sentence.
        correction: of the flow; None takes that of the model.
        eta: noise of decoding.
        temperature: of the draws.
        shift: of the first move of decoding.
        inverting: network evaluations for latents that the search alone needs.
    """

    step: int
    sampler: Sampler
    trials: Sequence[Trial]
    evaluations: int
    remark: str
    correction: GaussianCorrection | None = None
    eta: float = 0.0
    temperature: float = 1.0
    shift: int = 0
    inverting: int = 0

    def of(self, pipeline: Pipeline) -> Pipeline:
        """The run with what was chosen."""
        chosen = pipeline.variant(
            sampler=self.sampler,
            step=self.step,
            eta=self.eta,
            temperature=self.temperature,
            shift=self.shift,
        )
        return replace(chosen, correction=self.correction)
