"""How well does a GAN invert images, and what lies around their codes? A diffusion model beside."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ood_sampler.codecs.gan import GanCodec, Space, prior_codes
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.latents.prior import Placement, place
from ood_sampler.metrics.opinions import together
from ood_sampler.models.gan import GanModel
from ood_sampler.modules.timing import seconds_per_inversion
from ood_sampler.pipeline.pipeline import Pipeline, compare
from ood_sampler.report.columns import Column, Row
from ood_sampler.report.grid import gather
from ood_sampler.statistics.intervals import mean_interval, share_interval
from ood_sampler.store.node import Node
from ood_sampler.store.sets import TensorSet
from ood_sampler.studies.base import Measured
from ood_sampler.studies.in_domain import (
    FEW_SHOT,
    IN_DOMAIN,
    DiagnosticStudy,
    inversions,
    reconstructions,
)
from ood_sampler.studies.inversion_sentences import CONVERGED, EQUAL, sentences
from ood_sampler.studies.rows import bounds, by_domain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORIGINALS = "images"
"""Label of the images that are inverted."""

_SHOWN = 8
_DRAWS = 2000
"""Draws of the GAN's prior that codes are placed among."""

_TIMED = 8
"""Images of a timed inversion."""

_SPACES: Mapping[Space, str] = {"w": "GAN, w", "w_plus": "GAN, w+"}


@dataclass(frozen=True)
class Method:
    """A way to invert images.

    Attributes:
        name: model and latents.
        budget: of an optimisation; empty for a diffusion model.
        model: of the latents; None is that of the run.
        codec: of the GAN; None takes that of the run.
        step: of a diffusion model.
    """

    name: str
    budget: str
    step: int
    model: GanModel | None = None
    codec: GanCodec | None = None

    @property
    def label(self) -> str:
        """Name and budget."""
        return f"{self.name}, {self.budget}" if self.budget else self.name

    @property
    def samples(self) -> bool:
        """Whether samples are drawn around its latents."""
        return self.budget != EQUAL

    def of(self, run: Pipeline) -> Pipeline:
        """A run by this method, on the images of another."""
        if self.codec is None or self.model is None:
            return run.variant(step=self.step)
        # a GAN has neither moves nor noise
        settings = replace(
            run.settings, step=self.step, eta=0.0, clip_x_0=False, noised_moves=0, shift=0
        )
        return replace(
            run, model=self.model, codec=self.codec, settings=settings, also=(), correction=None
        )


