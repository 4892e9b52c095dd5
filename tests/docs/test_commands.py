"""Commands and code of the pages do what the pages say, at small sizes.

All commands share this process. Each is checked as the program checks it. Those of README, the
tutorials and the guide to parts of one's own that need nothing else than the package are estimated
too (`dry_run=true`), which builds all their objects; of a sweep its first run. A few really run.
"""

import importlib.util
import logging
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

import ood_sampler
from ood_sampler.command.arguments import read_command
from ood_sampler.models.__main__ import answer, model_fields
from ood_sampler.run import main
from ood_sampler.train import check_keys
from tests.docs.pages import ROOT, Command, blocks, commands, pages

PAGES = pages(
    "README.md", "CONTRIBUTING.md", "docs/*.md", "docs/tutorials/*.md", "docs/how-to/*.md"
)
FIRST_PAGES = pages("README.md", "docs/tutorials/*.md")
"""Whose commands a newcomer types."""

PAGES = [*FIRST_PAGES, *pages("CONTRIBUTING.md", "docs/*.md", "docs/how-to/*.md")]

COMMANDS = list({c.words: c for page in PAGES[::-1] for c in commands(page)}.values())[::-1]
"""Each once."""

RUN = ("python", "-m", "ood_sampler.run")

SMALL = [
    "num_samples=6",
    "measure.in_domain=6",
    "measure.round_trip=4",
    "measure.film=1",
    "solver.steps=4",
    "metrics.nearest_k=3",
    "logger=none",
    "trainer=cpu",
]

SMALLER = {
    "load_model": ("solver.steps=4", "trainer=cpu"),
    "load_domain": ("data.few_shot=8", "data.held_out=12"),
    "evaluate": ("imagenet", "metrics.nearest_k=3"),
    "run": ("data.few_shot=8", "data.held_out=12", *SMALL),
}
"""What is added to calls from Python."""

_ABSENT = ("model", "hydra/launcher", "trainer", "sweep", "SCALE")
"""Keys of what a machine may lack, or of what an earlier command leaves."""

