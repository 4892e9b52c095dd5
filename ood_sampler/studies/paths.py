"""Latents along paths: computed when they are read, decoded and stored as any others."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ood_sampler.modules.inversion import latent_at
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.store.artifacts import Artifact
from ood_sampler.store.node import Derived, Node
from ood_sampler.store.sets import TensorSet
from ood_sampler.store.versions import code_version

SPHERE = "great circle"
MEAN_SPHERE = "great circle about the mean"
LINE = "straight line"
PIXELS = "straight line in pixels"

At = Callable[[Sequence[int], Tensor], Tensor]
"""Latents of some paths, by number, at a position of each."""


class Paths(TensorSet):
    """Latents of paths at some positions: item $k P + j$ is path $k$ at position $j$ of $P$.

    Args:
        at: makes them.
        count: number of paths.
        positions: on each.
        shape: of a latent.
    """

    def __init__(
        self, at: At, count: int, positions: Sequence[float], shape: Sequence[int]
    ) -> None:
        self.at = at
        self.count = count
        self.positions = torch.tensor(positions, dtype=torch.float64)
        self._shape = tuple(shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def __len__(self) -> int:
        return self.count * len(self.positions)

    def take(self, indices: Sequence[int]) -> Tensor:
        each = len(self.positions)
        places = self.positions[[index % each for index in indices]]
        return self.at([index // each for index in indices], places).float()


def frames(
    run: Pipeline,
    name: str,
    begin: Callable[[], At],
    key: Mapping[str, Any],
    *,
    count: int,
    positions: Sequence[float],
    of: str,
    source: Node | None = None,
) -> Node:
    """Decoded latents of paths; none is stored before it is decoded.

    Args:
        run: whose codec decodes, without noise.
        name: of the stage.
        begin: called once latents are there; what it returns makes those of the paths.
        key: all that determines them beside the latents that paths start from, as JSON.
        count: number of paths.
        positions: on each.
        of: purpose of the stage.
        source: inversion whose latents paths start from; None is that of the run.
    """
    step = run.settings.step
    inversion = run.inversion if source is None else source
    latents = inversion.outputs[str(step)]
    shape = run.latent_shape
    derived = Derived(
        {
            "latents": latents.digest,
            "positions": list(positions),
            "code": code_version(Paths),
            **key,
        },
        count * len(positions),
        lambda: Paths(begin(), count, positions, shape),
        latents if isinstance(latents, Artifact) else None,
    )
    path = Node("path", {"latents": derived}, _nothing, inputs=[inversion])
    return run.decoded(name, path, step, of=of)


def latents_of(run: Pipeline, node: Node | None = None) -> TensorSet:
    """Latents of the run's step, of its few-shot images or of another inversion, once made."""
    inversion = run.inversion if node is None else node
    if inversion.missing_items():
        run.session.obtain(inversion)
    found: TensorSet = inversion.outputs[str(run.settings.step)].open()
    return found


def finite_latents(run: Pipeline) -> list[int]:
    """Numbers of the few-shot images whose latents are finite."""
    names = run.domain.few_shot.names
    return run.finite(latents_of(run), latent_at(run.codec, run.settings.step), names)


def complete(run: Pipeline, node: Node, what: str, *, each: int) -> list[int]:
    """Numbers of the paths of which all frames are finite, once they are decoded."""
    run.session.obtain(node)
    good = set(run.finite(node.output.open(), what))
    paths = range(node.count // each)
    return [k for k in paths if all(k * each + j in good for j in range(each))]


def _nothing(unfinished: Mapping[str, Any]) -> None:
    """Do nothing, as latents of paths are computed when they are read."""