class InversionStudy(DiagnosticStudy):
    """Invert images with a diffusion model and with a GAN of the same domain.

    (Ramachandran et al., 2024.) Codes of the GAN are optimised, once for as long as the diffusion
    model takes for its longest inversion and once for many steps. For both sets: errors of the
    reconstructions, in pixels and as each judge sees them, and where latents lie in the prior. For
    the few-shot images: the share of samples around their latents that the model's own domain
    captures.

    Args:
        steps: inversion steps of the diffusion model, above 0.
        count: images of each set, at most.
        in_domain_root: images of the model's own domain; None takes samples of the diffusion model.
        beside: the GAN.
        converged: steps of Adam after which a code is taken as found.
        equal: steps of Adam at equal time; None times both models on this machine.
    """

    name = "inversion"
    title = "Inversion: a diffusion model beside a GAN of the same domain"
    caveat = (
        "The in-domain set is made of the diffusion model's own samples: they lie on its "
        "trajectories and come back better than real images of its domain would."
    )
    headings = (
        Column("set", "set"),
        Column("method", "method"),
        Column("budget", "budget"),
        Column("seconds", "s per image", 2, meaning="Of the inversion, timed on this machine."),
        Column("evaluations_in", "NFE in", 0, meaning="A forward and backward pass counts 3."),
        Column("images", "images", 0),
        Column("psnr", "PSNR, dB", 2),
        Column("ssim", "SSIM", 3),
        Column(
            "distance",
            "feature distance",
            2,
            meaning="To the image, over that between two images of the set (root mean squares).",
        ),
        Column("ratio", "radius", 2, meaning="Of latents, over the median of the prior's draws."),
        Column("radius", "percentile of radius", 2, meaning="Share of draws with a smaller one."),
        Column("mahalanobis", "of Mahalanobis", 2, meaning="The same by Mahalanobis distance."),
        Column("outside", "outside", 2, meaning="Share beyond 99% of draws, by radius."),
        Column(
            "captured",
            "captured",
            2,
            meaning="Share of samples around the latents that left the target domain.",
        ),
    )

    def __init__(
        self,
        *,
        steps: Sequence[int],
        count: int,
        in_domain_root: str | None,
        beside: GanModel,
        converged: int,
        equal: int | None,
    ) -> None:
        super().__init__(steps=steps, count=count, in_domain_root=in_domain_root)
        self.beside = beside
        self.converged = converged
        self.equal = equal

    def check(self, pipeline: Pipeline) -> None:
        super().check(pipeline)
        for key in ("converged", "equal"):
            steps = getattr(self, key)
            if steps is not None and steps < 1:
                raise ValueError(f"study.{key} must be at least 1, got {steps}")
        for name in ("resolution", "channels"):
            wanted, found = getattr(pipeline.model, name), getattr(self.beside, name)
            if wanted != found:
                raise ValueError(f"study.beside.{name} must be {wanted}, as model's, got {found}")
        for method in self._methods(pipeline, equal=1):
            method.of(pipeline).check()

    def targets(self, pipeline: Pipeline) -> list[Node]:
        few_shot = self.sources.few_shot(pipeline)
        return [
            *inversions(self.sources, pipeline),
            *reconstructions(self.sources, pipeline),
            *(few_shot.variant(step=step).samples for step in self.sources.steps),
            pipeline.in_domain,
            *self._of_gan(pipeline),
        ]

    def _of_gan(self, pipeline: Pipeline) -> list[Node]:
        """Codes of both sets, their reconstructions, samples around them, and in-domain samples."""
        both = (self.sources.few_shot(pipeline), self.sources.planned(pipeline))
        equal = self.equal or self._expected_steps(pipeline)
        methods = [each for each in self._methods(pipeline, equal=equal) if each.codec is not None]
        runs = [(method, [method.of(images) for images in both]) for method in methods]
        return [
            *(
                replace(run.inversion, name=f"{method.label}: invert, forward and backward")
                for method, of_both in runs
                for run in of_both
            ),
            *(
                replace(run.reconstructions, name="GAN: reconstruct", of="")
                for _, of_both in runs
                for run in of_both
            ),
            *(
                replace(node, name="GAN: decode", of="")
                for method, (few_shot, _) in runs
                if method.samples
                for node in (few_shot.samples, few_shot.in_domain)
            ),
        ]

    def measure(self, pipeline: Pipeline) -> Measured:
        equal = self.equal or self._steps_at_equal_time(pipeline)
        about = self.about(pipeline)
        rows: list[Row] = []
        pictures: dict[str, Tensor] = {}
        both = self.both(pipeline)
        for set_name, images in both.items():
            images.latents()
            for method in self._methods(pipeline, equal=equal):
                run = method.of(images)
                originals, decoded = run.reconstructed()
                found = {
                    "set": set_name,
                    "in_domain": self.sources.kind,
                    "method": method.name,
                    "budget": method.budget,
                    "seconds": self._seconds(pipeline, run),
                    "evaluations_in": run.codec.encoding_evaluations([run.settings.step]),
                    "images": len(originals),
                    **_reconstruction(run, originals, decoded),
                    **_placement(_placed(run, method.of(both[IN_DOMAIN]))),
                }
                if set_name == FEW_SHOT and method.samples:
                    found |= _captured(run)
                rows.append({**about, **found})
                shown = range(min(_SHOWN, len(originals)))
                prefix = f"{pipeline.domain.name}/{set_name}"
                pictures[f"{prefix}: {ORIGINALS}"] = gather(originals, shown)
                pictures[f"{prefix}: {method.label}"] = gather(decoded, shown)
        return Measured(rows, pictures)

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        said = [each for own in by_domain(rows).items() for each in sentences(*own)]
        return [*said, *self.caveats(rows)]

    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        from ood_sampler.studies.figures.inversion import draw

        return draw(rows, pictures)

    def _methods(self, pipeline: Pipeline, *, equal: int) -> Iterator[Method]:
        """Diffusion at each step, and both spaces of the GAN with each budget."""
        for step in sorted(set(self.sources.steps)):
            yield Method(f"diffusion, t = {step}", "", step)
        fitting = self.beside.fitting
        for space, name in _SPACES.items():
            for budget, steps in ((EQUAL, equal), (CONVERGED, self.converged)):
                codec = GanCodec(self.beside, space, replace(fitting, steps=steps))
                yield Method(name, budget, max(self.sources.steps), self.beside, codec)

    def _steps_at_equal_time(self, pipeline: Pipeline) -> int:
        """Steps of Adam in w+ that take as long as the longest inversion, to a factor of 1.2.

        Rounded to powers of the square root of 2, so that a second timing finds stored results.
        """
        longest = self._seconds(pipeline, pipeline.variant(step=max(self.sources.steps)))
        return rounded(longest / self._seconds_of_a_step(pipeline))

    def _expected_steps(self, pipeline: Pipeline) -> int:
        """The same of single evaluations instead of an inversion, before work starts."""
        evaluations = pipeline.inversion_evaluations([max(self.sources.steps)])
        longest = evaluations * pipeline.seconds_per_evaluation(pipeline.network, _TIMED)
        return rounded(longest / self._seconds_of_a_step(pipeline))

    def _seconds_of_a_step(self, pipeline: Pipeline) -> float:
        """Seconds per image of a step of Adam in w and one in w+."""
        one = GanCodec(self.beside, "w_plus", replace(self.beside.fitting, steps=1))
        return self._seconds(pipeline, replace(pipeline, model=self.beside, codec=one))

    def _seconds(self, pipeline: Pipeline, run: Pipeline) -> float:
        """Seconds per image of an inversion; of an optimisation a few steps are timed."""
        codec, step = run.codec, run.settings.step
        scale = 1.0
        if isinstance(codec, GanCodec):
            few = replace(codec, fitting=replace(codec.fitting, steps=min(3, codec.fitting.steps)))
            scale = codec.encoding_evaluations([step]) / few.encoding_evaluations([step])
            codec = few
        images = pipeline.domain.few_shot
        batch = torch.stack([images[i] for i in range(min(_TIMED, len(images)))])
        timed = partial(seconds_per_inversion, codec, step, trainer=pipeline.session.trainer)
        key = ("seconds", str(codec.identity), step)
        return scale * pipeline.session.once(key, lambda: timed(batch))


