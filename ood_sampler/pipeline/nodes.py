"""The nodes of a run: each stored result with all that determines it, its inputs and its cost."""

from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ood_sampler.codecs.base import Codec
from ood_sampler.codecs.corrected import FittedGaussian, StandIn, corrected
from ood_sampler.codecs.few_shot import FewShotCodec
from ood_sampler.data.domain import ImageSet
from ood_sampler.diffusion.noise import Stream
from ood_sampler.modules.inversion import latent_at
from ood_sampler.pipeline.correction import OWN, GaussianCorrection
from ood_sampler.pipeline.estimate import Network
from ood_sampler.pipeline.few_shot import fit_model
from ood_sampler.pipeline.film import Film, film_of
from ood_sampler.pipeline.keys import (
    configuration,
    drawing,
    label,
    made_by,
    reader,
    selected,
    taken,
)
from ood_sampler.pipeline.stages import Stages
from ood_sampler.samplers.base import Fitted, InvertedSet
from ood_sampler.samplers.standard import StandardSampler
from ood_sampler.samplers.temperature import tempered
from ood_sampler.store.artifacts import Items
from ood_sampler.store.files import load_state, save_state
from ood_sampler.store.node import Computed, Node, StoredState
from ood_sampler.store.sets import Empty, TensorSet
from ood_sampler.store.versions import code_version


