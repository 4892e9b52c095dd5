"""The nodes of single stages, by what they read."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from ood_sampler.codecs.base import Codec
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.diffusion.solvers.base import clip
from ood_sampler.metrics.judges import Judge
from ood_sampler.modules.features import FeatureExtraction
from ood_sampler.modules.inversion import Inversion
from ood_sampler.modules.synthesis import Synthesis
from ood_sampler.pipeline.estimate import Network
from ood_sampler.pipeline.keys import reader
from ood_sampler.pipeline.parts import Parts
from ood_sampler.samplers.base import Fitted, InvertedSet, Sampler
from ood_sampler.samplers.temperature import mean_of, tempered
from ood_sampler.store.artifacts import Artifact, Items
from ood_sampler.store.node import Computed, Derived, Node
from ood_sampler.store.sets import Taken
from ood_sampler.store.versions import Maker, code_version


class Stages(Parts, ABC):
    """Nodes of the stages of a run: images to latents, latents to images, images to features."""

    @property
    @abstractmethod
    def flow(self) -> Codec:
        """The codec that inverts few-shot images and decodes samples."""

    @property
    @abstractmethod
    def needed_by_flow(self) -> list[Node]:
        """Nodes that the flow needs."""

    @property
    @abstractmethod
    def network(self) -> Network:
        """What an evaluation along the flow is, to time it."""

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

    def inversion_evaluations(self, levels: Sequence[int]) -> int:
        """Network evaluations per image (NFE) of an inversion to some levels."""
        return self.codec.encoding_evaluations(levels, **self.noising)

    @property
    def noising(self) -> dict[str, int]:
        """Arguments of an inversion with noised moves; none for others."""
        moves = self.settings.noised_moves
        return {"noised_moves": moves} if moves else {}

    def _codec_key(self, stage: Maker) -> dict[str, Any]:
        return {
            **self.flow.identity,
            "machine": self.session.machine,
            "code": code_version(stage, *self.flow.makers),
        }

    def encoded(
        self,
        name: str,
        images: Callable[[], Dataset[Tensor]],
        key: Mapping[str, Any],
        names: Sequence[str],
        *,
        levels: Sequence[int],
        inputs: Sequence[Node],
        stream: Stream,
    ) -> Node:
        """Latents of images at some levels, in one pass."""
        key = {**self._codec_key(Inversion), **key}
        noise: Callable[[Sequence[int]], SampleNoise] | None = None
        if self.noising:
            seed = self.settings.seed
            noise = partial(SampleNoise, seed, stream=stream)
            key |= {**self.noising, "seed": seed, "stream": stream.name}
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
                    noise=noise,
                    on_nonfinite=self.settings.on_nonfinite,
                    **self.noising,
                ),
                images(),
                unfinished,
                batch_size=self.batch_size,
            ),
            inputs=[*inputs, *self.needed_by_flow],
            cost=lambda at: self.inversion_evaluations([int(t) for t in at]),
            of=self._correction,
            network=self.network,
        )

    def decoded(
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
            inputs=[latents, *self.needed_by_flow],
            cost=lambda _: self.codec.decoding_evaluations(level),
            of=of,
            network=self.network,
        )

    def draw(
        self,
        artifact: Artifact,
        sampler: Sampler,
        fitted: Fitted,
        inverted: InvertedSet,
        *,
        temperature: float = 1.0,
    ) -> None:
        seed = self.settings.seed
        draw(artifact, sampler, fitted, inverted, seed=seed, temperature=temperature)


def draw(
    artifact: Artifact,
    sampler: Sampler,
    fitted: Fitted,
    inverted: InvertedSet,
    *,
    seed: int,
    temperature: float = 1.0,
) -> None:
    """Draw the missing latents of an artifact, each from its own stream of a seed."""
    mean = None if temperature == 1 else mean_of(inverted.latents)
    for shard in artifact.missing():
        first = shard * artifact.shard
        indices = range(first, first + artifact.expected(shard))
        noise = SampleNoise(seed, indices, stream=Stream.LATENT)
        drawn = sampler.draw(fitted, inverted, noise)
        artifact.write(shard, drawn if mean is None else tempered(drawn, mean, temperature))


def _nothing(unfinished: Mapping[str, Any]) -> None:
    """Do nothing, as the items are computed when they are read."""
