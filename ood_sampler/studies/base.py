"""The interface of a study: a question about a model and a domain, answered with numbers."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from torch import Tensor

from ood_sampler.metrics.opinions import of_judge, second_judges
from ood_sampler.pipeline.estimate import Work
from ood_sampler.pipeline.nodes import label
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Column, Row
from ood_sampler.samplers.base import GaveUpError, Sampler
from ood_sampler.statistics.band import Point
from ood_sampler.statistics.decision import TOO_FEW, Outcome, Pool, advice
from ood_sampler.statistics.intervals import (
    STANDARD_ERRORS,
    difference_interval,
    interval,
    with_bounds,
)
from ood_sampler.statistics.resampling import Interval
from ood_sampler.store.node import Node

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Measured:
    """What a study measured for one model and one domain.

    Attributes:
        rows: of the table.
        pictures: images in [-1, 1] for the figure, shape $(N, C, H, W)$, by a label of their own.
    """

    rows: Sequence[Row]
    pictures: Mapping[str, Tensor] = field(default_factory=dict)


class Study(ABC):
    """A question. Its constructor arguments are its configuration; it keeps no other state.

    `measure` answers it for one model and one domain. `conclude` and `draw` take the rows of one
    or several domains, so that the same code makes the figure of a run and that of a paper.
    """

    name: ClassVar[str]
    """Of the files that hold the answer."""

    title: ClassVar[str]
    """Of the table and the figure."""

    headings: ClassVar[Sequence[Column]]
    """Columns of the table; `model` and `domain` go without saying."""

    needs: ClassVar[Sequence[str]] = ()
    """Metrics of `metrics.collection` and `metrics.pictures` that the answer is made of."""

    @property
    def steps(self) -> Sequence[int]:
        """Steps whose latents are needed: one inversion leaves them all."""
        return ()

    def check(self, pipeline: Pipeline) -> None:
        """Refuse what the study cannot be made of, before work starts.

        Raises:
            ValueError: a setting does not fit the model or the domain.
        """
        pipeline.check()

    def targets(self, pipeline: Pipeline) -> list[Node]:
        """Stored results that the answer is made of; their cost is the estimate."""
        return [pipeline.inversion, pipeline.in_domain]

    def unstored(self, pipeline: Pipeline) -> list[Work]:
        """Further work, which is not stored or not known before others are done."""
        return []

    @abstractmethod
    def measure(self, pipeline: Pipeline) -> Measured:
        """Answer for the pipeline's model and domain."""

    @abstractmethod
    def conclude(self, rows: Sequence[Row]) -> list[str]:
        """Say what the rows show, in sentences computed from them."""

    def claims(self, rows: Sequence[Row]) -> Mapping[str, Outcome]:
        """What the conclusion claims, in a few words each, and what becomes of it.

        For a comparison of judges, each of which concludes for itself.
        """
        return {}

    @abstractmethod
    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        """Draw the rows; labels of `pictures` begin with their domain and a slash."""


def check_metrics(study: Study, pipeline: Pipeline) -> None:
    """Refuse a study of metrics that are switched off.

    Raises:
        ValueError: one is missing.
    """
    judges = pipeline.judges
    for name in study.needs:
        if name not in (*judges.headline.metrics, *judges.pictures):
            raise ValueError(f"study {study.name} needs the metric {name}: leave it switched on")


def about(pipeline: Pipeline) -> dict[str, Any]:
    """What each row begins with."""
    return {"model": pipeline.model.name, "domain": pipeline.domain.name}


def bounds(key: str, interval: Interval) -> dict[str, float]:
    """A figure and its interval as they stand in a row."""
    return with_bounds({key: interval})


def point(row: Row, real: Row) -> Point:
    """What makes a setting usable and good, from its row and that of real pictures."""
    return Point(
        step=row["step"],
        retention=1 - row["captured"],
        novelty=row["authenticity"],
        distance=row["kid"],
        error=row["kid_standard_error"],
        near_copies=row["near_copies"],
        excess=excess(row, real).low,
    )


