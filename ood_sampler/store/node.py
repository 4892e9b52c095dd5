"""A node declares a stored result: its key, its inputs, its cost and its computation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ood_sampler.store.artifacts import Artifact
from ood_sampler.store.files import digest, load_state
from ood_sampler.store.sets import TensorSet


@dataclass(frozen=True, eq=False)
class Node:
    """One or several stored results of one computation.

    Attributes:
        name: of the stage, for the console and the record of a run.
        outputs: by name, each an `Artifact`, a `StoredState` or a `Derived`, which has its key.
        make: computes the unfinished outputs, which it gets by name.
        inputs: nodes that `make` reads.
        cost: network evaluations per item to compute the named outputs together.
        of: purpose of the stage, if a run has several of its name.
        network: that `cost` counts the evaluations of; None if there are none.
    """

    name: str
    outputs: Mapping[str, Any]
    make: Callable[[Mapping[str, Any]], None]
    inputs: Sequence["Node"] = ()
    cost: Callable[[Iterable[str]], int] = lambda names: 0
    of: str = ""
    network: Any = None

    @property
    def title(self) -> str:
        """The stage and its purpose."""
        return f"{self.name}: {self.of}" if self.of else self.name

    @property
    def count(self) -> int:
        """Number of items of each output."""
        count: int = next(iter(self.outputs.values())).count
        return count

    def unfinished(self) -> dict[str, Any]:
        """Outputs with missing items."""
        return {name: out for name, out in self.outputs.items() if out.missing_items()}

    def missing_items(self) -> int:
        """Missing items, of the output that lacks most."""
        missing: int = max(output.missing_items() for output in self.outputs.values())
        return missing

    def evaluations_each(self) -> int:
        """Network evaluations per item of the unfinished outputs, or of all if none is."""
        return self.cost(self.unfinished() or self.outputs)

    @property
    def output(self) -> Any:  # noqa: ANN401 of the kind that the node was made with
        """The only output."""
        (output,) = self.outputs.values()
        return output


def reached(targets: Iterable[Node]) -> list[Node]:
    """Nodes that some results need, inputs first.

    Inputs of a complete result are not needed. A node is left out if another one makes at least as
    many items of its outputs: a later one then takes the place of an earlier.
    """
    found: list[Node] = []

    def visit(node: Node) -> None:
        if node.missing_items():
            for each in node.inputs:
                visit(each)
        if any(_covers(other, node) for other in found):
            return
        smaller = [place for place, other in enumerate(found) if _covers(node, other)]
        if smaller:
            found[smaller[0]] = node
        else:
            found.append(node)
        for place in reversed(smaller[1:]):
            del found[place]

    for node in targets:
        visit(node)
    return found


def _covers(node: Node, other: Node) -> bool:
    """Whether a node makes everything that another one makes."""
    made = {output.digest for output in node.outputs.values()}
    # digests first: what is missing is looked up on disk
    return (
        made.issuperset(output.digest for output in other.outputs.values())
        and node.missing_items() >= other.missing_items()
    )


class StoredState:
    """A small file of named tensors computed from some items.

    Args:
        root: folder of all artifacts.
        stage: name of the stage.
        key: all that determines it, as JSON.
        count: number of these items.
        size: bytes on disk, if they matter beside latents.
    """

    def __init__(
        self, root: Path, stage: str, key: Mapping[str, Any], count: int, *, size: int = 0
    ) -> None:
        self.count = count
        self.size = size
        self.digest = digest({"stage": stage, **key})
        self.folder = root / f"{stage}-{self.digest[:16]}"
        self.path = self.folder / "state.safetensors"
        self._is_good = False

    def missing_items(self) -> int:
        """0 if the file is intact, else `count`.

        This object verifies a good file only once.
        """
        self._is_good = self._is_good or load_state(self.path) is not None
        return 0 if self._is_good else self.count

    def missing_bytes(self) -> int:
        """Size of the file if it is missing."""
        return self.size if self.missing_items() else 0


class Computed(TensorSet):
    """Items of another set, mapped block by block when they are read."""

    def __init__(
        self, items: TensorSet, function: Callable[[Tensor], Tensor], shape: Sequence[int]
    ) -> None:
        self.items = items
        self.function = function
        self._shape = tuple(shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def __len__(self) -> int:
        return len(self.items)

    def take(self, indices: Sequence[int]) -> Tensor:
        return self.function(self.items.take(indices))


class Derived:
    """Items that are cheap to compute, and so are computed when they are read.

    Args:
        key: all that determines the items, as JSON.
        count: number of items.
        open: opens the items for reading.
        source: artifact that must be complete before; None if there is none.
    """

    def __init__(
        self,
        key: Mapping[str, Any],
        count: int,
        open: Callable[[], TensorSet],
        source: Artifact | None = None,
    ) -> None:
        self.digest = digest(key)
        self.count = count
        self.open = open
        self.source = source

    def missing_items(self) -> int:
        """Missing items of its source."""
        return 0 if self.source is None else self.source.missing_items()

    def missing_bytes(self) -> int:
        """0: nothing is stored."""
        return 0
