"""The two sets that diagnostics compare: images of the target domain and of the model's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from ood_sampler.data.domain import (
    ImageSet,
    Part,
    TargetDomain,
    warn_of_upsampling,
)
from ood_sampler.data.in_domain import in_domain_images
from ood_sampler.data.sources import open_source
from ood_sampler.diffusion.noise import Stream
from ood_sampler.diffusion.schedule import check_latent_step
from ood_sampler.diffusion.solvers import MultistepSolver
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Row
from ood_sampler.report.grid import to_uint8
from ood_sampler.statistics.decision import Decision
from ood_sampler.store.files import digest
from ood_sampler.store.node import Node
from ood_sampler.studies.base import Study, schedule_of
from ood_sampler.studies.rows import too_few

FEW_SHOT = "few-shot"
IN_DOMAIN = "in-domain"

_KEY = "study.in_domain_root"

SAMPLES, PICTURES = "samples of the model", "real images"
"""Kinds of the in-domain set."""

_STAND_IN = MultistepSolver(steps=17, power=2)
"""Solver of the samples that stand for the model's own domain: the default one."""


@dataclass(frozen=True)
class Sources:
    """Images of a diagnosis.

    Attributes:
        steps: inversion steps.
        count: images of each set, at most.
        in_domain_root: folder or archive of images of the model's own domain; None takes samples
            of the model in their place, decoded from pure noise by `multistep` (17 intervals,
            power 2) whatever the run's solver, so that all solvers see the same set.
    """

    steps: Sequence[int]
    count: int
    in_domain_root: str | None

    def check(self, pipeline: Pipeline, *, least: int) -> None:
        """Refuse steps and sizes that do not fit.

        Args:
            pipeline: of the run.
            least: images that the diagnosis needs.

        Raises:
            ValueError: a step is not one of the model's, there would be too few images, or the
                model's chain is too short for the samples that stand for its domain.
            FileNotFoundError: the in-domain images do not exist.
        """
        schedule = schedule_of(pipeline)
        if not self.steps:
            raise ValueError("study.steps must hold a step, got none")
        for step in self.steps:
            try:
                check_latent_step(step, schedule)
            except ValueError as error:
                raise ValueError(f"study.steps: {error}") from error
        if self.count < least:
            raise ValueError(f"study.count must be >= {least}, got {self.count}")
        few_shot = len(pipeline.domain.few_shot)
        if few_shot < least:
            raise ValueError(
                f"data.few_shot must be >= {least} for this study, got {few_shot} images"
            )
        if self.in_domain_root is None:
            try:
                if schedule:
                    _STAND_IN.check(schedule.T)
            except ValueError as error:
                raise ValueError(
                    "study.in_domain_root must be images of the model's own domain, got null: "
                    f"its chain is too short for the solver that would make samples ({error})"
                ) from error
            return
        if not Path(self.in_domain_root).expanduser().exists():
            raise FileNotFoundError(
                f"study.in_domain_root={self.in_domain_root} does not exist; set it to images of "
                "the model's own domain, or to null"
            )
        found = len(self._pictures(pipeline, least))
        if found < least:
            raise ValueError(
                f"study.in_domain_root must hold >= {least} readable images for this study, got "
                f"{found} in {self.in_domain_root}; add images, or set it to null"
            )

    @property
    def kind(self) -> str:
        """Kind of the in-domain set."""
        return SAMPLES if self.in_domain_root is None else PICTURES

    @property
    def in_domain_count(self) -> int:
        """Images of the model's own domain, at most."""
        if self.in_domain_root is None:
            return self.count
        return min(self.count, len(open_source(self.in_domain_root, key=_KEY)))

    def few_shot(self, pipeline: Pipeline) -> Pipeline:
        """The run on the first few-shot images alone, with latents of all steps."""
        images = pipeline.domain.few_shot
        if len(images) > self.count:
            images = Part(images, range(self.count))
        return self._at_all_steps(pipeline, replace(pipeline.domain, few_shot=images))

    def in_domain(self, pipeline: Pipeline) -> Pipeline:
        """The run with images of the model's own domain as its few-shot images.

        If there are more than `count`, a random choice that is always the same; unreadable ones
        are left out. Samples of the model are rounded to 8 bits, as images are stored. They are
        inverted along the flow of the model, whatever corrects that of others.
        """
        given = self.in_domain_root is not None
        images = self._pictures(pipeline, self.count) if given else self._samples(pipeline)
        domain = _own(images)
        warn_of_upsampling(domain)
        return self._at_all_steps(_own_flow(pipeline), domain)

    def stand_in(self, pipeline: Pipeline) -> Pipeline:
        """The run whose samples stand for images of the model's own domain."""
        settings = replace(pipeline.settings, num_samples=self.count, in_domain=None)
        return replace(pipeline, codec=pipeline.model.codec(_STAND_IN), settings=settings)

    def planned(self, pipeline: Pipeline) -> Pipeline:
        """As `in_domain`, but samples of the model need not exist yet."""
        if self.in_domain_root is not None:
            return self.in_domain(pipeline)
        return self._at_all_steps(
            _own_flow(pipeline), _own(MadeImages(self.stand_in(pipeline).in_domain))
        )

    def _samples(self, pipeline: Pipeline) -> ImageSet:
        made = self.stand_in(pipeline)
        pipeline.session.obtain(made.in_domain)
        kept = made.finite(made.in_domain.output.open(), "in-domain sample")
        return MadeImages(made.in_domain, kept)

    def _pictures(self, pipeline: Pipeline, most: int) -> ImageSet:
        return in_domain_images(
            str(self.in_domain_root), most, resolution=pipeline.model.resolution, key=_KEY
        )

    def _at_all_steps(self, pipeline: Pipeline, domain: TargetDomain) -> Pipeline:
        run = pipeline.variant(step=min(self.steps))
        settings = replace(run.settings, round_trip=None)
        return replace(run, domain=domain, settings=settings, also=tuple(sorted(self.steps)))


