"""The interface of studies that sweep step, strategy and noise of decoding."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from ood_sampler.metrics.judges import thumbnails
from ood_sampler.pipeline import measure
from ood_sampler.pipeline.keys import label
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Row
from ood_sampler.report.grid import gather
from ood_sampler.samplers.base import GaveUpError, Sampler
from ood_sampler.store.node import Node
from ood_sampler.studies.base import Measured, Strip, Study, schedule_of

log = logging.getLogger(__name__)

T = TypeVar("T")

TOLD_APART = ("domain", "strategy", "step", "eta", "correction")
"""Columns that tell the runs of a sweep apart."""

_ON_PAGE = 12
"""Samples of each run on the page."""


class SweepStudy(Study):
    r"""Samples of every strategy, step $t$ and noise of decoding $\eta$, each a row.

    A study adds its headings, what it derives from the rows, its sentences and its figure.

    Args:
        samplers: strategies; None takes the run's.
        steps: inversion steps; None takes the run's.
        etas: noise of decoding; None takes the run's.

    Raises:
        ValueError: there is no strategy.
    """

    shown: ClassVar[int] = 0
    """Samples of each run in the figure."""

    tolerant: ClassVar[bool] = False
    """Whether strategies that lack few-shot images, or that give up, are left out."""

    def __init__(
        self,
        *,
        samplers: Mapping[str, Sampler] | None = None,
        steps: Sequence[int] | None = None,
        etas: Sequence[float] | None = None,
    ) -> None:
        if samplers is not None and not samplers:
            raise ValueError("study.samplers must name at least one strategy, got none")
        self.samplers = list((samplers or {}).values())
        self.steps = list(steps or ())
        self.etas = list(etas or ())

    def runs(self, pipeline: Pipeline) -> list[Pipeline]:
        """All combinations, strategy by strategy."""
        samplers = self.samplers or [pipeline.sampler]
        if self.tolerant:
            samplers = fitting(pipeline, samplers)
        steps = self.steps or [pipeline.settings.step]
        etas = self.etas or [pipeline.settings.eta]
        return [
            pipeline.variant(sampler=sampler, step=step, eta=eta)
            for sampler, step, eta in product(samplers, steps, etas)
        ]

    def check(self, pipeline: Pipeline) -> None:
        if self.steps:
            schedule_of(pipeline)
        if self.tolerant:
            check_fitting(pipeline, self.samplers or [pipeline.sampler])
        for run in self.runs(pipeline):
            run.check()

    def targets(self, pipeline: Pipeline) -> list[Node]:
        return decoding(pipeline, self.runs(pipeline))

    def measure(self, pipeline: Pipeline) -> Measured:
        pipeline.session.obtain(pipeline.inversion)
        about, domain = self.about(pipeline), pipeline.domain.name
        rows: list[Row] = []
        pictures: dict[str, Tensor] = {}
        strips = []
        for run in self.runs(pipeline):
            make = partial(strategy_row, run)
            row = attempted(label(run.sampler), make) if self.tolerant else make()
            if row is None:
                continue
            rows.append({**about, **row})
            settings = {key: rows[-1][key] for key in TOLD_APART if key in rows[-1]}
            strips.append(Strip(settings, thumbnails(first_samples(run, _ON_PAGE))))
            strip = self.strip(run)
            if strip is not None:
                pictures[f"{domain}/{strip}"] = first_samples(run, self.shown)
        check_left(rows, "strategy")
        return Measured(self.derive(pipeline, rows), pictures, strips)

    @abstractmethod
    def derive(self, pipeline: Pipeline, rows: Sequence[Row]) -> Sequence[Row]:
        """Add to the rows what follows from them, and rows of what they are compared with."""

    def strip(self, run: Pipeline) -> str | None:
        """Label of the samples of a run in the figure; None leaves them out."""
        return None


def strategy_row(run: Pipeline) -> dict[str, Any]:
    """Columns about the samples of a run."""
    row = run.sample_row()
    return {
        "strategy": label(run.sampler),
        **run.codec.at(run.settings.step),
        "eta": run.settings.eta,
        "correction": run.correction_weight,
        "evaluations": run.codec.decoding_evaluations(run.settings.decoding_step),
        "images": row.samples,
        **row.figures,
    }


def compared(row: measure.Row, name: str | None = None) -> dict[str, Any]:
    """Columns about images that samples are compared with, by their own name or another."""
    return {"strategy": name or row.name, "images": row.samples, **row.figures}


def pixel_controls(pipeline: Pipeline, samplers: Sequence[Sampler]) -> dict[str, measure.Row]:
    """The few-shot images mixed without a model, by each strategy that mixes."""
    found: dict[str, measure.Row] = {}
    for sampler in fitting(pipeline, samplers):
        name = label(sampler)
        if sampler.mixes and name not in found:
            row = attempted(f"{name} in pixels", pipeline.in_pixels(sampler).sample_row)
            found |= {} if row is None else {name: row}
    return found


def few_shot_row(pipeline: Pipeline) -> measure.Row:
    """The few-shot images, measured as samples are."""
    return pipeline.measure.row("few-shot", "reference", pipeline.measure.few_shot)


def first_samples(run: Pipeline, count: int) -> Tensor:
    """The first samples of a run, at most `count` of them, in [-1, 1]."""
    return gather(run.samples.output.open(), range(min(count, run.settings.num_samples)))


def decoding(pipeline: Pipeline, runs: Sequence[Pipeline]) -> list[Node]:
    """Samples of some runs, and all that they are compared with."""
    # strategies that ask for latents of the model's own domain have samples of their own
    return [pipeline.inversion, *(run.samples for run in runs), *pipeline.in_domain_nodes]


def fitting(pipeline: Pipeline, samplers: Sequence[Sampler]) -> list[Sampler]:
    """Strategies that the few-shot images are enough for, and that the model can do."""
    return [sampler for sampler in samplers if not _lacking(pipeline, sampler)]


def _lacking(pipeline: Pipeline, sampler: Sampler) -> str:
    """What a strategy needs that is not there, in words; empty for one that fits."""
    count = len(pipeline.domain.few_shot)
    if sampler.minimum_images > count:
        return f"{sampler.minimum_images} few-shot images, there are {count}"
    return sampler.unmet(pipeline.codec.schedule, pipeline.latent_shape)


def check_fitting(pipeline: Pipeline, samplers: Sequence[Sampler]) -> None:
    """Warn of strategies that do not fit the few-shot images or the model.

    Raises:
        ValueError: none is left.
    """
    lacking = {label(sampler): _lacking(pipeline, sampler) for sampler in samplers}
    for name, what in lacking.items():
        if what:
            log.warning("warning: %s is left out: it needs %s", name, what)
    if all(lacking.values()):
        needs = "; ".join(f"{name} needs {what}" for name, what in lacking.items())
        raise ValueError(
            f"no strategy of study.samplers fits: {needs}. Raise data.few_shot, or choose others"
        )


def attempted(what: str, make: Callable[[], T]) -> T | None:
    """Return the result of `make`; None, with a warning, if the strategy gave up."""
    try:
        return make()
    except GaveUpError as error:
        log.warning("warning: %s is left out: %s", what, error)
        return None


def check_left(rows: Collection[object], what: str) -> None:
    """Refuse to conclude from nothing.

    Raises:
        ValueError: all that was `attempted` gave up.
    """
    if not rows:
        raise ValueError(
            f"no {what} is left: each gave up, with a warning above that says why; change the "
            "settings of study.samplers or add others"
        )


def check_increasing(**settings: Sequence[float]) -> None:
    """Refuse settings whose values do not increase, or are none.

    Raises:
        ValueError: they do not.
    """
    for name, values in settings.items():
        if not values or list(values) != sorted(set(values)):
            raise ValueError(f"study.{name} must increase, got {list(values)}")