_IGNORED = ((".", ".venv/bin/activate"),)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the pages suppose below /my, and one to work in."""
    folder = tmp_path_factory.mktemp("pages")
    generator = np.random.default_rng(0)
    for name in ("images", "more_images", "CelebA-HQ-img"):
        (folder / name).mkdir()
        for i in range(94):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((32, 32)).save(folder / name / f"{i}.png")
    for name, shape in (("fits", (32, 32)), ("cubes", (5, 32, 32))):
        (folder / name).mkdir()
        for i in range(16):
            np.save(folder / name / f"{i}.npy", generator.normal(size=shape))
    srun = folder / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    return folder


@pytest.fixture
def work(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own, with Slurm's commands, and this process as it was afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{place / 'bin'}:/usr/bin:/bin")
    handlers, level = list(logging.root.handlers), logging.root.level
    threads, modules = torch.get_num_threads(), set(sys.modules)
    yield tmp_path
    logging.root.handlers[:], logging.root.level = handlers, level
    torch.set_num_threads(threads)
    GlobalHydra.instance().clear()
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def settings(command: Command, place: Path) -> list[str]:
    """What follows the program, with the folders of this test."""
    return [word.replace("/my/", f"{place}/") for word in command.words[3:]]


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """Start a run in this process."""
    monkeypatch.setattr(sys, "argv", ["run", *words])
    main()


def is_complete(command: Command) -> bool:
    """Whether all that it needs is here."""
    keys = [word.partition("=")[0] for word in command.words[3:]]
    return not any(key.split(".")[0] in _ABSENT for key in keys) and "--help" not in keys


def test_pages_have_commands() -> None:
    assert len(COMMANDS) > 50
    assert {"README.md", "docs/tutorials/start.md", "docs/how-to/choose.md"} <= set(PAGES)


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.follows(*RUN)], ids=str)
def test_a_command_is_known(
    command: Command, place: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if command.words in _IGNORED:
        return
    if command.follows("make"):
        ended = subprocess.run(
            ["/usr/bin/env", *command.words, "-n"], cwd=ROOT, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
    elif command.follows("python", "-m", "ood_sampler.models"):
        name = command.words[4:5]
        if name:
            assert model_fields(name[0], settings(command, place)[2:])["name"] == name[0]
        else:
            assert answer([])
            assert "dog32" in capsys.readouterr().out
    elif command.follows("python", "-m", "ood_sampler.train"):
        check_keys(settings(command, place))
    elif command.follows("python", "-m", "experiments.paper"):
        assert command.words[3] in read_command([], name="run").configuration.options("study")
    elif command.follows("python", "-m"):
        assert importlib.util.find_spec(command.words[2]) is not None
    elif command.follows("python"):
        assert (ROOT / command.words[1]).is_file()
    elif command.follows("pip", "install"):
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for name in re.findall(r"\[(\w+)\]", command.words[-1]):
            assert name in extras["optional-dependencies"]
    else:
        pytest.fail(f"the test does not know what to do with {command}")


def own_parts(page: str) -> None:
    """Write the files that a page tells to write, named in their first lines."""
    for block in (*blocks(page, "python"), *blocks(page, "yaml")):
        named = re.match(r"# (?P<file>[\w/]+\.(py|yaml))\n", block)
        if named is not None:
            file = Path(named["file"])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.follows(*RUN)], ids=str)
def test_a_run_is_what_the_program_takes(
    command: Command,
    place: Path,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own_parts(command.page)
    monkeypatch.syspath_prepend(str(work))
    # modules that other tests call the same
    for name in ("mine", "own_metric", "grey", "bright"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    words = settings(command, place)
    if "--help" in words:
        call(monkeypatch, *words)
        assert "python -m ood_sampler.run" in capsys.readouterr().out or len(words) > 1
        return
    read_command(words, name="run").check()
    if command.page in (*FIRST_PAGES, "docs/how-to/extend.md") and is_complete(command):
        given = {word.partition("=")[0] for word in words}
        fitting = ("logger=none", "trainer=cpu", "batch_size=1", "dry_run=true")
        more = [word for word in fitting if word.partition("=")[0] not in given]
        call(monkeypatch, *first_run(words), *more)


def first_run(words: list[str]) -> list[str]:
    """The settings of the first run of a sweep; those of another command as they are."""
    if "-m" not in words:
        return words
    return [word.split(",")[0] for word in words if word != "-m"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("data=folder", "data.root=/my/images", "data.few_shot=8", "data.held_out=12"),
        ("data=radiation", "data.root=/my/fits", "data.scaling=asinh"),
    ],
    ids=" ".join,
)
def test_a_run_leaves_the_files_that_the_pages_name(
    words: tuple[str, ...], place: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(monkeypatch, *settings(Command("", ("", "", "", *words)), place), *SMALL)
    (folder,) = (work / "outputs" / "runs").iterdir()
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*")}
    table = (ROOT / "docs" / "tutorials" / "start.md").read_text().partition("| file in")[2]
    told = re.findall(r"`([\w/.*]+)`", table.partition("\n## ")[0])
    assert len(told) > 7
    for name in told:
        assert list(folder.glob(name)), name
    if "data=radiation" in words:
        assert {"samples.npy", "samples.fits"} <= names


@pytest.mark.parametrize("page", pages("README.md", "docs/tutorials/*.md"))
def test_code_runs(page: str, place: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, smaller in SMALLER.items():
        whole = getattr(ood_sampler, name)
        monkeypatch.setattr(
            ood_sampler, name, lambda *given, w=whole, s=smaller, **keys: w(*given, *s, **keys)
        )
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        text = block.replace("/my/", f"{place}/").replace("latents, 100)", "latents, 8)")
        exec(compile(text, page, "exec"), names)  # noqa: S102 our own pages
