"""The nodes of a run: each stored result with its key, its inputs and its cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ood_sampler.codecs.base import Codec
from ood_sampler.codecs.corrected import FittedGaussian, corrected
from ood_sampler.codecs.pixels import PixelCodec
from ood_sampler.data.domain import ImageSet, Part, TargetDomain
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.diffusion.solvers.base import clip
from ood_sampler.metrics.judges import Judge, Judges
from ood_sampler.models.base import Model
from ood_sampler.modules.features import FeatureExtraction
from ood_sampler.modules.inversion import Inversion, latent_at
from ood_sampler.modules.synthesis import Synthesis
from ood_sampler.pipeline.correction import OWN, GaussianCorrection
from ood_sampler.pipeline.session import Session
from ood_sampler.pipeline.settings import Settings
from ood_sampler.samplers.base import Fitted, InvertedSet, Sampler
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.samplers.lerp import LerpSampler
from ood_sampler.samplers.standard import StandardSampler
from ood_sampler.store.artifacts import Artifact, Items
from ood_sampler.store.files import load_state, save_state
from ood_sampler.store.node import Computed, Derived, Node, StoredState
from ood_sampler.store.sets import Empty, Selected, Taken, TensorSet
from ood_sampler.store.versions import Maker, code_version


@dataclass(frozen=True, eq=False)
class Nodes:
    """The nodes of a run, known before any of them is made.

    Attributes:
        model: the frozen model.
        codec: the model as a map between images and latents.
        domain: few-shot and held-out images.
        sampler: the strategy.
        judges: feature spaces and metrics.
        settings: the numbers of the run.
        session: where and how nodes are made.
        also: further steps for which the inversion keeps latents, for a sweep.
        correction: of the flow along which few-shot images are inverted and samples decoded; None
            takes the flow of the model.
    """

    model: Model
    codec: Codec
    domain: TargetDomain
    sampler: Sampler
    judges: Judges
    settings: Settings
    session: Session
    also: Sequence[int] = ()
    correction: GaussianCorrection | None = None

    @property
    def title(self) -> str:
        """Strategy, step, noise and correction, to tell samples of several runs apart."""
        if not self.codec.stored:
            return f"{label(self.sampler)} in pixels"
        eta = f", eta = {self.settings.eta:g}" if self.settings.eta else ""
        made = f"{label(self.sampler)}, t = {self.settings.step}{eta}"
        return f"{made}, {self._correction}" if self._correction else made

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of an image, $(C, H, W)$."""
        return (self.model.channels, self.model.resolution, self.model.resolution)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of a latent at the run's step."""
        return self.codec.shape(self.settings.step)

    @property
    def batch_size(self) -> int:
        """Images per forward pass."""
        return self.settings.batch_size or self.session.images_per_pass(self.model.resolution)

    @property
    def controls(self) -> list[Self]:
        """The same linear combinations of images instead of latents, without a model."""
        controls: list[Sampler] = [LerpSampler(), CogSampler(references=2)]
        known = [configuration(control) for control in controls]
        if self.sampler.mixes and configuration(self.sampler) not in known:
            controls.append(self.sampler)
        few_shot = len(self.domain.few_shot)
        return [self.in_pixels(c) for c in controls if few_shot >= c.minimum_images]

    def in_pixels(self, sampler: Sampler) -> Self:
        """The control of a strategy: its run on the images themselves."""
        return replace(
            self,
            codec=PixelCodec(self.image_shape),
            sampler=sampler,
            settings=replace(self.settings, step=0, eta=0.0),
            also=(),
            correction=None,
        )

    @property
    def correction_weight(self) -> float:
        """Weight of the correction, 0 without one."""
        return 0.0 if self.correction is None else self.correction.weight

    @property
    def is_corrected(self) -> bool:
        """Whether the flow differs from the model's own."""
        return self.correction_weight > 0

    @property
    def _correction(self) -> str:
        """What tells stages along the corrected flow from others."""
        return f"correction {self.correction_weight:g}" if self.is_corrected else ""

    @property
    def plain(self) -> Self:
        """The same run along the flow of the model."""
        return replace(self, correction=None) if self.is_corrected else self

    @cached_property
    def flow(self) -> Codec:
        """The codec that inverts few-shot images and decodes samples."""
        if self.correction is None or not self.gaussians:
            return self.codec
        fitted = (FittedGaussian(n.output.digest, n.output.path) for n in self.gaussians)
        return corrected(
            self.codec, *fitted, weight=self.correction_weight, fade=self.correction.fade
        )

    @cached_property
    def gaussians(self) -> list[Node]:
        """Gaussians of the few-shot images and of the model's own domain, for the correction."""
        if self.correction is None or not self.is_corrected:
            return []
        pictures = self.correction.pictures
        own = (
            self._own_gaussian(self.correction)
            if pictures is None
            else (self._gaussian_of(OWN, pictures, self.correction))
        )
        return [self._gaussian_of("the target", self.domain.few_shot, self.correction), own]

    def _own_gaussian(self, correction: GaussianCorrection) -> Node:
        """The Gaussian of samples of the model; all its runs share the samples."""
        settings = replace(self.settings, num_samples=correction.in_domain, in_domain=None, seed=0)
        made = replace(self.plain, settings=settings).in_domain

        def samples() -> TensorSet:
            items = made.output.open()
            return selected(items, self.finite(items, "in-domain sample"))

        key = {"images": made.output.digest}
        return correction.gaussian(
            OWN, self.session, self.codec, samples, key, made.count, inputs=[made]
        )

    @property
    def about_gaussians(self) -> str:
        """Remarks on the Gaussians of the correction: their images and shrinkage."""
        told = []
        for node in self.gaussians:
            state = load_state(node.output.path) or {}
            shrinkage = float(state.get("shrinkage", torch.nan))
            told.append(f"Gaussian of {node.of}: {node.count} pictures, shrinkage {shrinkage:.2f}")
        return "; ".join(told)

    def _gaussian_of(self, name: str, images: ImageSet, correction: GaussianCorrection) -> Node:
        return correction.gaussian(
            name,
            self.session,
            self.codec,
            lambda: taken(images),
            {"images": images.digest, "reader": reader(images)},
            len(images),
            inputs=made_by(images),
        )

    @cached_property
    def inversion(self) -> Node:
        """Latents of the few-shot images at all requested steps, in one pass."""
        few_shot = self.domain.few_shot
        return self._encoded(
            "invert",
            lambda: few_shot,
            {"images": few_shot.digest, "reader": reader(few_shot)},
            few_shot.names,
            levels=sorted({self.settings.step, *self.also}),
            inputs=made_by(few_shot),
        )

    @cached_property
    def in_domain_inversion(self) -> Node | None:
        """Latents of the model's own domain, if the strategy asks for them."""
        # independent of the number of images that the run compares with
        count = self.sampler.in_domain_images
        if not count:
            return None
        settings = replace(self.settings, num_samples=count, in_domain=None)
        images = replace(self, settings=settings).in_domain
        return self._encoded(
            "invert in-domain",
            lambda: Items(images.output.open()),
            {"images": images.output.digest},
            [f"{i} of the model's own domain" for i in range(count)],
            levels=[self.settings.step],
            inputs=[images],
        )

    @property
    def inversions(self) -> list[Node]:
        """Latents that the strategy is fitted to."""
        return [node for node in (self.inversion, self.in_domain_inversion) if node is not None]

    @cached_property
    def fit(self) -> Node:
        """Parameters of the strategy, fitted to the latents."""
        count = len(self.domain.few_shot)
        state = StoredState(self.session.root, "fit", self._fit_key, count)
        return Node(
            "fit" if self.codec.stored else "fit control",
            {"state": state},
            lambda _: save_state(state.path, self.sampler.fit(self.inverted)),
            inputs=self.inversions,
            of=self.title,
        )

    @cached_property
    def draws(self) -> Node:
        """Latents that the strategy draws."""
        key = {**self._fit_key, "seed": self.settings.seed}
        artifact = self.session.artifact(
            "latents", key, self.settings.num_samples, self.latent_shape
        )
        return Node(
            "draw" if self.codec.stored else "control",
            {"latents": artifact},
            lambda _: self._draw(artifact, self.sampler, self.fitted, self.inverted),
            inputs=[self.fit, *self.fit.inputs],
            of=label(self.sampler),
        )

    @cached_property
    def samples(self) -> Node:
        """The new images."""
        settings = self.settings
        return self._decoded(
            "decode",
            self.draws,
            settings.step,
            eta=settings.eta,
            clip_x_0=settings.clip_x_0,
            of=self.title,
        )

    @cached_property
    def reconstructions(self) -> Node:
        """The first few-shot images, inverted and decoded."""
        step, count = self.settings.step, len(self.domain.few_shot)
        return self._decoded(
            "reconstruct",
            self.inversion,
            step,
            of=f"t = {step}",
            count=min(self.settings.round_trip or count, count),
        )

    @cached_property
    def noise(self) -> Node:
        """Latents of the model's own domain."""
        sampler, level = StandardSampler(), self.codec.last_level
        shape = self.codec.shape(level)
        key = {
            "sampler": configuration(sampler),
            "shape": list(shape),
            "code": _drawing(sampler),
            "seed": self.settings.seed,
        }
        artifact = self.session.artifact("latents", key, self.settings.in_domain_count, shape)
        empty = InvertedSet(Empty(shape), Empty(shape), self.codec.schedule, level)
        return Node(
            "draw",
            {"latents": artifact},
            lambda _: self._draw(artifact, sampler, {}, empty),
            of=label(sampler),
        )

    @cached_property
    def in_domain(self) -> Node:
        """Images that the model makes from pure noise, along its own flow."""
        if self.is_corrected:
            return self.plain.in_domain
        return self._decoded("in-domain", self.noise, self.codec.last_level, clip_x_0=True)

    def features(
        self,
        judge: Judge,
        name: str,
        images: Callable[[], Dataset[Tensor]],
        images_digest: str,
        names: Sequence[object],
        *,
        inputs: Sequence[Node] = (),
        of: str = "",
    ) -> Node:
        """Features of a set of images in the space of one judge.

        Args:
            judge: owner of the feature space.
            name: of the set.
            images: opens the images, in [-1, 1].
            images_digest: hash of everything that determines them.
            names: one per image, for messages.
            inputs: node that makes the images.
            of: origin of the images.
        """
        extractor = judge.extractor
        key = {
            "extractor": self.session.once(("digest", extractor), lambda: extractor.digest),
            "protocol": extractor.protocol,
            "images": images_digest,
            "readers": [reader(part) for part in (self.domain.few_shot, self.domain.held_out)],
            "code": code_version(FeatureExtraction, type(extractor)),
        }
        stage = f"features of {name}, {judge.name}"
        return Node(
            stage,
            {"features": self.session.artifact("features", key, len(names), (extractor.width,))},
            lambda unfinished: self.session.compute(
                f"{stage}: {of}" if of else stage,
                lambda _: FeatureExtraction(extractor, what=f"{name}, image", names=names),
                images(),
                unfinished,
                batch_size=self.batch_size,
            ),
            inputs=inputs,
            of=of,
        )

    @property
    def targets(self) -> list[Node]:
        """All nodes of a run."""
        nodes = [*self.inversions, self.reconstructions, self.samples, self.in_domain]
        made = [("samples", self.samples, self.title), ("in-domain", self.in_domain, "")]
        made += [("samples", run.samples, run.title) for run in self.controls]
        pictures = [("few-shot", self.domain.few_shot), ("held-out", self.domain.held_out)]
        for judge in self.judges:
            nodes += [
                self.features(
                    judge,
                    name,
                    partial(_items, node),
                    node.output.digest,
                    range(node.count),
                    inputs=[node],
                    of=of,
                )
                for name, node, of in made
            ]
            nodes += [
                self.features(judge, name, partial(_same, part), part.digest, part.names)
                for name, part in pictures
            ]
        return nodes

    @cached_property
    def inverted(self) -> InvertedSet:
        """Finite latents, which the strategy may use, and their images.

        Raises:
            NonFiniteError: a latent is not finite, and the settings do not allow that.
            ValueError: too few latents are finite.
        """
        for each in self.inversions:
            if each.missing_items():
                self.session.obtain(each)
        few_shot, step = self.domain.few_shot, self.settings.step
        latents = self.inversion.outputs[str(step)].open()
        kept = self.finite(latents, latent_at(step), few_shot.names)
        inverted = self.inverted_set(selected(latents, kept), selected(taken(few_shot), kept))
        self.sampler.check(inverted)
        node = self.in_domain_inversion
        if node is None:
            return inverted
        own = node.output.open()
        names = [f"{i} of the model's own domain" for i in range(len(own))]
        return replace(inverted, in_domain=selected(own, self.finite(own, latent_at(step), names)))

    @property
    def fitted(self) -> Fitted:
        """Read the fitted parameters of the strategy."""
        fitted = load_state(self.fit.output.path)
        if fitted is None:
            raise FileNotFoundError(f"{self.fit.output.path} was removed during the run")
        return fitted

    def inverted_set(self, latents: TensorSet, images: TensorSet) -> InvertedSet:
        """Latents of the run's step, as strategies take them."""
        shape = self.latent_shape
        clean = Computed(images, torch.no_grad()(self.codec.clean), shape)
        return InvertedSet(
            images=clean,
            latents=latents,
            schedule=self.codec.schedule,
            step=self.settings.step,
        )

    def finite(
        self, items: TensorSet, what: str, names: Sequence[object] | None = None
    ) -> list[int]:
        """Indices of the finite items (`Session.finite`)."""
        return self.session.finite(items, what, names, on_nonfinite=self.settings.on_nonfinite)

    @property
    def _fit_key(self) -> dict[str, Any]:
        key = {
            "inversion": self.inversion.outputs[str(self.settings.step)].digest,
            "sampler": configuration(self.sampler),
            "code": _drawing(self.sampler),
        }
        if self.in_domain_inversion is not None:
            key["in_domain"] = self.in_domain_inversion.output.digest
        return key

    def _codec_key(self, stage: Maker) -> dict[str, Any]:
        return {
            **self.flow.identity,
            "machine": self.session.machine,
            "code": code_version(stage, *self.flow.makers),
        }

    def _encoded(
        self,
        name: str,
        images: Callable[[], Dataset[Tensor]],
        key: Mapping[str, Any],
        names: Sequence[str],
        *,
        levels: Sequence[int],
        inputs: Sequence[Node],
    ) -> Node:
        """Latents of images at some levels, in one pass."""
        key = {**self._codec_key(Inversion), **key}
        count = len(names)
        if not self.codec.stored:
            shown = {
                str(t): Derived({**key, "step": t}, count, lambda: Taken(images(), count))
                for t in levels
            }
            return Node(name, shown, _nothing)
        return Node(
            name,
            {
                str(t): self.session.artifact(
                    "inversion", {**key, "step": t}, count, self.codec.shape(t)
                )
                for t in levels
            },
            lambda unfinished: self.session.compute(
                name,
                lambda at: Inversion(
                    self.flow,
                    at=[int(t) for t in at],
                    names=names,
                    on_nonfinite=self.settings.on_nonfinite,
                ),
                images(),
                unfinished,
                batch_size=self.batch_size,
            ),
            inputs=[*inputs, *self.gaussians],
            cost=lambda at: self.codec.encoding_evaluations([int(t) for t in at]),
            of=self._correction,
        )

    def _decoded(
        self,
        name: str,
        latents: Node,
        level: int,
        *,
        eta: float = 0.0,
        clip_x_0: bool = False,
        of: str = "",
        count: int | None = None,
    ) -> Node:
        """Decoded latents of a level: the first `count`, if given."""
        source = latents.outputs[str(level)] if len(latents.outputs) > 1 else latents.output
        count = count or source.count
        key = {
            **self._codec_key(Synthesis),
            "latents": source.digest,
            "step": level,
            "eta": eta,
            "clip_x_0": clip_x_0,
            "seed": self.settings.seed if eta else None,
        }
        if not self.codec.stored:
            derived = Derived(
                key,
                count,
                lambda: Computed(
                    source.open(), lambda z: clip(self.codec.decode(z, level)), self.image_shape
                ),
                source,
            )
            return Node(name, {"images": derived}, _nothing, inputs=[latents], of=of)
        return Node(
            name,
            {"images": self.session.artifact("images", key, count, self.image_shape)},
            lambda unfinished: self.session.compute(
                f"{name}: {of}" if of else name,
                lambda _: Synthesis(
                    self.flow,
                    level=level,
                    eta=eta,
                    clip_x_0=clip_x_0,
                    seed=self.settings.seed,
                    on_nonfinite=self.settings.on_nonfinite,
                ),
                Items(source.open()),
                unfinished,
                batch_size=self.batch_size,
            ),
            inputs=[latents, *self.gaussians],
            cost=lambda _: self.codec.decoding_evaluations(level),
            of=of,
        )

    def _draw(
        self, artifact: Artifact, sampler: Sampler, fitted: Fitted, inverted: InvertedSet
    ) -> None:
        for shard in artifact.missing():
            first = shard * artifact.shard
            indices = range(first, first + artifact.expected(shard))
            noise = SampleNoise(self.settings.seed, indices, stream=Stream.LATENT)
            artifact.write(shard, sampler.draw(fitted, inverted, noise))


