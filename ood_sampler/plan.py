"""What a run makes: each artifact by all that determines it, and how much of it is still to do."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, get_args

from ood_sampler.data.domain import ImageSet, Part, TargetDomain
from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.diffusion.solvers import Solver
from ood_sampler.metrics.features import FeatureExtractor
from ood_sampler.models.finetuned import FineTunedModel
from ood_sampler.models.frozen import Model
from ood_sampler.modules.denoising import DenoisingLoss
from ood_sampler.modules.features import FeatureExtraction
from ood_sampler.modules.finetuning import FineTuning, fine_tune
from ood_sampler.modules.inversion import Inversion
from ood_sampler.modules.prediction import OnNonFinite
from ood_sampler.modules.synthesis import Synthesis
from ood_sampler.report.estimate import Work
from ood_sampler.samplers.base import Sampler
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.samplers.lerp import LerpSampler
from ood_sampler.samplers.standard import StandardSampler
from ood_sampler.store.artifacts import Artifact
from ood_sampler.store.files import digest
from ood_sampler.store.sets import TensorSet
from ood_sampler.store.versions import Maker, code_version

_PIXELS = {"cpu": 2**16, "cuda": 2**20}
"""Pixels a call of the network if nothing is said: caches are small, and a GPU wants company."""


@dataclass(frozen=True)
class Settings:
    """The numbers of a run.

    Attributes:
        step: the inversion step $t$ of the latents.
        eta: of the decoding.
        clip_x_0: clip denoised images while decoding.
        num_samples: images to make.
        seed: of all draws.
        batch_size: images a call of the network; no result depends on it. None takes what suits
            resolution and device: 64 at 32x32, one on the CPU and 16 on a GPU at 256x256.
        on_nonfinite: whether NaN or infinity from the network ends the run, or the image is left
            out and named.
        round_trip: few-shot images decoded from their own latents; None decodes all.
        in_domain: samples of the model's own domain, at most `num_samples`; None makes as many.
    """

    step: int
    eta: float
    clip_x_0: bool
    num_samples: int
    seed: int
    batch_size: int | None
    on_nonfinite: OnNonFinite = "raise"
    round_trip: int | None = None
    in_domain: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.eta < math.inf:
            raise ValueError(f"decode.eta must be >= 0 and finite, got {self.eta}")
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be >= 1, got {self.num_samples}")
        size = self.batch_size
        if size is not None and not (isinstance(size, int) and size >= 1):
            raise ValueError(f"batch_size must be a whole number >= 1 or null, got {size!r}")
        for name in ("round_trip", "in_domain"):
            count = getattr(self, name)
            if count is not None and not (isinstance(count, int) and count >= 1):
                raise ValueError(
                    f"measure.{name} must be a whole number >= 1 or null, got {count!r}"
                )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in 0..2^63-1, got {self.seed}")
        if self.on_nonfinite not in get_args(OnNonFinite):
            raise ValueError(f"on_nonfinite must be raise or skip, got {self.on_nonfinite!r}")

    @property
    def in_domain_count(self) -> int:
        """Samples of the model's own domain."""
        return min(self.in_domain or self.num_samples, self.num_samples)


