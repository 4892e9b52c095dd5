"""The film of a run: a few few-shot images on their way to latents, a few samples on theirs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.utils.data import Dataset

from ood_sampler.codecs.recorded import is_recordable
from ood_sampler.modules.filming import EDGE, Filming, frame_steps
from ood_sampler.pipeline.keys import made_by, reader
from ood_sampler.store.artifacts import Items
from ood_sampler.store.node import Node
from ood_sampler.store.versions import code_version

if TYPE_CHECKING:
    from torch import Tensor

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
    count = min(run.settings.film, run.settings.num_samples, len(run.domain.few_shot))
    if not count or not is_recordable(run.flow):
        return None
    level, few_shot, source = run.settings.step, run.domain.few_shot, run.draws.output
    up_steps, down_steps = (
        frame_steps(run.flow, level, decoding=decoding) for decoding in (False, True)
    )
    up = _node(
        run,
        few_shot,
        {"images": few_shot.digest, "reader": reader(few_shot)},
        inputs=made_by(few_shot),
        shape=(len(up_steps),),
        count=count,
        decoding=False,
    )
    down = _node(
        run,
        None,
        {
            "latents": source.digest,
            "eta": run.settings.eta,
            "clip_x_0": run.settings.clip_x_0,
            "seed": run.settings.seed if run.settings.eta else None,
        },
        inputs=[run.draws],
        shape=(len(down_steps), 2),
        count=count,
        decoding=True,
    )
    return Film(up, down, up_steps, down_steps)


def _node(
    run: "Nodes",
    images: "Dataset[Tensor] | None",
    key: Mapping[str, object],
    *,
    inputs: Sequence[Node],
    shape: tuple[int, ...],
    count: int,
    decoding: bool,
) -> Node:
    """Frames of images on their way up or, without them, of drawn latents on their way down."""
    flow, settings = run.flow, run.settings
    channels, edge, _ = run.image_shape
    edge = min(edge, EDGE)
    name = "film of decoding" if decoding else "film of inversion"
    key = {
        **flow.identity,
        "machine": run.session.machine,
        "code": code_version(Filming, *flow.makers),
        "step": settings.step,
        **key,
    }
    frames = run.session.artifact("film", key, count, (*shape, channels, edge, edge))
    evaluations = run.codec.decoding_evaluations(settings.step)
    if not decoding:
        evaluations = run.codec.encoding_evaluations([settings.step])
    return Node(
        name,
        {"frames": frames},
        lambda unfinished: run.session.compute(
            name,
            lambda _: Filming(
                flow,
                level=settings.step,
                decoding=decoding,
                eta=settings.eta if decoding else 0.0,
                clip_x_0=settings.clip_x_0,
                seed=settings.seed,
            ),
            Items(run.draws.output.open()) if images is None else images,
            unfinished,
            batch_size=min(run.batch_size, count),
        ),
        inputs=[*inputs, *run.gaussians],
        cost=lambda _: evaluations,
    )
