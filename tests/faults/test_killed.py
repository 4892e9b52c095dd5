"""A run that is killed and started again ends with the bytes of an undisturbed one."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.processes import end, start, stored
from tests.test_pipeline import pipeline

SEED = 4
KILLS = 20

Run = Callable[[Path], object]


@pytest.fixture
def run(model_folder: Path, trainer: Callable[..., Any]) -> Run:
    return lambda root: pipeline(model_folder, root, trainer).run()


def deadly(run: Run, root: Path, calls: int) -> None:
    """Run, and die as the file that is written as the n-th is whole but has no name yet."""
    original = os.fsync
    left = calls

    def fsync(file: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        original(file)

    os.fsync = fsync  # type: ignore[assignment] in a fork alone
    run(root)


def test_a_run_killed_as_it_writes_ends_with_the_bytes_of_an_undisturbed_one(
    run: Run, undisturbed: Path, tmp_path: Path
) -> None:
    expected = stored(undisturbed)
    root = tmp_path / "artifacts"
    draws = np.random.default_rng(SEED).integers(2, 9, 3).tolist()
    for calls in draws:
        process = start(lambda calls=calls: deadly(run, root, calls), tmp_path / "log")
        assert end(process) == -signal.SIGKILL, (tmp_path / "log").read_text()
        found = stored(root)
        assert found.items() < expected.items()
    assert end(start(lambda: run(root), tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    assert stored(root) == expected
    # what was being written is still there, under another name
    assert [path for path in root.rglob(".*") if path.name != ".lease"]


@pytest.mark.soak
def test_runs_killed_at_random_moments_end_with_the_bytes_of_an_undisturbed_one(
    run: Run, undisturbed: Path, tmp_path: Path
) -> None:
    expected = stored(undisturbed)
    log = tmp_path / "log"
    began = time.monotonic()
    assert end(start(lambda: run(tmp_path / "timed"), log)) == 0, log.read_text()
    duration = time.monotonic() - began
    generator = np.random.default_rng(SEED)
    kills = roots = 0
    while kills < KILLS:
        roots += 1
        root = tmp_path / str(roots)
        code = -signal.SIGKILL
        while code == -signal.SIGKILL:
            moment = generator.uniform(0, duration)
            code = end(start(lambda root=root: run(root), log), kill_after=moment)
            kills += code == -signal.SIGKILL
            found = stored(root)
            assert found.items() <= expected.items(), f"seed {SEED}, run {roots}, kill {kills}"
        assert code == 0, log.read_text()
        assert found == expected, f"seed {SEED}, run {roots}, kill {kills}"
