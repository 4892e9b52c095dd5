"""The two sets that diagnostics compare: pictures of the target domain and of the model's own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ood_sampler.data.domain import Part, TargetDomain, TensorImages, folder_domain
from ood_sampler.diffusion.schedule import check_step
from ood_sampler.latents.store import Selected, TensorSet
from ood_sampler.modules.inversion import latent_at
from ood_sampler.pipeline import Pipeline
from ood_sampler.report.estimate import Work
from ood_sampler.report.grid import to_uint8
from ood_sampler.studies.base import variant

FEW_SHOT = "few-shot"
IN_DOMAIN = "in-domain"


@dataclass(frozen=True)
class Sources:
    """Which pictures a diagnosis looks at.

    Attributes:
        steps: inversion steps.
        count: pictures of each set, at most.
        in_domain_root: folder or archive of pictures of the model's own domain; None takes samples
            of the model in their place.
    """

    steps: Sequence[int]
    count: int
    in_domain_root: str | None

    def check(self, pipeline: Pipeline, *, least: int) -> None:
        """Refuse steps and sizes that do not fit.

        Args:
            pipeline: of the run.
            least: pictures that the diagnosis needs.

        Raises:
            ValueError: a step is not one of the model's, or there would be too few pictures.
            FileNotFoundError: the in-domain pictures are not there.
        """
        if not self.steps:
            raise ValueError("study.steps must hold a step, got none")
        for step in self.steps:
            try:
                check_step(step, pipeline.model.schedule.T)
            except ValueError as error:
                raise ValueError(f"study.steps: {error}") from error
        if self.count < least:
            raise ValueError(f"study.count must be >= {least}, got {self.count}")
        few_shot = len(pipeline.domain.few_shot)
        if few_shot < least:
            raise ValueError(
                f"data.few_shot must be >= {least} for this study, got {few_shot} pictures"
            )
        if self.in_domain_root is not None and not Path(self.in_domain_root).exists():
            raise FileNotFoundError(
                f"study.in_domain_root={self.in_domain_root} does not exist; set it to pictures of "
                "the model's own domain, or to null"
            )

    def few_shot(self, pipeline: Pipeline) -> Pipeline:
        """The run on the first few-shot pictures alone, with latents of all steps."""
        images = pipeline.domain.few_shot
        if len(images) > self.count:
            images = Part(images, range(self.count))
        return self._at_all_steps(pipeline, replace(pipeline.domain, few_shot=images))

    def in_domain(self, pipeline: Pipeline) -> Pipeline:
        """The run on pictures of the model's own domain, as its few-shot pictures.

        Samples of the model are rounded to 8 bits, as pictures are stored.
        """
        if self.in_domain_root is not None:
            domain = folder_domain(
                name=IN_DOMAIN,
                root=self.in_domain_root,
                resolution=pipeline.model.resolution,
                few_shot=self.count,
                held_out=2,
                held_out_root=None,
                seed=0,
                on_error="skip",
            )
            return self._at_all_steps(pipeline, domain)
        made = replace(pipeline, settings=replace(pipeline.settings, num_samples=self.count))
        samples = made.in_domain()
        kept = made.usable(samples, "in-domain sample")
        pictures = torch.cat([to_uint8(block) for block in samples.open().blocks()])[kept]
        images = TensorImages(
            pictures, [f"sample{i}" for i in kept], resolution=pipeline.model.resolution
        )
        domain = TargetDomain(name=IN_DOMAIN, few_shot=images, held_out=pipeline.domain.held_out)
        return self._at_all_steps(pipeline, domain)

    def _at_all_steps(self, pipeline: Pipeline, domain: TargetDomain) -> Pipeline:
        return replace(
            variant(pipeline, step=min(self.steps)), domain=domain, also=tuple(sorted(self.steps))
        )


def latents(pipeline: Pipeline) -> dict[int, TensorSet]:
    """Invert, and give the finite latents of each step."""
    pipeline.invert()
    names = pipeline.domain.few_shot.names
    return {
        step: Selected(artifact.open(), pipeline.usable(artifact, latent_at(step), names))
        for step, artifact in pipeline.plan.inversions().items()
    }


def inversion_work(sources: Sources, pipeline: Pipeline) -> list[Work]:
    """Evaluations of the latents of both sets, at most."""
    few_shot = sources.few_shot(pipeline)
    own = few_shot.solver.inversion_evaluations(sources.steps, T=pipeline.model.schedule.T)
    work = [few_shot.plan.inversion_work(), Work("invert in-domain", sources.count, own)]
    if sources.in_domain_root is None:
        made = replace(pipeline, settings=replace(pipeline.settings, num_samples=sources.count))
        plan = made.plan
        missing = plan.in_domain().missing_items()
        work.append(Work("in-domain", missing, plan.evaluations(plan.last_step)))
    return work


def reconstruction_work(sources: Sources, pipeline: Pipeline) -> list[Work]:
    """Evaluations that decode the latents of both sets again, at most."""
    few_shot = sources.few_shot(pipeline)
    runs = [variant(few_shot, step=step) for step in sources.steps]
    return [
        Work(
            f"reconstruct, t = {run.settings.step}",
            run.plan.reconstructions().missing_items() + sources.count,
            run.plan.evaluations(run.settings.step),
        )
        for run in runs
    ]
