"""Damaged files for every reader: see `fuzz.py`, whose cases are the same for the same seed."""

import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.faults import fuzz
from tests.faults.fuzz import Target, damaged, make_targets

MINUTES = float(os.environ.get("FUZZ_MINUTES", "10"))
"""Of the long test; it is split over seeds."""


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Target]]:
    import datasets

    before = datasets.config.HF_HUB_OFFLINE, datasets.config.HF_DATASETS_CACHE
    yield make_targets(tmp_path_factory.mktemp("good"))
    datasets.config.HF_HUB_OFFLINE, datasets.config.HF_DATASETS_CACHE = before
    datasets.enable_progress_bars()


def test_good_files_are_read(targets: dict[str, Target], tmp_path: Path) -> None:
    for name, target in targets.items():
        for file, content in target.files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        target.read(tmp_path / name)


def test_no_damaged_file_of_some_hundred_is_a_surprise(
    targets: dict[str, Target], tmp_path: Path
) -> None:
    outcome = fuzz.fuzz(targets, seed=0, cases=300, folder=tmp_path)
    assert not outcome.findings, outcome.text()
    assert outcome.cases == 300
    assert sum(outcome.read.values()) > 50, outcome.text()
    assert sum(outcome.refused.values()) > 100, outcome.text()


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 6))
def test_no_damaged_file_in_minutes_is_a_surprise(
    seed: int, targets: dict[str, Target], tmp_path: Path
) -> None:
    outcome = fuzz.fuzz(targets, seed=seed, seconds=60 * MINUTES / 5, folder=tmp_path)
    assert not outcome.findings, f"seed {seed}\n{outcome.text()}"
    assert outcome.cases > 100


def undocumented(_: Path) -> None:
    raise KeyError("a")


def nameless(_: Path) -> None:
    raise ValueError("something is wrong")


def hanging(_: Path) -> None:
    time.sleep(60)


def dying(_: Path) -> None:
    os.abort()


def greedy(_: Path) -> None:
    # not from the heap, where earlier tests may have left as much that is free but resident
    with mmap.mmap(-1, 2**28) as memory:
        for page in range(0, len(memory), mmap.PAGESIZE):
            memory[page] = 1


@pytest.mark.parametrize(
    ("read", "problem"),
    [
        (undocumented, "KeyError"),
        (nameless, "unclear message"),
        (hanging, "hang"),
        (dying, "crash, exit code -6"),
        (greedy, "memory"),
    ],
)
def test_faults_of_readers_are_found(
    read: fuzz.Read, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", -1 if read is hanging else 10)
    monkeypatch.setattr(fuzz, "MEMORY", 2**27)
    targets = {"one": Target({"a": b"content" * 20}, read)}
    outcome = fuzz.fuzz(targets, seed=0, cases=1, folder=tmp_path)
    (finding,) = outcome.findings
    assert finding.problem == problem
    assert f"FINDING one: {problem}" in outcome.text()
    assert "--seed 0 --case 0" in outcome.text()


def test_a_case_is_the_same_each_time(targets: dict[str, Target]) -> None:
    for case in range(40):
        first, second = (fuzz.choose(targets, 3, case)[:3] for _ in range(2))
        assert first == second


def test_damage_keeps_the_form_of_archives_and_headers(targets: dict[str, Target]) -> None:
    # enough of it has to reach what lies behind the checks of a checksum or a length
    for name, file in (("stored.zip", "stored.zip"), ("a.PNG", "a.PNG")):
        data = targets[name].files[file]
        readable = 0
        for case in range(60):
            changed = damaged(data, np.random.default_rng(case))
            readable += changed[:4] == data[:4] and changed[-4:] == data[-4:]
        assert readable > 30
