"""The stages of a run: invert, fit, draw, decode, measure. Each leaves an artifact behind."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Dataset

from ood_sampler.data.domain import ImageSet, TargetDomain
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.diffusion.schedule import check_latent_step
from ood_sampler.diffusion.solvers import Solver
from ood_sampler.measure import Measure, Row
from ood_sampler.metrics.attribution import Attribution, attribution
from ood_sampler.metrics.authenticity import nearest
from ood_sampler.metrics.features import read_reference
from ood_sampler.metrics.judges import Described, Judge, Judges, thumbnails
from ood_sampler.metrics.reconstruction import Reconstruction
from ood_sampler.models.frozen import Model, checksum
from ood_sampler.modules.denoising import DenoisingLoss
from ood_sampler.modules.features import FeatureExtraction
from ood_sampler.modules.inversion import Inversion, latent_at
from ood_sampler.modules.prediction import (
    NonFiniteError,
    Stage,
    TrainerFactory,
    are_finite,
    compute,
    machine,
    make_trainer,
)
from ood_sampler.modules.synthesis import SAMPLE, Synthesis
from ood_sampler.modules.timing import seconds_an_evaluation
from ood_sampler.plan import Plan, Settings
from ood_sampler.report.estimate import Estimate, Work
from ood_sampler.report.journal import journal
from ood_sampler.samplers.base import Fitted, InvertedSet, Sampler
from ood_sampler.samplers.standard import StandardSampler
from ood_sampler.store.artifacts import Artifact, Items, check_disk
from ood_sampler.store.files import load_state, save_state
from ood_sampler.store.lock import hold
from ood_sampler.store.sets import Selected, TensorSet

log = logging.getLogger(__name__)

SMALLEST = 11
"""Pixels a side that SSIM needs."""


@dataclass
class StageRecord:
    """What a stage cost in this run."""

    name: str
    images: int
    evaluations: int
    seconds: float = 0.0
    cached: bool = False


@dataclass(frozen=True)
class Outcome:
    """All that a run found, and where its pictures are.

    Attributes:
        near_copies: whether each sample is one.
        attribution: the few-shot pictures that explain each sample best.
        numbers: of the samples, where some were left out.
        originals: the few-shot pictures that `reconstructions` belong to.
        left_out: what the network returned NaN or infinity for, a sentence each.
        remarks: of the strategy about its fit, likewise.
        weights: checksum of the network in memory before and after the run; it is frozen.
    """

    rows: list[Row]
    reconstruction: dict[str, list[float]]
    nearest_distance: dict[str, list[float]]
    nearest_index: list[int]
    near_copies: list[bool]
    attribution: Attribution
    stages: list[StageRecord]
    images: TensorSet
    numbers: Sequence[int]
    originals: TensorSet
    reconstructions: TensorSet
    in_domain: TensorSet
    left_out: Sequence[str]
    remarks: Sequence[str]
    weights: tuple[str, str]


@dataclass
class Pipeline:
    """A run: one frozen model, one target domain, one strategy.

    Attributes:
        model: the frozen model.
        domain: few-shot and held-out pictures.
        solver: how latents are reached and left.
        sampler: the strategy.
        judges: feature spaces and metrics.
        trainer: makes Lightning trainers.
        settings: the numbers.
        root: folder of the artifacts.
        also: further steps whose latents the same inversion should leave, for a sweep.
        progress: makes the callbacks that show a stage's progress, from its name and size.
    """

    model: Model
    domain: TargetDomain
    solver: Solver
    sampler: Sampler
    judges: Judges
    trainer: TrainerFactory
    settings: Settings
    root: Path
    also: Sequence[int] = ()
    progress: Callable[[str, int], Sequence[Callback]] = lambda name, images: ()
    stages: list[StageRecord] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @cached_property
    def plan(self) -> Plan:
        """The artifacts of the run.

        Raises:
            ValueError: the trainer's settings do not fit this machine.
        """
        made = make_trainer(self.trainer, [])
        return Plan(
            model=self.model,
            domain=self.domain,
            solver=self.solver,
            sampler=self.sampler,
            extractors=[judge.extractor for judge in self.judges],
            settings=self.settings,
            machine=machine(made),
            root=self.root,
            also=self.also,
        )

    @property
    def title(self) -> str:
        """Strategy, step and noise of decoding, which tell samples of several runs apart."""
        eta = f", eta = {self.settings.eta:g}" if self.settings.eta else ""
        return f"{label(self.sampler)}, t = {self.settings.step}{eta}"

    def check(self) -> None:
        """Find every mistake that can be found before work starts.

        Raises:
            ValueError: a step, count, size or strategy does not fit the model or the domain.
            OSError: the disk is too small or not writable.
            FileNotFoundError: weights are missing.
        """
        check_model(self.model, self.solver, self.settings, self.also)
        few_shot, held_out = self.domain.few_shot, self.domain.held_out
        self.sampler.check(self._few_shot(_images(few_shot), _images(few_shot)))
        self.judges.check(
            {
                "num_samples": self.settings.num_samples,
                "measure.in_domain": self.settings.in_domain_count,
                "data.few_shot": len(few_shot),
                "data.held_out": len(held_out),
            }
        )
        if tuple(few_shot[0].shape) != self.plan.shape:
            raise ValueError(
                f"model.channels and model.resolution are {self.plan.shape}, pictures are "
                f"{tuple(few_shot[0].shape)}: this model cannot take them"
            )
        self.in_domain_references({})
        check_disk(self.root, self.plan.disk())

    def estimate(self, work: Sequence[Work] | None = None) -> Estimate:
        """What the run will cost, from two timed calls of the network.

        Args:
            work: of the network, if it is not that of the run alone.

        Raises:
            ValueError: as `check`, and if the weights do not load.
        """
        self.check()
        disk = self.plan.disk()
        if work is None:
            work = self.plan.work()
        else:
            # latents and images of all sets, as float32
            disk += 8 * math.prod(self.plan.shape) * sum(stage.images for stage in work)
            check_disk(self.root, disk)
        images = max(stage.images for stage in work)
        batch_size = min(self.plan.batch_size, max(images, 1))
        seconds = 0.0
        if images:
            seconds = seconds_an_evaluation(
                self.model.denoiser, self.plan.shape, batch_size, trainer=self.trainer
            )
        return Estimate(work, batch_size, seconds, disk)

    def run(self) -> Outcome:
        """Do what is not done yet, and measure."""
        self.check()
        before = checksum(self.model.denoiser)
        self.invert()
        inverted = self.inverted()
        originals, reconstructions = self.reconstructed()
        samples, numbers, described = self._sampled(inverted)
        in_domain, own, made = self.own
        measure = self.measure
        with self._record("measure", self.settings.num_samples, 0):
            rows = [measure.row(label(self.sampler), "strategy", described)]
            compared = [
                (measure.real(), measure.few_shot.first(measure.count)),
                (measure.own(made), made),
            ]
            for sampler in self.plan.controls():
                mixed = self.control(sampler)
                compared.append((measure.row(_in_pixels(sampler), "control", mixed), mixed))
            rows += [measure.above(row, images, described) for row, images in compared]
            to_few_shot, held_out_to_few_shot = (
                nearest(images.headline, measure.few_shot.headline)
                for images in (described, measure.held_out)
            )
            explained = attribution(
                *(
                    images.thumbnails.flatten(start_dim=1)
                    for images in (described, measure.few_shot)
                )
            )
            reconstruction = self.compare(originals, reconstructions)
        return Outcome(
            rows=rows,
            reconstruction=reconstruction,
            nearest_distance={
                "samples": to_few_shot.distance.tolist(),
                "held_out": held_out_to_few_shot.distance.tolist(),
            },
            nearest_index=to_few_shot.indices.tolist(),
            near_copies=[bool(found) for found in rows[0].each.get("near_copies_each", ())],
            attribution=explained,
            stages=self.stages,
            images=_selected(samples.open(), numbers),
            numbers=numbers,
            originals=originals,
            reconstructions=reconstructions,
            in_domain=_selected(in_domain.open(), own),
            left_out=self.left_out,
            remarks=self.remarks,
            weights=(before, checksum(self.model.denoiser)),
        )

    def sampled(self) -> tuple[Artifact, list[int], Described]:
        """The samples, the numbers of those that are finite, and those as the metrics see them."""
        self.invert()
        return self._sampled(self.inverted())

    def _sampled(self, inverted: InvertedSet) -> tuple[Artifact, list[int], Described]:
        samples = self.draw_and_decode(inverted)
        numbers = self.usable(samples, SAMPLE)
        self.judges.check({"samples without NaN": len(numbers)})
        return samples, numbers, self.describe("samples", samples, numbers, of=self.title)

    def sample_row(self) -> Row:
        """The figures of the strategy."""
        return self.measure.row(label(self.sampler), "strategy", self.sampled()[2])

    def control_row(self, sampler: Sampler) -> Row:
        """The figures of the same strategy on the few-shot pictures themselves."""
        return self.measure.row(_in_pixels(sampler), "control", self.control(sampler))

    def references(self) -> list[Row]:
        """The floor and the ceiling: real pictures, and samples of the model's own domain."""
        return [self.measure.real(), self.measure.own(self.own[2])]

    @cached_property
    def own(self) -> tuple[Artifact, list[int], Described]:
        """Samples of the model's own domain, as `sampled`."""
        in_domain = self.in_domain()
        numbers = self.usable(in_domain, "in-domain sample")
        self.judges.check({"in-domain samples without NaN": len(numbers)})
        return in_domain, numbers, self.describe("in-domain", in_domain, numbers)

    @cached_property
    def few_shot(self) -> Described:
        """The few-shot pictures as the metrics see them."""
        return self.describe_images("few-shot", self.domain.few_shot)

    @cached_property
    def in_domain_features(self) -> Mapping[str, Tensor]:
        """Features of the model's own domain, by judge."""
        return self.in_domain_references(self.own[2].features)

    @cached_property
    def measure(self) -> "Measure":
        """What sets of images are measured against."""
        return Measure(
            judges=self.judges,
            root=self.root,
            few_shot=self.few_shot,
            held_out=self.describe_images("held-out", self.domain.held_out),
            in_domain=self.in_domain_features,
            count=self.settings.num_samples,
        )

    def invert(self) -> Artifact:
        """Invert the few-shot pictures to every step asked for, in one pass."""
        few_shot = self.domain.few_shot
        artifacts = self.plan.inversions()
        work = self.plan.inversion_work()
        self._compute(
            work.name,
            lambda unfinished: Inversion(
                self.model.denoiser,
                at=[int(step) for step in unfinished],
                solver=self.solver,
                names=few_shot.names,
                on_nonfinite=self.settings.on_nonfinite,
            ),
            few_shot,
            {str(step): artifact for step, artifact in artifacts.items()},
            evaluations_each=work.evaluations_each,
        )
        return artifacts[self.settings.step]

    def denoising_losses(self) -> dict[int, Artifact]:
        """Ask how well the model denoises the few-shot pictures at every step asked for."""
        few_shot, artifacts = self.domain.few_shot, self.plan.denoising_losses()
        self._compute(
            "denoising loss",
            lambda unfinished: DenoisingLoss(
                self.model.denoiser,
                at=[int(step) for step in unfinished],
                seed=self.settings.seed,
                names=few_shot.names,
                on_nonfinite=self.settings.on_nonfinite,
            ),
            few_shot,
            {str(step): artifact for step, artifact in artifacts.items()},
            evaluations_each=len(artifacts),
        )
        return artifacts

    def usable(
        self, artifact: Artifact, what: str, names: Sequence[object] | None = None
    ) -> list[int]:
        """Numbers of the items that are finite; the others are reported by name and left out.

        Args:
            artifact: whole.
            what: kind of its items, for messages.
            names: of its items; None takes their numbers.

        Raises:
            NonFiniteError: there are others, and the settings do not allow for them.
        """
        finite = torch.cat([are_finite(block) for block in artifact.open().blocks()]).tolist()
        names = range(artifact.count) if names is None else names
        bad = [name for name, good in zip(names, finite, strict=True) if not good]
        if bad and self.settings.on_nonfinite == "raise":
            raise NonFiniteError(what, bad)
        for name in bad:
            self.left_out.append(
                f"the network returned NaN or infinity for {what} {name}: left out"
            )
            log.warning("warning: %s", self.left_out[-1])
        return [index for index, good in enumerate(finite) if good]

    def inverted(self) -> InvertedSet:
        """The latents that the strategy may use, and their pictures.

        Raises:
            NonFiniteError: one is not finite, and the settings do not allow for that.
            ValueError: too few are.
        """
        few_shot, step = self.domain.few_shot, self.settings.step
        latents = self.plan.inversion()
        kept = self.usable(latents, latent_at(step), few_shot.names)
        inverted = self._few_shot(
            _selected(latents.open(), kept), _selected(_images(few_shot), kept)
        )
        self.sampler.check(inverted)
        return replace(inverted, in_domain=self._in_domain_latents())

    def reconstructed(self) -> tuple[TensorSet, TensorSet]:
        """The few-shot pictures and, inverted and decoded, the same ones."""
        artifact, few_shot = self.reconstruct(), self.domain.few_shot
        names = few_shot.names[: artifact.count]
        what = "the reconstruction of picture"
        kept = self.usable(artifact, what, names)
        if not kept:
            raise NonFiniteError(what, names, remedy="and check the weights")
        originals = Taken(few_shot, artifact.count)
        return _selected(originals, kept), _selected(artifact.open(), kept)

    def reconstruct(self) -> Artifact:
        """Decode the first inverted images back."""
        artifact = self.plan.reconstructions()
        return self._decode(
            "reconstruct",
            self.plan.inversion(),
            artifact,
            eta=0.0,
            clip_x_0=False,
            of=f"t = {self.settings.step}",
        )

    def draw_and_decode(self, inverted: InvertedSet) -> Artifact:
        """Fit the strategy, draw its latents and decode them."""
        latents, fitted = self.plan.latents(), self._fit(inverted)
        self.remarks = self.sampler.remarks(fitted)
        if latents.missing():
            self._draw("draw", latents, self.sampler, fitted, inverted)
        return self._decode(
            "decode",
            latents,
            self.plan.samples(),
            eta=self.settings.eta,
            clip_x_0=self.settings.clip_x_0,
            of=self.title,
        )

    def in_domain(self) -> Artifact:
        """Samples of the model's own domain, from pure noise."""
        return self._own_domain(self.plan)

    def _own_domain(self, plan: Plan) -> Artifact:
        latents, last = plan.pure_noise(), plan.last_step
        nothing = _NoImages(plan.shape)
        noise = InvertedSet(
            images=nothing, latents=nothing, schedule=self.model.schedule, step=last
        )
        self._draw("draw", latents, StandardSampler(), {}, noise)
        artifact = plan.in_domain()
        return self._decode("in-domain", latents, artifact, eta=0.0, clip_x_0=True, step=last)

    def _in_domain_latents(self) -> TensorSet | None:
        """Latents of the model's own domain at the run's step, if the strategy asks for them."""
        if not self.sampler.in_domain_images:
            return None
        step, latents = self.settings.step, self.plan.in_domain_inversion()
        pictures = self._own_domain(self.plan.asked())
        names = [f"{i} of the model's own domain" for i in range(latents.count)]
        self._compute(
            "invert in-domain",
            lambda _: Inversion(
                self.model.denoiser,
                at=[step],
                solver=self.solver,
                names=names,
                on_nonfinite=self.settings.on_nonfinite,
            ),
            Items(pictures.open()),
            {str(step): latents},
            evaluations_each=self.solver.inversion_evaluations([step], T=self.model.schedule.T),
        )
        return _selected(latents.open(), self.usable(latents, latent_at(step), names))

    def control(self, sampler: Sampler) -> Described:
        """Pictures mixed in pixel space by `sampler`, clipped."""
        artifact = self.plan.mixed(sampler)
        if artifact.missing():
            pictures = _images(self.domain.few_shot)
            inverted = self._few_shot(pictures, pictures)
            fitted = sampler.fit(inverted)
            self._draw("control", artifact, sampler, fitted, inverted, limits=(-1.0, 1.0))
        return self.describe(label(sampler), artifact, of="pixel control")

    def describe(
        self, name: str, images: Artifact, kept: Sequence[int] | None = None, *, of: str = ""
    ) -> Described:
        """Features and thumbnails of stored images, of those `kept` if that is given.

        Args:
            name: what the images are.
            images: whole.
            kept: their numbers.
            of: what made them, for the progress.
        """
        kept = range(images.count) if kept is None else kept
        items = Items(_selected(images.open(), kept))
        return self._describe(name, items, images.digest, kept, of=of)

    def describe_images(self, name: str, images: ImageSet) -> Described:
        """Features and thumbnails of real pictures."""
        return self._describe(name, images, images.digest, images.names)

    def compare(self, originals: TensorSet, reconstructions: TensorSet) -> dict[str, list[float]]:
        """MSE, PSNR and SSIM of the reconstructed few-shot pictures, one value a picture."""
        metric = Reconstruction()
        for x, x_0 in zip(reconstructions.blocks(), originals.blocks(), strict=True):
            metric.update(x, x_0)
        scores = metric.compute()
        return {name: value.reshape(-1).tolist() for name, value in scores._asdict().items()}

    def _decode(
        self,
        stage: str,
        latents: Artifact,
        artifact: Artifact,
        *,
        eta: float,
        clip_x_0: bool,
        step: int | None = None,
        of: str = "",
    ) -> Artifact:
        """Decode stored latents of a step (the run's, if none is given); `of` names them."""
        step = self.settings.step if step is None else step
        self._compute(
            stage,
            lambda _: Synthesis(
                self.model.denoiser,
                step=step,
                solver=self.solver,
                eta=eta,
                clip_x_0=clip_x_0,
                seed=self.settings.seed,
                on_nonfinite=self.settings.on_nonfinite,
            ),
            Items(latents.open()),
            {"images": artifact},
            evaluations_each=self.plan.evaluations(step),
            of=of,
        )
        return artifact

    def _describe(
        self,
        name: str,
        images: Dataset[Tensor],
        images_digest: str,
        names: Sequence[object],
        *,
        of: str = "",
    ) -> Described:
        features = {
            judge.name: self.features(judge, name, images, images_digest, names, of=of)
            for judge in self.judges
        }
        pictures = Taken(images, len(names))
        return Described(features, torch.cat([thumbnails(block) for block in pictures.blocks()]))

    def features(
        self,
        judge: Judge,
        name: str,
        images: Dataset[Tensor],
        images_digest: str,
        names: Sequence[object],
        *,
        of: str = "",
    ) -> Tensor:
        """Features of a set of images as a judge sees them, stored.

        Args:
            judge: whose.
            name: what the images are.
            images: in [-1, 1].
            images_digest: what determines them.
            names: of each, for messages.
            of: what made them, for the progress.
        """
        artifact = self.plan.features(judge.extractor, images_digest, len(names))
        self._compute(
            f"features of {name}, {judge.name}",
            lambda _: FeatureExtraction(judge.extractor, what=f"{name}, image", names=names),
            images,
            {"features": artifact},
            evaluations_each=0,
            of=of,
        )
        return torch.cat(list(artifact.open().blocks()))

    def _fit(self, inverted: InvertedSet) -> Fitted:
        path = self.plan.fit_path()
        with self._record("fit", len(inverted.latents), 0, self.title) as record:
            fitted = load_state(path)
            record.cached = fitted is not None
            if fitted is None:
                with hold(
                    [path.parent], needed=lambda: load_state(path) is None, what="the stage fit"
                ) as own:
                    record.cached = not own
                    if own:
                        save_state(path, self.sampler.fit(inverted))
                fitted = load_file(path)
        return fitted

    def _draw(
        self,
        stage: str,
        artifact: Artifact,
        sampler: Sampler,
        fitted: Fitted,
        inverted: InvertedSet,
        *,
        limits: tuple[float, float] | None = None,
    ) -> None:
        if not artifact.missing():
            return
        with (
            self._record(stage, artifact.count, 0, label(sampler)) as record,
            hold(
                [artifact.folder],
                needed=lambda: bool(artifact.missing()),
                what=f"the stage {stage}",
            ) as own,
        ):
            record.cached = not own
            for shard in artifact.missing():
                first = shard * artifact.shard
                indices = range(first, first + artifact.expected(shard))
                noise = SampleNoise(self.settings.seed, indices, stream=Stream.LATENT)
                drawn = sampler.draw(fitted, inverted, noise)
                artifact.write(shard, drawn if limits is None else drawn.clamp(*limits))

    def _compute(
        self,
        name: str,
        stage: Callable[[Iterable[str]], Stage],
        items: Dataset[Tensor],
        artifacts: Mapping[str, Artifact],
        *,
        evaluations_each: int,
        of: str = "",
    ) -> None:
        """Compute those artifacts of a stage that are not whole, which it is told by name.

        `of` says what the stage is for where a run has several of its name.
        """
        any_artifact = next(iter(artifacts.values()))

        def missing_items() -> int:
            return max(artifact.missing_items() for artifact in artifacts.values())

        with (
            self._record(name, any_artifact.count, evaluations_each, of) as record,
            hold(
                [artifact.folder for artifact in artifacts.values()],
                needed=lambda: missing_items() > 0,
                what=f"the stage {name}",
            ) as own,
        ):
            record.cached = not own
            if own:
                # another process may have made some while this one waited
                unfinished = {n: a for n, a in artifacts.items() if a.missing()}
                compute(
                    stage(unfinished),
                    items,
                    unfinished,
                    trainer=self.trainer,
                    batch_size=self.plan.batch_size,
                    callbacks=self.progress(_titled(name, of), missing_items()),
                )

    @contextmanager
    def _record(
        self, name: str, images: int, evaluations_each: int, of: str = ""
    ) -> Iterator[StageRecord]:
        record = StageRecord(name, images, evaluations_each)
        start = time.perf_counter()
        yield record
        record.seconds = time.perf_counter() - start
        seconds = "done before" if record.cached else f"{record.seconds:.1f} s"
        journal.info("stage %s; %d images, %s", _titled(name, of), images, seconds)
        # what this run has done before is told of once
        if not (record.cached and any(stage.name == name for stage in self.stages)):
            self.stages.append(record)

    def _few_shot(self, latents: TensorSet, images: TensorSet) -> InvertedSet:
        return InvertedSet(
            images=images,
            latents=latents,
            schedule=self.model.schedule,
            step=self.settings.step,
        )

    def in_domain_references(self, samples: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features of the model's own domain by judge: of real pictures where some are stored.

        Args:
            samples: features of samples of the model, which stand for them elsewhere.
        """
        found = dict(samples)
        for judge in self.judges:
            file = self.model.in_domain_file(judge.extractor.name)
            if file is not None:
                found[judge.name] = read_reference(file, judge.extractor)
        return found


def check_model(model: Model, solver: Solver, settings: Settings, also: Sequence[int]) -> None:
    """Find mistakes that need no data to be seen.

    Raises:
        ValueError: a step or the grid does not fit the model's chain, the solver cannot decode with
            this eta, or pictures are too small.
        FileNotFoundError: weights are missing.
    """
    _ = model.digest
    T = model.schedule.T
    for step in (settings.step, *also):
        try:
            check_latent_step(step, model.schedule)
        except ValueError as error:
            raise ValueError(f"inversion.{error}") from error
    try:
        solver.check(T)
    except ValueError as error:
        raise ValueError(f"solver.{error}") from error
    try:
        solver.check_eta(settings.eta)
    except ValueError as error:
        raise ValueError(f"decode.{error}") from error
    if model.resolution < SMALLEST:
        raise ValueError(f"model.resolution must be >= {SMALLEST}, got {model.resolution}")


class Taken(TensorSet):
    """A data set of single items as a tensor set."""

    def __init__(self, items: Dataset[Tensor], count: int) -> None:
        self.items = items
        self.count = count

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.items[0].shape)

    def __len__(self) -> int:
        return self.count

    def take(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([self.items[int(index)] for index in indices])


class _NoImages(TensorSet):
    """An empty set that knows its shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def __len__(self) -> int:
        return 0

    def take(self, indices: Sequence[int]) -> Tensor:
        raise IndexError("the set is empty")


def _images(images: ImageSet) -> Taken:
    return Taken(images, len(images))


def _selected(items: TensorSet, kept: Sequence[int]) -> TensorSet:
    return items if len(kept) == len(items) else Selected(items, kept)


def _titled(stage: str, of: str) -> str:
    return f"{stage}: {of}" if of else stage


def _in_pixels(sampler: Sampler) -> str:
    return f"{label(sampler)} in pixels"


def label(sampler: Sampler) -> str:
    """A strategy and its arguments, for tables."""
    arguments = ", ".join(str(value) for value in vars(sampler).values() if value is not None)
    if sampler.recipe:
        arguments = f"{sampler.recipe}: {arguments}"
    name = type(sampler).__name__.removesuffix("Sampler").lower()
    return f"{name} ({arguments})" if arguments else name
