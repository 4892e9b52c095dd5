from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ood_sampler.pipeline.estimate import work_of
from ood_sampler.store.artifacts import Artifact
from ood_sampler.store.files import save_state
from ood_sampler.store.node import Computed, Derived, Node, StoredState, reached
from ood_sampler.store.sets import InMemory


def nothing(unfinished: Mapping[str, Any]) -> None:
    pass


def node(
    root: Path, name: str, *inputs: Node, count: int = 3, done: int = 0, cost: int = 2
) -> Node:
    """A node of numbers, of which the first are stored."""
    artifact = Artifact(root, name, {}, count, (1,))
    if done:
        Artifact(root, name, {}, done, (1,)).write(0, torch.zeros(done, 1))
    return Node(name, {"x": artifact}, nothing, inputs, cost=lambda names: cost)


def test_inputs_come_before_what_is_made_of_them(tmp_path: Path) -> None:
    first = node(tmp_path, "a")
    second = node(tmp_path, "b", first)
    third = node(tmp_path, "c", first, second)
    assert reached([third, second]) == [first, second, third]


def test_what_a_complete_result_was_made_of_is_not_needed(tmp_path: Path) -> None:
    first = node(tmp_path, "a")
    second = node(tmp_path, "b", first, done=3)
    assert reached([second]) == [second]
    assert reached([second, first]) == [second, first]


def test_of_nodes_that_make_the_same_items_the_one_that_lacks_most_counts(tmp_path: Path) -> None:
    few, many = node(tmp_path, "a", count=2), node(tmp_path, "a", count=5)
    other = node(tmp_path, "b")
    assert reached([few, other, many]) == [many, other]
    assert reached([many, other, few]) == [many, other]


def test_a_node_of_several_outputs_stands_for_those_of_each(tmp_path: Path) -> None:
    one, two = (Artifact(tmp_path, "a", {"step": step}, 3, (1,)) for step in (1, 2))
    both = Node("both", {"1": one, "2": two}, nothing)
    alone = Node("alone", {"1": one}, nothing)
    assert reached([both, alone]) == [both]
    assert reached([alone, both]) == [both]


def test_the_cost_is_that_of_what_is_missing(tmp_path: Path) -> None:
    one, two = (Artifact(tmp_path, "a", {"step": step}, 3, (1,)) for step in (1, 2))
    made = Node("both", {"1": one, "2": two}, nothing, cost=lambda names: 10 * len(list(names)))
    assert made.evaluations_each() == 20
    one.write(0, torch.zeros(3, 1))
    assert list(made.unfinished()) == ["2"]
    assert made.missing_items() == 3
    assert made.evaluations_each() == 10
    two.write(0, torch.zeros(3, 1))
    assert made.missing_items() == 0
    # of nothing left, what it would cost
    assert made.evaluations_each() == 20


def test_work_has_a_line_for_each_node_that_costs_something(tmp_path: Path) -> None:
    free = node(tmp_path, "a", cost=0)
    costly = node(tmp_path, "b", free, count=4, cost=3)
    twice = [
        Node(
            "c",
            {"x": Artifact(tmp_path, "c", {"n": n}, 2, (1,))},
            nothing,
            of=f"n = {n}",
            cost=lambda names: 1,
        )
        for n in (1, 2)
    ]
    lines = [(w.name, w.images, w.evaluations_each) for w in work_of([costly, *twice])]
    assert lines == [("b", 4, 3), ("c: n = 1", 2, 1), ("c: n = 2", 2, 1)]


def test_missing_bytes_are_those_of_missing_items(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, "a", {}, 70, (3, 2))
    assert artifact.missing_bytes() == 70 * 6 * 4
    artifact.write(0, torch.zeros(64, 3, 2))
    assert artifact.missing_bytes() == 6 * 6 * 4


def test_a_state_is_missing_until_it_is_stored(tmp_path: Path) -> None:
    state = StoredState(tmp_path, "fit", {"a": 1}, 5)
    assert state.missing_items() == state.count == 5
    save_state(state.path, {"mean": torch.zeros(2)})
    assert state.missing_items() == 0
    assert StoredState(tmp_path, "fit", {"a": 2}, 5).path != state.path


def test_what_costs_nothing_is_computed_when_it_is_read(tmp_path: Path) -> None:
    source = Artifact(tmp_path, "a", {}, 3, (2,))
    doubled = Derived({"k": 1}, 3, lambda: Computed(source.open(), lambda x: 2 * x, (2,)), source)
    assert doubled.missing_items() == 3
    assert doubled.missing_bytes() == 0
    source.write(0, torch.arange(6.0).reshape(3, 2))
    assert doubled.missing_items() == 0
    assert torch.equal(doubled.open().take([2, 0]), torch.tensor([[8.0, 10.0], [0.0, 2.0]]))
    assert doubled.digest != Derived({"k": 2}, 3, doubled.open).digest


def test_computed_items_have_a_shape_of_their_own() -> None:
    items = Computed(InMemory(torch.arange(8.0).reshape(2, 4)), lambda x: x[:, :1], (1,))
    assert items.shape == (1,)
    assert len(items) == 2
    assert torch.cat(list(items.blocks())).tolist() == [[0.0], [4.0]]