class MadeImages(ImageSet):
    """Images that a node makes, rounded to 8 bits, as images are stored.

    Args:
        node: decodes them.
        kept: numbers of those that are used; None takes all.
    """

    def __init__(self, node: Node, kept: Sequence[int] | None = None) -> None:
        self.node = node
        self.kept = list(range(node.count) if kept is None else kept)
        self.names = [f"sample{i}" for i in self.kept]
        self.resolution = node.output.shape[-1]
        self.upsampled = []
        self.digest = digest({"images": node.output.digest, "kept": self.kept, "bits": 8})

    def __getitem__(self, index: int) -> Tensor:
        levels = to_uint8(self.node.output.open().take([self.kept[index]]))[0]
        return levels.float() / 127.5 - 1


class DiagnosticStudy(Study):
    """A study of few-shot images beside images of the model's own domain (`Sources`).

    Args:
        steps: inversion steps.
        count: images of each set, at most.
        in_domain_root: images of the model's own domain; None takes samples of the model.
    """

    least: ClassVar[int] = 2
    """Images of each set that the diagnosis needs."""

    caveat: ClassVar[str]
    """A sentence of the conclusion where samples stand for images of the model's own domain."""

    def __init__(self, *, steps: Sequence[int], count: int, in_domain_root: str | None) -> None:
        self.sources = Sources(list(steps), count, in_domain_root)

    def check(self, pipeline: Pipeline) -> None:
        super().check(pipeline)
        self.sources.check(pipeline, least=self.least)

    def both(self, pipeline: Pipeline) -> dict[str, Pipeline]:
        """The runs of both sets, each with latents of all steps."""
        return {
            FEW_SHOT: self.sources.few_shot(pipeline),
            IN_DOMAIN: self.sources.in_domain(pipeline),
        }

    def caveats(self, rows: Sequence[Row]) -> list[str]:
        """What must be said of the in-domain sets of some rows."""
        return [self.caveat] if any(row["in_domain"] == SAMPLES for row in rows) else []


def too_few_of_each(decision: Decision, row: Row) -> str:
    """Say that sets are too small to tell, and how large ones would do."""
    return too_few(decision.factor, row, name="images of each set", setting="study.count")


def _own_flow(pipeline: Pipeline) -> Pipeline:
    """The run along the flow of the model, with noise of inversion for its own domain."""
    return replace(pipeline.plain, inversion_stream=Stream.INVERT_OWN)


def _own(images: ImageSet) -> TargetDomain:
    """The model's own domain; nothing is compared with held-out images of it."""
    return TargetDomain(name=IN_DOMAIN, few_shot=images, held_out=Part(images, ()))


def inversions(sources: Sources, pipeline: Pipeline) -> list[Node]:
    """Latents of both sets."""
    return of_both(sources, pipeline, lambda run: run.inversion)


def reconstructions(sources: Sources, pipeline: Pipeline) -> list[Node]:
    """Latents of both sets, decoded again."""
    return [
        node
        for step in sources.steps
        for node in of_both(sources, pipeline, partial(_reconstructions, step=step))
    ]


def _reconstructions(run: Pipeline, *, step: int) -> Node:
    return run.variant(step=step).reconstructions


def of_both(sources: Sources, pipeline: Pipeline, node: Callable[[Pipeline], Node]) -> list[Node]:
    """The same node of the few-shot and the in-domain set, each with its own name."""
    own = node(sources.planned(pipeline))
    return [node(sources.few_shot(pipeline)), replace(own, name=f"{own.name} in-domain")]