def rounded(steps: float) -> int:
    """Round to a power of the square root of 2, at least 1."""
    power = round(2 * float(torch.tensor(max(steps, 1.0)).log2()))
    return round(2 ** (power / 2))


def _placed(run: Pipeline, own: Pipeline) -> Placement:
    """Place the latents of a run in the prior of its model."""
    step = run.settings.step
    latents = torch.cat(list(run.latents()[step].blocks()))
    if isinstance(run.codec, GanCodec):
        return place(latents, prior_codes(run.codec.model.generator, _DRAWS, seed=1))
    schedule = run.codec.schedule
    if schedule is None:
        raise ValueError("the model has neither codes nor a noise schedule")
    if step >= schedule.last_invertible:
        return _among_noise(latents.flatten(1))
    originals = own.reconstructed()[0]
    x_0 = run.codec.clean(torch.cat(list(originals.blocks())))
    noise = SampleNoise(1, range(len(x_0)), stream=Stream.FIT).normal(*x_0.shape[1:])
    return place(latents.flatten(1), schedule.diffuse(x_0, noise, step).flatten(1))


def _among_noise(latents: Tensor) -> Placement:
    """Place latents in N(0, I), in closed form: both distances are the norm."""
    from scipy.stats import chi2

    squares = latents.double().square().sum(dim=1)
    found = torch.from_numpy(chi2.cdf(squares.numpy(), latents.shape[1]))
    median = chi2.median(latents.shape[1]) ** 0.5
    return Placement(squares.sqrt() / median, found, found)


def _reconstruction(run: Pipeline, originals: TensorSet, decoded: TensorSet) -> dict[str, Any]:
    """PSNR, SSIM and the distance of features that each judge sees."""
    figures: dict[str, Any] = {}
    for score, values in compare(originals, decoded).items():
        figures |= bounds(score, mean_interval(torch.tensor(values).double()))
    opinions = {}
    for judge in run.judges:
        first, second = (
            torch.cat([judge.extractor(block).double() for block in images.blocks()])
            for images in (originals, decoded)
        )
        # twice the variance is the mean square between two images
        typical = (2 * first.var(dim=0).sum()).sqrt()
        opinions[judge.name] = bounds(
            "distance", mean_interval((first - second).norm(dim=1) / typical)
        )
    return figures | together(opinions)


def _placement(placed: Placement) -> dict[str, Any]:
    found = {
        **bounds("ratio", mean_interval(placed.ratio)),
        **bounds("radius", mean_interval(placed.radius)),
        **bounds("outside", share_interval(placed.outside)),
        "mahalanobis": None,
    }
    if placed.mahalanobis is not None:
        found |= bounds("mahalanobis", mean_interval(placed.mahalanobis))
    return found


def _captured(run: Pipeline) -> dict[str, Any]:
    """Share of samples that left the target domain, by each judge."""
    figures = run.sample_row().figures
    wanted = {"captured", "captured_low", "captured_high"}
    return {key: value for key, value in figures.items() if key.rpartition("/")[2] in wanted}