def excess(row: Row, real: Row) -> Interval:
    """Share of near-copies of a row less that of new real images."""
    return difference_interval(*(interval(each, "near_copies") for each in (row, real)))


def too_few(
    factor: float | None,
    row: Row,
    *,
    count: str = "images",
    name: str = "samples",
    setting: str = "num_samples",
) -> str:
    """Say that there are too few images to tell, and how many would do.

    Args:
        factor: of the `Decision` that is unclear.
        row: a line that says how many there are.
        count: its figure that does.
        name: what they are called.
        setting: key of the configuration that gives their number.
    """
    images = row.get(count)
    if not images:
        return TOO_FEW
    return f"{TOO_FEW}, {advice(factor, Pool(round(images), name, setting))}"


def standard_error(row: Row, key: str) -> float:
    """Of a figure, from the width of its interval."""
    return float(row[f"{key}_high"] - row[f"{key}_low"]) / (2 * STANDARD_ERRORS)


def fitting(pipeline: Pipeline, samplers: Sequence[Sampler]) -> list[Sampler]:
    """Strategies that the few-shot pictures are enough for."""
    count = len(pipeline.domain.few_shot)
    return [sampler for sampler in samplers if sampler.minimum_images <= count]


def check_fitting(pipeline: Pipeline, samplers: Sequence[Sampler]) -> None:
    """Tell of strategies that the few-shot pictures are not enough for.

    Raises:
        ValueError: none is left.
    """
    count, kept = len(pipeline.domain.few_shot), fitting(pipeline, samplers)
    for sampler in samplers:
        if sampler not in kept:
            log.warning(
                "warning: %s is left out: it needs %d few-shot pictures, there are %d",
                label(sampler),
                sampler.minimum_images,
                count,
            )
    if not kept:
        raise ValueError(
            f"no strategy of study.samplers can do with {count} few-shot pictures: add pictures or "
            "raise data.few_shot"
        )


def attempted(what: str, make: Callable[[], T]) -> T | None:
    """What a strategy made, or None if it gave up, of which the log tells."""
    try:
        return make()
    except GaveUpError as error:
        log.warning("warning: %s is left out: %s", what, error)
        return None


def check_left(rows: Sequence[Row], what: str) -> None:
    """Tell that nothing was measured.

    Raises:
        ValueError: all that was `attempted` gave up.
    """
    if not rows:
        raise ValueError(
            f"no {what} is left: each gave up, with a warning above that says why; change the "
            "settings of study.samplers or add others"
        )


def decoding(pipeline: Pipeline, runs: Sequence[Pipeline]) -> list[Node]:
    """Samples of some runs, and all that they are compared with."""
    made = [run.samples for run in runs]
    # the strategies that ask for latents of the model's own domain have samples of their own
    return [pipeline.inversion, *made, pipeline.in_domain]


def by_each_judge(
    rows: Sequence[Row], derive: Callable[[str | None], Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Add to each row what follows from its figures, as each judge sees them.

    Args:
        rows: with the figures of all judges.
        derive: what to add to each row by one judge; None is the headline (`as_judged`).
    """
    found = [{**row, **more} for row, more in zip(rows, derive(None), strict=True)]
    for judge in second_judges(rows):
        for row, more in zip(found, derive(judge), strict=True):
            row |= {of_judge(judge, key): value for key, value in more.items()}
    return found


def strategy_row(run: Pipeline) -> dict[str, Any]:
    """A line about the samples of a run."""
    row = run.sample_row()
    return {
        **about(run),
        "strategy": label(run.sampler),
        "step": run.settings.step,
        "eta": run.settings.eta,
        "evaluations": run.codec.decoding_evaluations(run.settings.step),
        "images": row.samples,
        **row.figures,
    }
