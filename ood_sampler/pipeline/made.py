"""The images of a run, made and described for metrics."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ood_sampler.data.domain import ImageSet
from ood_sampler.metrics.features import read_reference
from ood_sampler.metrics.judges import Described, Judge, thumbnails
from ood_sampler.modules.inversion import latent_at
from ood_sampler.modules.prediction import NonFiniteError
from ood_sampler.modules.synthesis import SAMPLE
from ood_sampler.pipeline.keys import selected
from ood_sampler.pipeline.nodes import Nodes
from ood_sampler.pipeline.outcome import Samples
from ood_sampler.store.artifacts import Items
from ood_sampler.store.node import Node
from ood_sampler.store.sets import Taken, TensorSet


class Made(Nodes):
    """The images and latents of a run: its nodes are made when they are asked for."""

    def sampled(self) -> Samples:
        """Fit the strategy, draw its latents, decode and describe them."""
        for node in self.inversions:
            self.session.obtain(node)
        _ = self.inverted
        for node in (self.fit, self.draws, self.samples):
            self.session.obtain(node)
        return self._made(self.samples, "samples", SAMPLE, of=self.title)

    @property
    def own(self) -> Samples:
        """Samples of the model's own domain."""

        def make() -> Samples:
            self._obtain_in_domain()
            return self._made(self.in_domain, "in-domain", "in-domain sample")

        node = self.in_domain.output
        return self.session.once(("own", node.digest, node.count), make)

    @property
    def owned(self) -> list[Samples]:
        """`own`, if the model has a domain of its own."""
        return [self.own] if self.model.has_own_domain else []

    def in_domain_images(self) -> TensorSet:
        """Samples of the model's own domain that are finite."""
        self._obtain_in_domain()
        items = self.in_domain.output.open()
        return selected(items, self.finite(items, "in-domain sample"))

    def _obtain_in_domain(self) -> None:
        for node in (self.noise, self.in_domain):
            self.session.obtain(node)

    def _made(self, node: Node, name: str, what: str, *, of: str = "") -> Samples:
        items = node.output.open()
        numbers = self.finite(items, what)
        self.judges.check({f"{name} without NaN" if of else f"{what}s without NaN": len(numbers)})
        images = selected(items, numbers)
        described = self.describe(name, Items(images), node.output.digest, numbers, of=of)
        return Samples(images, numbers, described)

    @property
    def few_shot(self) -> Described:
        """The few-shot images, described for metrics."""
        return self._described("few-shot", self.domain.few_shot)

    @property
    def held_out(self) -> Described:
        """The held-out images, described for metrics."""
        return self._described("held-out", self.domain.held_out)

    @property
    def in_domain_features(self) -> Mapping[str, Tensor]:
        """Features of the model's own domain, by judge; empty if it has none."""
        if not self.model.has_own_domain:
            return {}
        return self.in_domain_references(self.own.described.features)

    def in_domain_references(self, samples: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features of the model's own domain by judge: of real images if stored, else of samples.

        Args:
            samples: features of samples of the model, by judge.
        """
        found = dict(samples)
        for judge in self.judges:
            file = self.model.in_domain_file(judge.extractor.name)
            if file is not None:
                found[judge.name] = read_reference(file, judge.extractor)
        return found

    def latents(self) -> dict[int, TensorSet]:
        """Invert, and return the finite latents of each step."""
        self.session.obtain(self.inversion)
        names = self.domain.few_shot.names
        found = {}
        for step, output in self.inversion.outputs.items():
            items = output.open()
            kept = self.finite(items, latent_at(self.codec, int(step)), names)
            found[int(step)] = selected(items, kept)
        return found

    def reconstructed(self) -> tuple[TensorSet, TensorSet]:
        """The few-shot images, and the same images inverted and decoded."""
        self.session.obtain(self.reconstructions)
        few_shot, count = self.domain.few_shot, self.reconstructions.count
        names = few_shot.names[:count]
        what = "the reconstruction of image"
        decoded = self.reconstructions.output.open()
        kept = self.finite(decoded, what, names)
        if not kept:
            raise NonFiniteError(what, names, remedy="and check the weights")
        return selected(Taken(few_shot, count), kept), selected(decoded, kept)

    def features_of(self, judge: Judge, name: str, images: ImageSet) -> Tensor:
        """Compute features of images in the space of one judge, or read them if stored."""
        node = self.features(judge, name, lambda: images, images.digest, images.names)
        return self._read(node)

    def describe(
        self,
        name: str,
        images: Dataset[Tensor],
        images_digest: str,
        names: Sequence[object],
        *,
        of: str = "",
    ) -> Described:
        """Compute features and thumbnails of images.

        Args:
            name: of the set.
            images: in [-1, 1].
            images_digest: hash of everything that determines them.
            names: one per image, for messages.
            of: origin of the images, for the progress bar.
        """
        features = {
            judge.name: self._read(
                self.features(judge, name, lambda: images, images_digest, names, of=of)
            )
            for judge in self.judges
        }
        blocks = Taken(images, len(names)).blocks()
        return Described(features, torch.cat([thumbnails(block) for block in blocks]))

    def _read(self, node: Node) -> Tensor:
        self.session.obtain(node)
        return torch.cat(list(node.output.open().blocks()))

    def _described(self, name: str, images: ImageSet) -> Described:
        """Describe real images, and keep the result in memory."""
        key = (name, images.digest, tuple(self.judges.names))
        return self.session.once(
            key, lambda: self.describe(name, images, images.digest, images.names)
        )
