"""wandb missing, unreachable, hanging or dying: the run ends well and says what was not logged."""

import json
import logging
import os
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

from ood_sampler.report import tracking
from ood_sampler.report.tracking import Curves, Entry, NoTracker, Table, WandbTracker

STAND_INS = {
    "missing": ("raise ImportError('No module named wandb')", "No module named wandb"),
    "broken": ("import nothing_of_this_name", "No module named 'nothing_of_this_name'"),
    "unreachable": (
        "class CommError(Exception): pass\n"
        "def init(**_): raise CommError('timed out\\nafter 30 s')\n"
        "Settings = dict",
        "wandb.CommError: timed out",
    ),
    "dying in the middle": (
        "import os, signal\n"
        "class Run:\n"
        "    def log(self, _): os.kill(os.getpid(), signal.SIGKILL)\n"
        "def init(**_): return Run()\n"
        "Settings = Image = lambda *_, **__: None",
        "its process ended with code -9",
    ),
    "leaving": ("import sys\nsys.exit(3)", "its process ended with code 3"),
    "hanging": (
        "import time\n"
        "class Run:\n"
        "    def log(self, _): pass\n"
        "    def finish(self): time.sleep(60)\n"
        "def init(**_): return Run()\n"
        "Settings = Image = lambda *_, **__: None",
        "it did not end within 2 seconds",
    ),
}

KILLED_SERVICE = """
import os, re, signal, sys
from pathlib import Path

if sys.argv[0].endswith("tracking.py"):
    import wandb

    start = wandb.init

    def deadly(**options):
        run = start(**options)
        for status in Path("/proc").glob("[0-9]*/status"):
            text = status.read_text()
            if re.search(rf"^PPid:\\t{os.getpid()}$", text, re.M) and "wandb" in text:
                os.kill(int(status.parent.name), signal.SIGKILL)
                Path(os.environ["KILLED"]).touch()
        return run

    wandb.init = deadly
"""


def record(folder: Path, mode: str = "offline") -> None:
    Image.new("RGB", (8, 8)).save(folder / "grid.png")
    tracker = WandbTracker(project="test", mode=mode)  # type: ignore[arg-type]
    pictures = {"grid": folder / "grid.png"}
    tracker.record(folder, Entry({"seed": 0}, {"test/fid": 1.5}, pictures))


