"""A stored result, said once: what determines it, what it is made of, its cost, how it is made."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ood_sampler.store.artifacts import Artifact
from ood_sampler.store.files import digest, load_state
from ood_sampler.store.sets import TensorSet


class Output(Protocol):
    """What a node leaves: items in a folder, or computed when they are read."""

    @property
    def digest(self) -> str:
        """Hash of all that determines the items."""

    @property
    def count(self) -> int:
        """Number of items."""

    def missing_items(self) -> int:
        """Number of items still to be made."""

    def missing_bytes(self) -> int:
        """Size of these on disk."""


@dataclass(frozen=True, eq=False)
class Node:
    """One or several stored results of one computation.

    Attributes:
        name: of the stage, for the console and the record of a run.
        outputs: by name; their keys say what determines them.
        make: computes those that are not whole, which it is told by name.
        inputs: nodes that `make` reads.
        cost: network evaluations per item that some of the outputs take together.
        of: what the stage is for, where a run has several of its name.
    """

    name: str
    outputs: Mapping[str, Any]
    make: Callable[[Mapping[str, Any]], None]
    inputs: Sequence["Node"] = ()
    cost: Callable[[Iterable[str]], int] = lambda names: 0
    of: str = ""

    @property
    def title(self) -> str:
        """The stage and what it is for."""
        return f"{self.name}: {self.of}" if self.of else self.name

    @property
    def count(self) -> int:
        """Number of items of each output."""
        count: int = next(iter(self.outputs.values())).count
        return count

    def unfinished(self) -> dict[str, Any]:
        """Outputs that are not whole."""
        return {name: out for name, out in self.outputs.items() if out.missing_items()}

    def missing_items(self) -> int:
        """Items of the output that lacks most."""
        missing: int = max(output.missing_items() for output in self.outputs.values())
        return missing

    def evaluations_each(self) -> int:
        """Network evaluations per item of what is missing, or of all if nothing is."""
        return self.cost(self.unfinished() or self.outputs)

    @property
    def output(self) -> Any:  # noqa: ANN401 of the kind that the node was made with
        """The one output of a node that has one."""
        (output,) = self.outputs.values()
        return output


def reached(targets: Iterable[Node]) -> list[Node]:
    """Nodes that must be looked at for some results: inputs before what is made of them.

    What a whole result was made of is not looked at. A node is left out if another one makes its
    outputs, and at least as many items of them: a later one then takes the place of an earlier.
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
    """Whether a node makes all that another one does."""
    made = {output.digest for output in node.outputs.values()}
    return node.missing_items() >= other.missing_items() and made.issuperset(
        output.digest for output in other.outputs.values()
    )


class StoredState:
    """A small file of named tensors that sums up some items.

    Args:
        root: folder of all artifacts.
        stage: name of the stage.
        key: all that determines it, as JSON.
        count: number of the items that it is made from.
        size: bytes on disk, where they matter against latents.
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
        """None if the file is there and its checksum right, else all.

        A file found good is not read again by this object.
        """
        self._is_good = self._is_good or load_state(self.path) is not None
        return 0 if self._is_good else self.count

    def missing_bytes(self) -> int:
        """Size of the file if it is missing."""
        return self.size if self.missing_items() else 0


class Computed(TensorSet):
    """Items of another set, each block mapped when it is read."""

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
    """What costs nothing to compute, and so is computed when it is read.

    Args:
        key: all that determines the items, as JSON.
        count: number of items.
        open: read access to the items.
        source: node that must be whole before; None if there is none.
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
        """Of what it is computed from."""
        return 0 if self.source is None else self.source.missing_items()

    def missing_bytes(self) -> int:
        """It takes no place."""
        return 0