@dataclass(frozen=True)
class Plan:
    """The artifacts of a run, known before any is made.

    Attributes:
        model: the frozen model.
        domain: few-shot and held-out pictures.
        solver: how latents are reached and left.
        sampler: the strategy.
        extractors: the feature spaces.
        settings: the numbers.
        machine: kind of device and precision, which the last digits depend on.
        root: folder of the artifacts.
        also: further steps whose latents the same inversion should leave, for a sweep.
    """

    model: Model
    domain: TargetDomain
    solver: Solver
    sampler: Sampler
    extractors: Sequence[FeatureExtractor]
    settings: Settings
    machine: str
    root: Path
    also: Sequence[int] = ()
    _artifacts: dict[tuple[str, int], Artifact] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image and of a latent."""
        return (self.model.channels, self.model.resolution, self.model.resolution)

    @property
    def batch_size(self) -> int:
        """Images a call of the network."""
        if self.settings.batch_size is not None:
            return self.settings.batch_size
        pixels = _PIXELS["cpu" if self.machine.startswith("cpu") else "cuda"]
        return max(1, min(64, pixels // self.model.resolution**2))

    def inversions(self) -> dict[int, Artifact]:
        """Latents of the few-shot pictures at every step asked for."""
        few_shot = self.domain.few_shot
        return {
            step: self._artifact(
                "inversion",
                {
                    **self._solver_key(Inversion),
                    "images": few_shot.digest,
                    "reader": _reader(few_shot),
                    "step": step,
                },
                len(few_shot),
                self.shape,
            )
            for step in sorted({self.settings.step, *self.also})
        }

    def inversion(self) -> Artifact:
        """Latents of the few-shot pictures at the run's step."""
        return self.inversions()[self.settings.step]

    def denoising_losses(self) -> dict[int, Artifact]:
        """Denoising losses of the few-shot pictures at every step asked for."""
        few_shot = self.domain.few_shot
        key = {
            "model": self.model.digest,
            "machine": self.machine,
            "code": code_version(DenoisingLoss, *model_makers(self.model)),
            "images": few_shot.digest,
            "reader": _reader(few_shot),
            "seed": self.settings.seed,
        }
        return {
            step: self._artifact("denoising", {**key, "step": step}, len(few_shot), (1,))
            for step in sorted({self.settings.step, *self.also})
        }

    def inversion_work(self) -> Work:
        """One pass to every step that is not there yet."""
        unfinished = {s: a for s, a in self.inversions().items() if a.missing()}
        return Work(
            "invert",
            max((artifact.missing_items() for artifact in unfinished.values()), default=0),
            self.solver.inversion_evaluations(
                unfinished or [self.settings.step], T=self.model.schedule.T
            ),
        )

    def fit_key(self) -> dict[str, Any]:
        """What determines the fitted strategy."""
        key = {
            "inversion": self.inversion().digest,
            "sampler": configuration(self.sampler),
            "code": _drawing(self.sampler),
        }
        if self.sampler.in_domain_images:
            key["in_domain"] = self.in_domain_inversion().digest
        return key

    def fit_path(self) -> Path:
        """File of the fitted strategy."""
        return self.root / f"fit-{digest(self.fit_key())[:16]}" / "state.safetensors"

    def fine_tuning_path(self, settings: FineTuning) -> Path:
        """Folder of the network that was fine-tuned on the few-shot pictures."""
        key = {
            "model": self.model.digest,
            "images": self.domain.few_shot.digest,
            "reader": _reader(self.domain.few_shot),
            "settings": asdict(settings),
            "seed": self.settings.seed,
            "machine": self.machine,
            "code": code_version(fine_tune, *model_makers(self.model)),
        }
        return self.root / f"fine-tuning-{digest(key)[:16]}"

    def latents(self) -> Artifact:
        """Latents that the strategy draws."""
        key = {**self.fit_key(), "seed": self.settings.seed}
        return self._artifact("latents", key, self.settings.num_samples, self.shape)

    def pure_noise(self) -> Artifact:
        """Latents of the model's own domain."""
        sampler = StandardSampler()
        key = {
            "sampler": configuration(sampler),
            "shape": list(self.shape),
            "code": _drawing(sampler),
            "seed": self.settings.seed,
        }
        return self._artifact("latents", key, self.settings.in_domain_count, self.shape)

    def reconstructions(self) -> Artifact:
        """The first few-shot images, inverted and decoded."""
        inverted = self.inversion()
        count = min(self.settings.round_trip or inverted.count, inverted.count)
        return self._images(inverted, self.settings.step, eta=0.0, clip_x_0=False, count=count)

    def samples(self) -> Artifact:
        """The new images."""
        settings = self.settings
        return self._images(
            self.latents(), settings.step, eta=settings.eta, clip_x_0=settings.clip_x_0
        )

    def in_domain(self) -> Artifact:
        """What the model makes from pure noise."""
        return self._images(self.pure_noise(), self.last_step, eta=0.0, clip_x_0=True)

    def asked(self) -> "Plan":
        """The same with as many samples as the strategy asks for of the model's own domain."""
        # what a run compares with may be fewer
        count = self.sampler.in_domain_images
        settings = replace(self.settings, num_samples=count, in_domain=None)
        return replace(self, settings=settings)

    def in_domain_inversion(self) -> Artifact:
        """Latents of the model's own domain that the strategy asks for."""
        images = self.asked().in_domain()
        key = {**self._solver_key(Inversion), "images": images.digest, "step": self.settings.step}
        return self._artifact("inversion", key, images.count, self.shape)

    def mixed(self, sampler: Sampler) -> Artifact:
        """Few-shot pictures mixed in pixel space by `sampler`."""
        key = {
            "images": self.domain.few_shot.digest,
            "reader": _reader(self.domain.few_shot),
            "sampler": configuration(sampler),
            "seed": self.settings.seed,
            "code": _drawing(sampler),
        }
        return self._artifact("control", key, self.settings.num_samples, self.shape)

    def features(self, extractor: FeatureExtractor, images_digest: str, count: int) -> Artifact:
        """Features of a set of images, in one of the feature spaces."""
        key = {
            "extractor": self._digests[extractor.name],
            "protocol": extractor.protocol,
            "images": images_digest,
            "readers": [_reader(part) for part in (self.domain.few_shot, self.domain.held_out)],
            "code": code_version(FeatureExtraction, type(extractor)),
        }
        return self._artifact("features", key, count, (extractor.width,))

    def controls(self) -> list[Sampler]:
        """The same linear combinations on pictures: what needs no model at all."""
        controls: list[Sampler] = [LerpSampler(), CogSampler(references=2)]
        known = [configuration(control) for control in controls]
        if self.sampler.mixes and configuration(self.sampler) not in known:
            controls.append(self.sampler)
        return [c for c in controls if len(self.domain.few_shot) >= c.minimum_images]

    def work(self) -> list[Work]:
        """What the network has still to do."""
        step = self.settings.step
        return [
            self.inversion_work(),
            Work("reconstruct", self.reconstructions().missing_items(), self.evaluations(step)),
            Work("decode", self.samples().missing_items(), self.evaluations(step)),
            *in_domain_work([self]),
        ]

    def disk(self) -> int:
        """Bytes still to write: pictures and latents as float32, features, files of the run."""
        made = [self.samples(), self.in_domain(), *(self.mixed(c) for c in self.controls())]
        others = [self.reconstructions(), self.latents(), self.pure_noise()]
        if self.sampler.in_domain_images:
            others.append(self.in_domain_inversion())
        described = [(images.digest, images.count) for images in made]
        described += [(d.digest, len(d)) for d in (self.domain.few_shot, self.domain.held_out)]
        features = [
            self.features(extractor, digest, count)
            for extractor, (digest, count) in product(self.extractors, described)
        ]
        # a byte a value as PNG; physical units are in samples.npy and in samples.fits
        scale = self.domain.scale
        each = 1 if scale is None else 1 + 2 * scale.dtype.itemsize
        return each * self.settings.num_samples * math.prod(self.shape) + sum(
            4 * math.prod(artifact.shape) * artifact.missing_items()
            for artifact in (*self.inversions().values(), *made, *others, *features)
        )

    @property
    def last_step(self) -> int:
        """The noisiest step of the model."""
        return self.model.schedule.T - 1

    def evaluations(self, step: int) -> int:
        """Network evaluations an image of decoding from a step."""
        return self.solver.decoding_evaluations(step, T=self.model.schedule.T)

    @cached_property
    def _digests(self) -> dict[str, str]:
        """Of the feature spaces, hashed once: over all weights."""
        return {extractor.name: extractor.digest for extractor in self.extractors}

    def _images(
        self,
        latents: Artifact,
        step: int,
        *,
        eta: float,
        clip_x_0: bool,
        count: int | None = None,
    ) -> Artifact:
        """Decoded latents, the first `count` of them if that is given."""
        key = {
            **self._solver_key(Synthesis),
            "latents": latents.digest,
            "step": step,
            "eta": eta,
            "clip_x_0": clip_x_0,
            "seed": self.settings.seed if eta else None,
        }
        return self._artifact("images", key, count or latents.count, self.shape)

    def _artifact(
        self, stage: str, key: Mapping[str, Any], count: int, shape: Sequence[int]
    ) -> Artifact:
        """One object an artifact, so that its shards are read and verified once a run."""
        artifact = Artifact(self.root, stage, key, count, shape)
        return self._artifacts.setdefault((artifact.digest, count), artifact)

    def _solver_key(self, stage: Maker) -> dict[str, Any]:
        return {
            "model": self.model.digest,
            "solver": configuration(self.solver),
            "machine": self.machine,
            "code": code_version(stage, type(self.solver), *model_makers(self.model)),
        }


