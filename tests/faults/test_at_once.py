"""Runs on the same outputs at the same time: all end well, with the same figures."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.processes import end, start, stored
from tests.test_pipeline import pipeline


def test_two_runs_at_once_leave_what_one_leaves(
    model_folder: Path, trainer: Callable[..., Any], undisturbed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "artifacts"

    def run(number: int) -> None:
        outcome = pipeline(model_folder, root, trainer).run()
        figures = json.dumps([row.as_dict() for row in outcome.rows])
        (tmp_path / f"figures{number}").write_text(figures)

    processes = [start(lambda n=n: run(n), tmp_path / f"log{n}") for n in range(2)]
    codes = [end(process) for process in processes]
    assert codes == [0, 0], "".join((tmp_path / f"log{n}").read_text() for n in range(2))
    assert stored(root) == stored(undisturbed)
    assert not list(root.rglob(".*"))
    figures = {(tmp_path / f"figures{n}").read_text() for n in range(2)}
    assert len(figures) == 1
    expected = pipeline(model_folder, undisturbed, trainer).run().rows
    assert figures == {json.dumps([row.as_dict() for row in expected])}


@pytest.mark.soak
def test_two_commands_at_once_end_with_the_same_figures(tmp_path: Path) -> None:
    small = [
        "data.few_shot=24",
        "data.held_out=24",
        "num_samples=12",
        "solver=ddim",
        "solver.steps=4",
        "inversion.step=400",
        "logger=none",
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "ood_sampler.run", *small, f"hydra.run.dir={name}"],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    errors = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert not any("damaged" in text for text in errors)
    rows = [
        json.loads((tmp_path / name / "metrics.json").read_text())["rows"]
        for name in ("one", "two")
    ]
    assert rows[0] == rows[1]
