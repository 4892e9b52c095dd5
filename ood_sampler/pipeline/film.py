"""The film of a run: a few few-shot images on their way to latents, a few samples on theirs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ood_sampler.codecs.recorded import is_recordable
from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.modules.filming import EDGE, Filming, frame_steps
from ood_sampler.pipeline.keys import made_by, reader
from ood_sampler.store.artifacts import Items
from ood_sampler.store.node import Node
from ood_sampler.store.versions import code_version

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset

    from ood_sampler.pipeline.nodes import Nodes


@dataclass(frozen=True)
class Film:
    """Frames of the way up and down, and where each belongs.

    Attributes:
        up: node of the first few-shot images, inverted.
        down: node of the first samples, decoded.
        up_steps: steps of the frames of `up`.
        down_steps: steps of the frames of `down`; -1 is the image.
    """

    up: Node
    down: Node
    up_steps: Sequence[int]
    down_steps: Sequence[int]

    @property
    def nodes(self) -> list[Node]:
        """Both nodes."""
        return [self.up, self.down]


def film_of(run: "Nodes") -> Film | None:
    """Declare the film of a run; None if it asks for none or its model walks no trajectory."""
    settings, few_shot, source = run.settings, run.domain.few_shot, run.draws.output
    count = min(settings.film, settings.num_samples, len(few_shot))
    if not count or not is_recordable(run.flow):
        return None
    seed, noising = settings.seed, run.noising
    stream = run.inversion_stream
    up = _Walk(
        level=settings.step,
        decoding=False,
        settings={
            **noising,
            "noise": partial(SampleNoise, seed, stream=stream) if noising else None,
        },
        key={
            "images": few_shot.digest,
            "reader": reader(few_shot),
            **({**noising, "seed": seed, "stream": stream.name} if noising else {}),
        },
        evaluations=run.inversion_evaluations([settings.step]),
    )
    noise = {"eta": settings.eta, "clip_x_0": settings.clip_x_0}
    down = _Walk(
        level=settings.decoding_step,
        decoding=True,
        settings={**noise, "seed": seed},
        key={**noise, "latents": source.digest, "seed": seed if settings.eta else None},
        evaluations=run.codec.decoding_evaluations(settings.decoding_step),
    )
    return Film(
        up=up.node(run, lambda: few_shot, count, inputs=made_by(few_shot)),
        down=down.node(run, lambda: Items(source.open()), count, inputs=[run.draws]),
        up_steps=up.steps(run),
        down_steps=down.steps(run),
    )


@dataclass(frozen=True)
class _Walk:
    """One direction of a film.

    Attributes:
        level: of the latents.
        decoding: from latents to images; else the other way.
        settings: further arguments of `Filming`.
        key: what determines the frames besides model, level and code.
        evaluations: of the network, per image.
    """

    level: int
    decoding: bool
    settings: Mapping[str, Any]
    key: Mapping[str, Any]
    evaluations: int

    def steps(self, run: "Nodes") -> list[int]:
        """Steps of the frames."""
        moves = self.settings.get("noised_moves", 0)
        return frame_steps(run.flow, self.level, decoding=self.decoding, noised_moves=moves)

    def node(
        self,
        run: "Nodes",
        items: "Callable[[], Dataset[Tensor]]",
        count: int,
        *,
        inputs: Sequence[Node],
    ) -> Node:
        """Frames of the first items: few-shot images, or drawn latents."""
        channels, edge, _ = run.image_shape
        side = min(edge, EDGE)
        sorts = (len(self.steps(run)), *([2] if self.decoding else []))
        key = {
            **run.flow.identity,
            "machine": run.session.machine,
            "code": code_version(Filming, *run.flow.makers),
            "step": self.level,
            **self.key,
        }
        name = "film of decoding" if self.decoding else "film of inversion"
        frames = run.session.artifact("film", key, count, (*sorts, channels, side, side))
        return Node(
            name,
            {"frames": frames},
            lambda unfinished: run.session.compute(
                name,
                lambda _: Filming(
                    run.flow, level=self.level, decoding=self.decoding, **self.settings
                ),
                items(),
                unfinished,
                batch_size=min(run.batch_size, count),
            ),
            inputs=[*inputs, *run.needed_by_flow],
            cost=lambda _: self.evaluations,
            network=run.network,
        )
