"""A disk that becomes full: a clear error, nothing lost, and the same command continues.

The disk is a small one of memory where this process may mount one, else (and everywhere) a limit
on the size of a file, which fails in the middle of a write all the same.
"""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ood_sampler.data.physical import write_fits, write_physical
from ood_sampler.data.radiation import FluxScale
from ood_sampler.report.grid import save_png
from ood_sampler.report.results import write_json
from ood_sampler.store import artifacts
from ood_sampler.store.files import write_atomically
from tests.faults.processes import end, start, stored
from tests.test_pipeline import pipeline

SHARD_BYTES = 64 * 3 * 16 * 16 * 4


def mount(folder: Path, size: int, *options: str) -> None:
    """Mount a disk of memory.

    Raises:
        OSError: this process may not.
    """
    command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs"]
    try:
        subprocess.run([*command, str(folder)], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        raise OSError(error.stderr.decode()) from error


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Room for the first shard and a part of the next large one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount(folder, int(1.6 * SHARD_BYTES))
    except OSError as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)  # noqa: S607


def limit_files(size: int) -> None:
    """Let writing fail where a file would become larger."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def roomy(_: Path) -> Any:  # noqa: ANN401
    """The state of a disk at the start of a run, before others filled it."""
    return SimpleNamespace(free=10**12)


def fails_clearly(log: Path, root: Path, reason: str) -> None:
    error = log.read_text().splitlines()[-1]
    assert error.startswith("OSError: "), log.read_text()
    assert f"could not be written ({reason}): make space or set output to another folder" in error
    assert str(root) in error


def test_a_disk_that_is_full_in_the_middle_of_a_shard(
    model_folder: Path,
    trainer: Callable[..., Any],
    undisturbed: Path,
    small_disk: Path,
    tmp_path: Path,
) -> None:
    def run() -> None:
        shutil.disk_usage = roomy  # type: ignore[assignment] in a fork alone
        pipeline(model_folder, small_disk, trainer).run()

    assert end(start(run, tmp_path / "log")) == 1
    fails_clearly(tmp_path / "log", small_disk, "No space left on device")
    found = stored(small_disk)
    assert found.items() < stored(undisturbed).items()
    assert any(len(data) > SHARD_BYTES for data in found.values())
    assert not [path for path in small_disk.rglob(".*") if path.is_file()]

    mount(small_disk, 64 * SHARD_BYTES, "remount")
    assert end(start(run, tmp_path / "again")) == 0, (tmp_path / "again").read_text()
    assert stored(small_disk) == stored(undisturbed)


def test_a_limit_that_is_reached_in_the_middle_of_a_shard(
    model_folder: Path, trainer: Callable[..., Any], undisturbed: Path, tmp_path: Path
) -> None:
    root, log = tmp_path / "artifacts", tmp_path / "log"

    def run() -> None:
        written = 0
        original = artifacts.save_file

        def save_file(*arguments: Any, **options: Any) -> None:  # noqa: ANN401
            nonlocal written
            written += 1
            limit_files(SHARD_BYTES // 2 if written > 2 else resource.RLIM_INFINITY)
            original(*arguments, **options)

        artifacts.save_file = save_file  # type: ignore[attr-defined] in a fork alone
        pipeline(model_folder, root, trainer).run()

    assert end(start(run, log)) == 1
    fails_clearly(log, root, "File too large")
    found = stored(root)
    assert found.items() < stored(undisturbed).items()
    assert len([name for name in found if name.endswith(".safetensors")]) == 2
    assert not [path for path in root.rglob(".*") if path.is_file()]
    pipeline(model_folder, root, trainer).run()
    assert stored(root) == stored(undisturbed)


def test_a_file_of_a_report_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    blocks = torch.linspace(-1, 1, 4 * 3 * 32 * 32).view(4, 3, 32, 32)
    noise = torch.randint(256, (3, 32, 32), dtype=torch.uint8)
    scale = FluxScale([1.0] * 3, [2.0] * 3)
    writers: dict[str, Callable[[Path], None]] = {
        "metrics.json": lambda path: write_json(path, {"psnr": list(range(100))}),
        "grid.png": lambda path: save_png(noise, path),
        "samples.npy": lambda path: write_physical(path, [blocks], 4, scale),
        "samples.fits": lambda path: write_fits(path, [blocks], 4, scale, unit=None),
        "report.html": lambda path: write_atomically(path, bytes(10**6)),
    }
    for name in writers:
        (tmp_path / name).write_bytes(b"before")

    def run() -> None:
        limit_files(100)
        errors = []
        for name, write in writers.items():
            try:
                write(tmp_path / name)
            except OSError as error:
                errors.append(str(error))
        # as one line each, which is short enough
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        sys.stdout.write("\n".join(errors))

    log = tmp_path / "log"
    assert end(start(run, log)) == 0, log.read_text()
    errors = log.read_text().splitlines()
    for error, name in zip(errors, writers, strict=True):
        assert "could not be written (File too large): make space" in error
        assert str(tmp_path / name) in error
        assert (tmp_path / name).read_bytes() == b"before"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.soak
def test_a_command_whose_report_finds_no_space_is_told_so_and_ends_well_the_next_time(
    tmp_path: Path, small_disk: Path
) -> None:
    command = [
        *(sys.executable, "-m", "ood_sampler.run", "logger=none"),
        *("data.few_shot=24", "data.held_out=24", "num_samples=12"),
        *("solver=ddim", "solver.steps=4", "inversion.step=400"),
        f"hydra.run.dir={small_disk}/report",
    ]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )

    # a file of Hydra's, the configuration, the figures, a sample, the page: one after the other
    for size in (16, 24, 32, 64, 128):
        mount(small_disk, size * 1024, "remount")
        ended = run()
        assert ended.returncode == 1, ended.stderr
        assert "Traceback" not in ended.stderr
        (error,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
        assert "No space left on device" in error
        assert str(small_disk) in error
        # not there where not even the configuration found space
        shutil.rmtree(small_disk / "report", ignore_errors=True)
    mount(small_disk, 2**23, "remount")
    ended = run()
    assert ended.returncode == 0, ended.stderr
    assert len(list((small_disk / "report" / "samples").glob("*.png"))) == 12
    assert "</html>" in (small_disk / "report" / "report.html").read_text()
