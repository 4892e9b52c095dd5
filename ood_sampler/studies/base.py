"""The interface of a study: a question about a model and a domain, answered with numbers."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from torchmetrics import MetricCollection

from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.metrics.base import SetMetric
from ood_sampler.pipeline.estimate import Work
from ood_sampler.pipeline.keys import configuration
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Column, Row
from ood_sampler.statistics.decision import Outcome
from ood_sampler.store.files import digest
from ood_sampler.store.node import Node

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DIGITS = 12
"""Hexadecimal digits that identify a run."""


@dataclass(frozen=True)
class Strip:
    """First samples of one run of a sweep.

    Attributes:
        settings: columns that tell its row from others: domain, strategy, step, noise, correction.
        images: in [-1, 1], shape $(N, 3, R, R)$.
    """

    settings: Mapping[str, str | float]
    images: Tensor


@dataclass(frozen=True)
class Measured:
    """What a study measured for one model and one domain.

    Attributes:
        rows: of the table.
        pictures: images in [-1, 1] for the figure, shape $(N, C, H, W)$, each set by a label of
            its own.
        strips: first samples of each run of a sweep, for the page.
    """

    rows: Sequence[Row]
    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    strips: Sequence[Strip] = ()


class Study(ABC):
    """A question. Its constructor arguments are its configuration; it keeps no other state.

    `measure` answers it for one model and one domain. `conclude` and `draw` take the rows of one
    or several domains, so that the same code serves a run and a paper.
    """

    name: ClassVar[str]
    """Name of the files with the answer."""

    title: ClassVar[str]
    """Title of the table and the figure."""

    headings: ClassVar[Sequence[Column]]
    """Columns of the table; `model` and `domain` are implicit."""

    needs: ClassVar[Sequence[str]] = ()
    """Metrics of `metrics.collection` and `metrics.pictures` that the answer needs."""

    chooses: ClassVar[bool] = False
    """Whether it compares automatic choices, and so takes `correction=auto`."""

    joins: ClassVar[Sequence[str] | None] = ()
    """Groups of settings over which runs of one domain answer together; None: over any. Otherwise
    each run answers for itself, and its domain is named with what tells it apart."""

    steps: Sequence[int] = ()
    """Steps whose latents are needed: one inversion leaves them all."""

    def about(self, pipeline: Pipeline) -> dict[str, str]:
        """Columns that each row begins with: model, domain and the identity of the run.

        `run` is the same for all rows that the study measures with these settings on these images,
        whatever the machine, and another one for any other.
        """
        settings = asdict(pipeline.settings)
        # no result depends on them
        for name in ("batch_size", "film"):
            del settings[name]
        for name, usual in (("noised_moves", 0), ("temperature", 1.0), ("shift", 0)):
            if settings[name] == usual:
                del settings[name]
        key = {
            "study": self.name,
            "configuration": json.loads(json.dumps(vars(self), default=_configuration)),
            "codec": pipeline.codec.identity,
            "correction": _corrected(pipeline),
            "sampler": configuration(pipeline.sampler),
            "settings": settings,
            "judges": [_judged(judge.name, judge.metrics) for judge in pipeline.judges],
            "pictures": _judged("pictures", pipeline.judges.pictures),
            "few_shot": pipeline.domain.few_shot.digest,
            "held_out": pipeline.domain.held_out.digest,
        }
        return {
            "model": pipeline.model.name,
            "domain": pipeline.domain.name,
            "run": digest(key)[:_DIGITS],
        }

    def check(self, pipeline: Pipeline) -> None:
        """Refuse settings that do not fit, before work starts.

        Raises:
            ValueError: a setting does not fit the model or the domain.
        """
        pipeline.check()

    def targets(self, pipeline: Pipeline) -> list[Node]:
        """Stored results that the answer needs; their cost is the estimate."""
        return [pipeline.inversion, pipeline.in_domain]

    def unstored(self, pipeline: Pipeline) -> list[Work]:
        """Further work: not stored, or unknown before other results are there."""
        return []

    @abstractmethod
    def measure(self, pipeline: Pipeline) -> Measured:
        """Answer for the pipeline's model and domain."""

    @abstractmethod
    def conclude(self, rows: Sequence[Row]) -> list[str]:
        """Say what the rows show, in sentences computed from them."""

    def claims(self, rows: Sequence[Row]) -> Mapping[str, Outcome]:
        """Outcome of each claim of the conclusion, by a few words that name it.

        For a comparison of judges, each of which concludes for itself.
        """
        return {}

    @abstractmethod
    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        """Draw the rows; labels of `pictures` begin with their domain and a slash."""

    def files(self, pictures: Mapping[str, Tensor]) -> Mapping[str, bytes]:
        """Further files made of the images, by their paths below the folder of the answer."""
        return {}


def schedule_of(pipeline: Pipeline) -> Schedule:
    """Noise schedule of the model, for a study of its steps.

    Raises:
        ValueError: the model does not diffuse.
    """
    schedule = pipeline.codec.schedule
    if schedule is None:
        raise ValueError(
            f"model must be a diffusion model for this study, got {pipeline.model.name}, which has "
            "no steps"
        )
    return schedule


def check_metrics(study: Study, pipeline: Pipeline) -> None:
    """Refuse a study of metrics that are switched off, or that the model cannot have.

    Raises:
        ValueError: one is missing.
    """
    judges = pipeline.judges
    for name in study.needs:
        if name not in (*judges.headline.metrics, *judges.pictures):
            raise ValueError(f"study {study.name} needs the metric {name}: leave it switched on")
        if name == "captured" and not pipeline.model.has_own_domain:
            raise ValueError(
                f"study {study.name} needs a model with a domain of its own, which "
                f"{pipeline.model.name} does not have: choose a frozen model"
            )


def _corrected(pipeline: Pipeline) -> dict[str, Any] | None:
    """All that a corrected flow depends on beside the model and the few-shot images."""
    correction = pipeline.correction
    if correction is None:
        return None
    # the place of the images of its own domain says less than the images
    found = {k: v for k, v in asdict(correction).items() if k != "in_domain_root"}
    return {**found, "pictures": correction.pictures and correction.pictures.digest}


def _judged(name: str, metrics: MetricCollection) -> dict[str, Any]:
    """A judge and the arguments of its metrics."""
    told = {
        key: metric.settings for key, metric in metrics.items() if isinstance(metric, SetMetric)
    }
    return {"name": name, "metrics": told}


def _configuration(part: object) -> object:
    """Type and arguments of an object that is no JSON."""
    name = type(part).__name__
    if is_dataclass(part):
        # without what it computed since; of a model its weights too
        found = {each.name: getattr(part, each.name) for each in fields(part)}
        digest = getattr(part, "digest", None)
        return {"type": name, **found, **({} if digest is None else {"digest": digest})}
    return {"type": name, **getattr(part, "__dict__", {"value": str(part)})}