def configuration(part: Sampler) -> dict[str, Any]:
    """Name and arguments of a strategy."""
    return {"type": type(part).__name__, **vars(part)}


def label(sampler: Sampler) -> str:
    """Name a strategy with its arguments, for tables."""
    arguments = ", ".join(str(value) for value in vars(sampler).values() if value is not None)
    if sampler.recipe:
        arguments = f"{sampler.recipe}: {arguments}"
    name = type(sampler).__name__.removesuffix("Sampler").lower()
    return f"{name} ({arguments})" if arguments else name


def reader(images: ImageSet) -> str:
    """Hash of the code that reads images from a set, or from the set behind a part."""
    made = [type(images)]
    while isinstance(images, Part):
        images = images.images
        made.append(type(images))
    return code_version(*made)


def made_by(images: ImageSet) -> list[Node]:
    """Nodes that make a set of images; none for real images."""
    node: Node | None = getattr(images, "node", None)
    return [] if node is None else [node]


def selected(items: TensorSet, kept: Sequence[int]) -> TensorSet:
    """Some items of a set; the set itself if these are all."""
    return items if len(kept) == len(items) else Selected(items, kept)


def taken(images: ImageSet) -> Taken:
    """Images as a tensor set."""
    return Taken(images, len(images))


def _drawing(sampler: Sampler) -> str:
    """Hash of the code that fits and draws, and of the classes handed to it."""
    return code_version(type(sampler), SampleNoise, TensorSet)


def _items(node: Node) -> Dataset[Tensor]:
    return Items(node.output.open())


def _same(images: ImageSet) -> Dataset[Tensor]:
    return images


def _nothing(unfinished: Mapping[str, Any]) -> None:
    """Do nothing, as the items are computed when they are read."""