def in_domain_work(plans: Sequence[Plan]) -> list[Work]:
    """What samples of the model's own domain cost, and latents of them if strategies ask for these.

    Args:
        plans: of runs that differ in strategy or step, the first with all samples to compare with.
    """
    first = plans[0]
    asking = {p.in_domain_inversion().digest: p for p in plans if p.sampler.in_domain_images}
    samples = [first.in_domain(), *(plan.asked().in_domain() for plan in asking.values())]
    missing = max(artifact.missing_items() for artifact in samples)
    return [
        Work("in-domain", missing, first.evaluations(first.last_step)),
        *(
            Work(
                "invert in-domain",
                plan.in_domain_inversion().missing_items(),
                plan.solver.inversion_evaluations([plan.settings.step], T=plan.model.schedule.T),
            )
            for plan in asking.values()
        ),
    ]


def configuration(part: Sampler | Solver) -> dict[str, Any]:
    """Name and arguments of a strategy or a solver."""
    return {"type": type(part).__name__, **vars(part)}


def model_makers(model: Model) -> list[type]:
    """Classes of a model and of those that it is made of."""
    made = [type(model)]
    while isinstance(model, FineTunedModel):
        model = model.base
        made.append(type(model))
    return made


def _drawing(sampler: Sampler) -> str:
    """Hash of the code that fits and draws, with what that is handed."""
    return code_version(type(sampler), SampleNoise, TensorSet)


def _reader(images: ImageSet) -> str:
    """Hash of the code that reads images, whichever set holds them."""
    made = [type(images)]
    while isinstance(images, Part):
        images = images.images
        made.append(type(images))
    return code_version(*made)
