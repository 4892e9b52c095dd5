"""Options and Python files of a user's own, through the public command line, without a fork."""

import runpy
import sys
from pathlib import Path

import pytest

from ood_sampler.__main__ import main as programs
from ood_sampler.command.arguments import Command, read_command
from ood_sampler.command.help import help_text
from ood_sampler.faults import CommandError
from tests.test_run import FAST, SMALL, ood_sampler

STRATEGY = '''
from typing import Literal

from ood_sampler.samplers.slerp import SlerpSampler


class Mixed(SlerpSampler):
    """Slerp with a note.

    Args:
        partner: what a latent is mixed with.
        points: positions; None takes 5.
        note: anything.
    """

    def __init__(
        self, *, partner: Literal["pair", "gaussian"], points: int | None, note: str
    ) -> None:
        super().__init__(partner=partner, points=points or 5)
        self.note = note
'''

FILES = {
    "own_strategy.py": STRATEGY,
    "conf/sampler/mine.yaml": "# My strategy.\n_target_: own_strategy.Mixed\n"
    "partner: pair\npoints: 5\nnote: none\n",
    "conf/sampler/lost.yaml": "_target_: lost_strategy.Lost\n",
    "conf/study/mine.yaml": "# My steps.\ndefaults: [reconstruction, _self_]\nsteps: [300]\n",
    "conf/experiment/mine.yaml": "# @package _global_\n# My defaults.\n"
    "defaults:\n  - override /sampler: mine\nnum_samples: 9\n",
    "conf/experiment/wrong.yaml": "# @package _global_\nnum_samples: many\n",
    "conf/mood/good.yaml": "# All is well.\nshade: 3 # of grey\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def read(*arguments: str) -> Command:
    command = read_command(["--config-dir", "conf", *arguments], name="run")
    command.check()
    return command


@pytest.mark.parametrize(
    "command",
    [
        "sampler=mine",
        "sampler=mine sampler.points=null sampler.partner=gaussian",
        "sampler=mine,slerp -m",
        "experiment=mine",
        "study=mine study.count=20",
        "study=mine sampler=mine",
        "+mood=good mood.shade=4",
    ],
)
def test_an_own_option_is_let_through(folder: Path, command: str) -> None:
    read(*command.split())
    assert "own_strategy" not in sys.modules


def test_an_own_experiment_sets_own_options(folder: Path) -> None:
    command = read("experiment=mine")
    cfg = command.configuration.compose(command.overrides)
    assert (cfg.sampler.note, cfg.num_samples) == ("none", 9)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sampler=mien", "sampler=mien is not known; did you mean mine?"),
        (
            "sampler=mine sampler.point=3",
            "sampler.point is not known with sampler=mine; did you mean sampler.points?",
        ),
        ("sampler=mine sampler.points=few", "sampler.points must be a whole number or null, got f"),
        ("sampler=mine sampler.partner=x", "sampler.partner must be pair or gaussian, got x"),
        (
            "sampler=mine sampler.note=2024_05",
            "sampler.note must be text, got 2024_05; write sampler.note=\"'2024_05'\"",
        ),
        ("study=mine study.steps=300", "study.steps must be a list, for example study.steps=[300]"),
        ("experiment=wrong", "num_samples must be a whole number, got many"),
        ("+mood=god", "mood=god is not known; did you mean good?"),
        ("+mood=good mood.shad=4", "mood.shad is not known; did you mean mood.shade?"),
        (
            "sampler=lost",
            "sampler._target_=lost_strategy.Lost: there is no module lost_strategy; put "
            "lost_strategy.py into this folder, or its folder into PYTHONPATH",
        ),
    ],
)
def test_a_mistake_with_an_own_option_is_told(folder: Path, command: str, message: str) -> None:
    with pytest.raises(CommandError) as caught:
        read(*command.split())
    assert message in str(caught.value)


def test_help_explains_own_options_by_their_docstrings(folder: Path) -> None:
    folders = read("seed=1").configuration.folders
    text = help_text(["sampler=mine"], folders)
    assert f"(more about each in {folder}/conf/sampler)\n  mine: My strategy.\n" in text
    assert "    sampler.points=5                       positions; null takes 5\n" in text
    assert "study.steps=[300]                      inversion steps\n" in help_text(
        ["study=mine"], folders
    )
    assert "mood.shade=3                           of grey\n" in help_text(["mood"], folders)
    assert "\n  mood            good\n" in help_text([], folders)


def test_the_console_script_finds_files_in_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(runpy, "run_module", lambda name, **_: started.append(name))
    monkeypatch.setattr(sys, "argv", ["ood-sampler", "run", "sampler=mine"])
    monkeypatch.setattr(sys, "path", ["/usr/bin"])
    programs()
    assert started == ["ood_sampler.run"]
    assert sys.path == ["/usr/bin", str(folder)]


@pytest.mark.slow
def test_an_own_strategy_is_swept_from_the_current_folder(folder: Path) -> None:
    root = str(Path(__file__).parents[2])
    own = ["--config-dir", "conf", "sampler=mine", *SMALL, FAST, "logger=none"]
    ended = ood_sampler(
        *(*own, "-m", "sampler.points=5,7", "hydra/launcher=joblib", "dry_run=true"),
        cwd=folder,
        PYTHONPATH=root,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("estimate") == 2