def stand_in(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that other processes find before the installed one."""
    folder.mkdir()
    (folder / name).write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.mark.parametrize("fault", STAND_INS)
def test_a_fault_of_wandb_is_said_and_ends_nothing(
    fault: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    text, reason = STAND_INS[fault]
    stand_in(tmp_path / "path", "wandb.py", text, monkeypatch)
    monkeypatch.setattr(tracking, "_PATIENCE", 2 if fault == "hanging" else 60)
    record(tmp_path)
    (message,) = caplog.messages
    assert reason in message
    assert f"were not logged there, or not all; they are in {tmp_path}" in message


def test_a_python_that_cannot_be_started_is_a_fault_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    record(tmp_path)
    assert "No such file" in caplog.text


def test_what_is_sent_is_what_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    text = (
        "import json, sys\n"
        "sent = open(__file__ + '.txt', 'a')\n"
        "class Run:\n"
        "    def log(self, figures): sent.write(json.dumps(figures) + '\\n')\n"
        "    def finish(self): sent.write('finished')\n"
        "def init(project, mode, dir, config, settings):\n"
        "    sent.write(json.dumps([project, mode, dir, config]) + '\\n')\n"
        "    return Run()\n"
        "Settings = lambda **_: None\n"
        "Image = lambda path: path"
    )
    stand_in(tmp_path / "path", "wandb.py", text, monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    record(Path("run"))
    assert caplog.messages == []
    run = str(tmp_path / "run")
    assert (tmp_path / "path" / "wandb.py.txt").read_text().splitlines() == [
        f'["test", "offline", "{run}", {{"seed": 0}}]',
        f'{{"test/fid": 1.5, "grid": "{run}/grid.png"}}',
        "finished",
    ]


def test_tables_with_pictures_and_curves_are_sent_under_the_name_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    text = (
        "import json, types\n"
        "sent = open(__file__ + '.txt', 'a')\n"
        "class Run:\n"
        "    def log(self, figures): sent.write(json.dumps(figures) + '\\n')\n"
        "    def finish(self): pass\n"
        "def init(settings, dir, mode, project, **naming):\n"
        "    sent.write(json.dumps(naming) + '\\n')\n"
        "    return Run()\n"
        "Settings = lambda **_: None\n"
        "Image = lambda path: 'image ' + path\n"
        "Table = lambda columns, data, allow_mixed_types: [columns, *data]\n"
        "plot = types.SimpleNamespace(line_series=lambda **lines: lines)"
    )
    stand_in(tmp_path / "path", "wandb.py", text, monkeypatch)
    picture = tmp_path / "a.png"
    entry = Entry(
        {"root": os.fsdecode(b"caf\xe9")},
        name="dog32_galaxy32_cog_t500_eta0",
        group="sweep",
        tags=["dog32", "galaxy32"],
        tables={"samples": Table(["number", "sample"], [[0, picture], [1, None]])},
        curves={"test/kid": Curves("inversion.step", {"eta=0": [(300, 0.2), (500, 0.1)]})},
    )
    WandbTracker(project="test", mode="offline").record(tmp_path, entry)
    assert caplog.messages == []
    naming, logged = map(json.loads, (tmp_path / "path/wandb.py.txt").read_text().splitlines())
    assert naming == {
        "config": {"root": "caf\ufffd"},
        "name": "dog32_galaxy32_cog_t500_eta0",
        "group": "sweep",
        "tags": ["dog32", "galaxy32"],
    }
    assert logged == {
        "samples": [["number", "sample"], [0, f"image {picture}"], [1, None]],
        "test/kid": {
            "xs": [[300, 500]],
            "ys": [[0.2, 0.1]],
            "keys": ["eta=0"],
            "title": "test/kid",
            "xname": "inversion.step",
        },
    }


def test_the_installed_package_takes_tables_and_curves_offline(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("wandb")
    picture = tmp_path / "it's a picture.png"
    Image.new("RGB", (8, 8)).save(picture)
    entry = Entry(
        {"seed": 0},
        {"test/fid": 1.5},
        {"grid": picture},
        tables={
            "samples": Table(["number", "sample", "near"], [[0, picture, True], [1.5, None, "x"]])
        },
        curves={"test/kid": Curves("inversion.step", {"eta=0": [(300, 0.2)]})},
    )
    tracker = WandbTracker(project="test", mode="offline")
    assert tracker.upload(tmp_path) is None
    tracker.record(tmp_path, entry)
    assert caplog.messages == []
    (run,) = tmp_path.glob("wandb/offline-run-*")
    tables = {file.name.partition("_")[0] for file in run.rglob("*.table.json")}
    assert "samples" in tables
    assert tracker.upload(tmp_path) == f"wandb sync {shlex.quote(str(run))}"


def test_all_runs_of_a_sweep_are_sent_by_one_command(tmp_path: Path) -> None:
    folder = tmp_path / "two words"
    for run in ("0/wandb/offline-run-a", "1/wandb/offline-run-b"):
        (folder / run).mkdir(parents=True)
    tracker = WandbTracker(project="test", mode="offline")
    assert tracker.upload(folder) == f"wandb sync '{folder}'/*/wandb/offline-run-*"
    (folder / "wandb" / "offline-run-c").mkdir(parents=True)
    assert tracker.upload(folder) == (
        f"wandb sync '{folder}'/wandb/offline-run-* '{folder}'/*/wandb/offline-run-*"
    )
    assert WandbTracker(project="test", mode="online").upload(folder) is None
    assert NoTracker().upload(folder) is None


def test_an_account_that_is_not_there_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    record(tmp_path, mode="online")
    assert "No API key configured" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.soak
def test_a_service_killed_between_start_and_figures_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in(tmp_path / "path", "sitecustomize.py", KILLED_SERVICE, monkeypatch)
    monkeypatch.setenv("KILLED", str(tmp_path / "killed"))
    with caplog.at_level(logging.WARNING):
        record(tmp_path)
    assert (tmp_path / "killed").exists()
    assert "wandb failed" in caplog.text


@pytest.mark.soak
def test_a_server_out_of_reach_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    record(tmp_path, mode="online")
    assert "wandb failed" in caplog.text
    assert "init_timeout" not in caplog.text