class Nodes(Stages):
    """The nodes of a run, known before any of them is made."""

    @cached_property
    def flow(self) -> Codec:
        """The codec that inverts few-shot images and decodes samples."""
        if isinstance(self.codec, FewShotCodec):
            (node,) = self.fitted_model
            return self.codec.fitted(node.output.digest, node.output.path)
        if self.correction is None or not self.gaussians:
            return self.codec
        fitted = (FittedGaussian(n.output.digest, n.output.path) for n in self.gaussians)
        return corrected(
            self.codec, *fitted, weight=self.correction_weight, fade=self.correction.fade
        )

    @property
    def needed_by_flow(self) -> list[Node]:
        return [*self.fitted_model, *self.gaussians]

    @property
    def network(self) -> Network:
        name = self.model.name
        if isinstance(self.codec, FewShotCodec):
            return Network(name, self.codec.timed(len(self.domain.few_shot)))
        if self.correction is None or not self.gaussians:
            return Network(name, self.codec)
        shape = self.codec.shape(self.codec.last_level)
        target, own = (StandIn(node.count, shape) for node in self.gaussians)
        weight, fade = self.correction_weight, self.correction.fade
        codec = corrected(self.codec, target, own, weight=weight, fade=fade)
        return Network(f"{name}, corrected", codec)

    @cached_property
    def fitted_model(self) -> list[Node]:
        """The fit to the few-shot images of a model that needs one."""
        if not isinstance(self.codec, FewShotCodec):
            return []
        return [fit_model(self.session, self.codec, self.domain.few_shot)]

    @cached_property
    def gaussians(self) -> list[Node]:
        """Gaussians of the few-shot images and of the model's own domain, for the correction.

        Raises:
            ValueError: the model has no domain of its own to correct for.
        """
        if self.correction is None or not self.is_corrected:
            return []
        if not self.model.has_own_domain:
            raise ValueError(
                f"correction must be none for {self.model.name}: it is fitted to the few-shot "
                "images, and has no domain of its own to correct for"
            )
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
            told.append(f"Gaussian of {node.of}: {node.count} images, shrinkage {shrinkage:.2f}")
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
        return self.encoded(
            "invert",
            lambda: few_shot,
            {"images": few_shot.digest, "reader": reader(few_shot)},
            few_shot.names,
            levels=sorted({self.settings.step, *self.also}),
            inputs=made_by(few_shot),
            stream=self.inversion_stream,
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
        return self.encoded(
            "invert in-domain",
            lambda: Items(images.output.open()),
            {"images": images.output.digest},
            [f"{i} of the model's own domain" for i in range(count)],
            levels=[self.settings.step],
            inputs=[images],
            stream=Stream.INVERT_OWN,
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
        settings = self.settings
        key = {**self._fit_key, "seed": settings.seed}
        if settings.temperature != 1:
            key |= {"temperature": settings.temperature, "tempering": code_version(tempered)}
        artifact = self.session.artifact("latents", key, settings.num_samples, self.latent_shape)
        return Node(
            "draw" if self.codec.stored else "control",
            {"latents": artifact},
            lambda _: self.draw(
                artifact,
                self.sampler,
                self.fitted,
                self.inverted,
                temperature=settings.temperature,
            ),
            inputs=[self.fit, *self.fit.inputs],
            of=label(self.sampler),
        )

    @cached_property
    def samples(self) -> Node:
        """The new images."""
        settings = self.settings
        return self.decoded(
            "decode",
            self.draws,
            settings.decoding_step,
            eta=settings.eta,
            clip_x_0=settings.clip_x_0,
            of=self.title,
        )

    @cached_property
    def reconstructions(self) -> Node:
        """The first few-shot images, inverted and decoded."""
        step, count = self.settings.step, len(self.domain.few_shot)
        return self.decoded(
            "reconstruct",
            self.inversion,
            step,
            of=self.codec.place(step),
            count=min(self.settings.round_trip or count, count),
        )

    @cached_property
    def noise(self) -> Node:
        """Latents of the model's own domain."""
        if self.own_codec is not None:
            return self.with_model.noise
        sampler, level = StandardSampler(), self.codec.last_level
        shape = self.codec.shape(level)
        key = {
            "sampler": configuration(sampler),
            "shape": list(shape),
            "code": drawing(sampler),
            "seed": self.settings.seed,
        }
        artifact = self.session.artifact("latents", key, self.settings.in_domain_count, shape)
        empty = InvertedSet(Empty(shape), Empty(shape), self.codec.schedule, level)
        return Node(
            "draw",
            {"latents": artifact},
            lambda _: self.draw(artifact, sampler, {}, empty),
            of=label(sampler),
        )

    @cached_property
    def in_domain(self) -> Node:
        """Images that the model makes from pure noise, along its own flow.

        Raises:
            ValueError: the model has no domain of its own.
        """
        if not self.model.has_own_domain:
            raise ValueError(
                f"{self.model.name} has no domain of its own, which is needed here: choose a "
                "frozen model, or a strategy or study that does without in-domain images"
            )
        if self.is_corrected:
            return self.plain.in_domain
        if self.own_codec is not None:
            return self.with_model.in_domain
        return self.decoded("in-domain", self.noise, self.codec.last_level, clip_x_0=True)

    @cached_property
    def film(self) -> Film | None:
        """Frames of a few inversions and decodings, if the run asks for them."""
        return film_of(self)

    @property
    def in_domain_nodes(self) -> list[Node]:
        """`in_domain`, if the model has a domain of its own."""
        return [self.in_domain] if self.model.has_own_domain else []

    @property
    def targets(self) -> list[Node]:
        """All nodes of a run."""
        nodes = [*self.inversions, self.reconstructions, self.samples, *self.in_domain_nodes]
        nodes += [] if self.film is None else self.film.nodes
        made = [("samples", self.samples, self.title)]
        made += [("in-domain", node, "") for node in self.in_domain_nodes]
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
        what = latent_at(self.codec, step)
        kept = self.finite(latents, what, few_shot.names)
        inverted = self.inverted_set(selected(latents, kept), selected(taken(few_shot), kept))
        self.sampler.check(inverted)
        node = self.in_domain_inversion
        if node is None:
            return inverted
        own = node.output.open()
        names = [f"{i} of the model's own domain" for i in range(len(own))]
        return replace(inverted, in_domain=selected(own, self.finite(own, what, names)))

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

    @property
    def _fit_key(self) -> dict[str, Any]:
        key = {
            "inversion": self.inversion.outputs[str(self.settings.step)].digest,
            "sampler": configuration(self.sampler),
            "code": drawing(self.sampler),
        }
        if self.in_domain_inversion is not None:
            key["in_domain"] = self.in_domain_inversion.output.digest
        return key


def _items(node: Node) -> Dataset[Tensor]:
    return Items(node.output.open())


def _same(images: ImageSet) -> Dataset[Tensor]:
    return images
