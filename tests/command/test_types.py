"""Types and meaning of keys, read without an import of what declares them."""

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import OmegaConf

from ood_sampler.command.types import Key, declared, flat, parameters
from ood_sampler.config import CONF, Run, Training

NONE = type(None)

SOURCE = '''
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

from ood_sampler.samplers.base import Sampler

Word = Literal["far", "near"]


class Mine(Sampler):
    """Mixes.

    Args:
        weight: share of the first latent; None
            draws it.
        folder: `root` of it.
    """

    def __init__(self, *, weight: float | None, folder: "str | Path", where: Word, odd) -> None:
        """Note all.

        Args:
            where: of the two.

        Raises:
            ValueError: never.
        """


class Other(Mine):
    pass


@dataclass
class Base:
    """One.

    Attributes:
        rank: how many.
    """

    rank: int


@dataclass
class Derived(Base):
    names: Optional[Sequence[str]]


def make(weight: int | Sequence[int], kind: Literal["a", "b"] | None, **rest: object) -> Derived:
    """Make it."""
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of a user's own, below the current folder, that cannot be imported."""
    name = tmp_path.name.replace("-", "_")
    (tmp_path / name / "deep").mkdir(parents=True)
    (tmp_path / name / "__init__.py").write_text("from .deep.mine import Mine as Renamed\n1 / 0\n")
    (tmp_path / name / "deep" / "__init__.py").touch()
    (tmp_path / name / "deep" / "mine.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_signature_is_read_from_source(module: str) -> None:
    mine = parameters(f"{module}.deep.mine.Mine")
    assert mine["weight"] == Key(
        frozenset({float, NONE}), (), "share of the first latent; null draws it"
    )
    assert mine["folder"] == Key(frozenset({str}), (), "root of it")
    assert mine["where"] == Key(frozenset(), ("far", "near"), "of the two")
    assert mine["odd"].is_open
    assert parameters(f"{module}.deep.mine.Other") == mine
    assert parameters(f"{module}.Renamed") == mine
    assert parameters(f"{module}.deep.mine.Derived") == {
        "rank": Key(frozenset({int}), (), "how many"),
        "names": Key(frozenset({list, NONE})),
    }
    made = parameters(f"{module}.deep.mine.make")
    assert made["weight"].types == {int, list}
    assert made["kind"] == Key(frozenset({NONE}), ("a", "b"))
    assert module not in sys.modules


@pytest.mark.parametrize("target", ["", "nowhere", "nowhere.at.all", "os.nothing", "math.sqrt"])
def test_what_has_no_source_is_open(target: str) -> None:
    assert parameters(target) == {}
    assert declared({"a": {"_target_": target}}, "a.b").takes(object())


def test_a_key_takes_its_types_and_words() -> None:
    assert Key(frozenset({float})).takes(3)
    assert not Key(frozenset({int})).takes(True)
    assert not Key(frozenset({int})).takes(3.0)
    step = Key(frozenset({int}), ("auto",))
    assert [step.takes(value) for value in ("auto", "atuo", None)] == [True, False, False]
    assert str(step) == "a whole number or auto"
    assert str(Key(frozenset({bool}))) == "true or false"
    assert str(Key(frozenset({NONE}), ("a", "b"))) == "a, b or null"


def targets(tree: Any) -> set[str]:  # noqa: ANN401 of a configuration
    """All targets of a configuration."""
    if not isinstance(tree, dict):
        return set()
    own = {tree["_target_"]} if "_target_" in tree else set()
    return own.union(*map(targets, tree.values()))


TARGETS = {
    target
    for file in CONF.rglob("*.yaml")
    for target in targets(OmegaConf.to_container(OmegaConf.load(file)))
    if target.startswith("ood_sampler.")
}


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_source_has_the_parameters_that_an_import_finds(target: str) -> None:
    found = inspect.signature(get_object(target)).parameters.values()
    named = {each.name for each in found if each.kind is not inspect.Parameter.VAR_KEYWORD}
    assert set(parameters(target)) == named


@pytest.mark.parametrize(("name", "root"), [("run", Run), ("train", Training)])
def test_every_key_of_a_root_is_declared_and_has_a_value_in_its_file_alone(
    name: str, root: type
) -> None:
    files = [f"{name}.yaml", *(["recipe/diffusion.yaml"] if root is Training else [])]
    tree = OmegaConf.to_container(OmegaConf.merge(*(OmegaConf.load(CONF / f) for f in files)))
    assert isinstance(tree, dict)
    keys = {field.name for field in dataclasses.fields(root)}
    assert keys == set(tree) - {"defaults", "hydra"}
    for key, value in flat(tree):
        written = not isinstance(value, str) or ("${" not in value and value != "???")
        if key.partition(".")[0] in keys and written:
            assert declared(tree, key, root).takes(value), key
    assert all(field.default is dataclasses.MISSING for field in dataclasses.fields(root))


def test_hydra_refuses_a_value_or_a_key_of_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "mine.yaml"
    command = ["experiment=mine", f"hydra.searchpath=['file://{tmp_path}']"]
    for text, said in (("eta: high", "high"), ("etta: 0.1", "etta")):
        file.write_text(f"# @package _global_\ndecode:\n  {text}\n")
        with (
            initialize_config_dir(str(CONF), version_base="1.3"),
            pytest.raises(HydraException, match=rf"In 'experiment/mine'.*\n?.*{said}"),
        ):
            compose("run", command)
