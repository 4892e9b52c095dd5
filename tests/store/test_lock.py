import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ood_sampler.store import lock
from ood_sampler.store.lock import NAME, hold

ROOT = Path(__file__).parents[2]

JOB = """
import logging, signal, sys, time
from pathlib import Path
from ood_sampler.store.lock import hold

# ignored where the tests themselves run in the background
signal.signal(signal.SIGINT, signal.default_int_handler)
logging.basicConfig(level=logging.INFO, format="%(message)s")
folder, name = Path(sys.argv[1]), sys.argv[2]
seconds, lease, renewal = map(float, sys.argv[3:6])
done = folder / "done"
with hold(
    [folder], needed=lambda: not done.exists(), what="work", lease=lease, renewal=renewal
) as own:
    if own:
        (folder / name).touch()
    print(own, flush=True)
    if own:
        time.sleep(seconds)
        done.touch()
"""
"""Makes the file `done`, in some seconds, and a file that says who did."""

EXCLUSIVE = """
import sys, time
from pathlib import Path
from ood_sampler.store.lock import hold

folders, rounds = [Path(argument) for argument in sys.argv[2:]], int(sys.argv[1])
for _ in range(rounds):
    with hold(folders, needed=lambda: True, what="work", lease=10**6, renewal=1) as own:
        for folder in folders:
            (folder / "inside").open("x").close()
        time.sleep(0.002)
        for folder in folders:
            (folder / "inside").unlink()
"""
"""Fails if another process is inside at the same time."""

FOREVER = 10**6
"""Seconds; a test that waits for so long fails by its time limit."""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.strip(), err


def written(path: Path, **changes: Any) -> bytes:  # noqa: ANN401
    """Leave a lease as a process would that is as told."""
    fields = {
        "host": "node7",
        "pid": os.getpid(),
        "machine": lock._machine(),
        "started": lock._started(os.getpid()),
        "token": "ab12",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json.dumps({"holder": {**fields, **changes}, "renewals": "0"}).encode())
    return path.read_bytes()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder until it is ended."""
    process = start(JOB, tmp_path, "first", FOREVER, 0.4, 0.1)
    assert first_line(process) == "True"
    yield process
    process.kill()
    process.communicate()


def test_of_many_processes_one_works_and_the_others_use_it(tmp_path: Path) -> None:
    processes = [start(JOB, tmp_path, f"by {i}", 0.5, 30, 0.1) for i in range(5)]
    ended = [end(process) for process in processes]
    assert sorted(out for out, _ in ended) == ["False"] * 4 + ["True"]
    assert len([name for name in names(tmp_path) if name.startswith("by")]) == 1
    assert NAME not in names(tmp_path)
    worker = next(p.pid for p, (out, _) in zip(processes, ended, strict=True) if out == "True")
    waiting = [err for _, err in ended if err]
    host = lock.socket.gethostname()
    # one that comes late enough finds the work done and does not wait
    assert set(waiting) <= {f"waiting for work, which process {worker} on {host} computes\n"}


def test_a_holder_at_work_is_waited_for_longer_than_its_lease(tmp_path: Path) -> None:
    first = start(JOB, tmp_path, "first", 1.5, 0.5, 0.05)
    assert first_line(first) == "True"
    second = start(JOB, tmp_path, "second", 0, 0.5, 0.05)
    out, err = end(second)
    assert (out, "taking over" in err) == ("False", False)
    assert "waiting for work" in err
    end(first)
    assert names(tmp_path) == {"first", "done"}


@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_holder_of_this_machine_is_replaced_at_once(
    tmp_path: Path, holder: subprocess.Popen[str], *, reaped: bool
) -> None:
    holder.send_signal(signal.SIGKILL)
    if reaped:
        holder.wait()
    else:
        while lock._started(holder.pid) is not None:
            time.sleep(0.01)
    out, err = end(start(JOB, tmp_path, "second", 0, FOREVER, 1))
    assert out == "True"
    assert f"taking over work: process {holder.pid} on" in err
    assert names(tmp_path) == {"first", "second", "done"}


def test_a_suspended_holder_is_replaced_and_does_no_harm(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    holder.send_signal(signal.SIGSTOP)
    with hold([tmp_path], needed=lambda: True, what="work", lease=0.4, renewal=0.1) as own:
        assert own
        mine = (tmp_path / NAME).stat().st_ino
        holder.send_signal(signal.SIGCONT)
        assert holder.stderr is not None
        assert "stood still, and another took over work" in holder.stderr.readline()
        # nor when it ends
        time.sleep(0.3)
        holder.send_signal(signal.SIGINT)
        _, err = holder.communicate(timeout=60)
        assert "stood still" not in err
        assert (tmp_path / NAME).stat().st_ino == mine
        assert names(tmp_path) == {"first", NAME}
    assert names(tmp_path) == {"first"}


def test_one_of_many_takes_over_from_the_dead_and_never_two_are_inside(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    holder.kill()
    holder.wait()
    for process in [start(EXCLUSIVE, 20, tmp_path) for _ in range(4)]:
        end(process)
    assert names(tmp_path) == {"first"}


def test_processes_that_need_several_folders_do_not_wait_for_each_other(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    for process in [start(EXCLUSIVE, 20, *folders) for folders in ((a, b), (b, a), (c, b), (a, c))]:
        end(process)
    assert [names(folder) for folder in (a, b, c)] == [set()] * 3


def test_the_process_of_another_machine_counts_as_dead_after_the_lease_alone(
    tmp_path: Path,
) -> None:
    # its number is free here, which says nothing
    free = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1)
    elsewhere = {"machine": "elsewhere", "pid": int(free.stdout)}
    written(tmp_path / NAME, **elsewhere)
    ended = threading.Event()

    def renewed() -> None:
        for renewals in range(10):
            time.sleep(0.1)
            written(tmp_path / NAME, **elsewhere, token=str(renewals))
        ended.set()

    thread = threading.Thread(target=renewed)
    thread.start()
    with hold([tmp_path], needed=lambda: True, what="work", lease=0.5, renewal=0.1) as own:
        assert own
        assert ended.is_set()
    thread.join()
    assert names(tmp_path) == set()


@pytest.mark.skipif(lock._machine() is None, reason="processes cannot be told apart")
@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({}, False),
        ({"started": "1"}, True),
        ({"pid": 2**22 + 1}, True),
        ({"started": "1", "machine": "elsewhere"}, False),
        ({"pid": 2**22 + 1, "machine": None}, False),
    ],
    ids=["alive", "number used again", "dead", "elsewhere", "unknown"],
)
def test_who_is_known_to_be_gone(tmp_path: Path, changes: dict[str, Any], *, gone: bool) -> None:
    found = lock._Holder.parse(written(tmp_path / NAME, **changes))
    assert found is not None
    assert found.is_gone() == gone


@pytest.mark.parametrize("content", [b"", b'{"holder": {"host"', b"{}", b"[1]"])
def test_what_a_crash_left_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    (tmp_path / f"{NAME}.0123456789abcdef").write_bytes(b"left behind")
    with hold([tmp_path], needed=lambda: True, what="work", lease=0.1, renewal=0.02) as own:
        assert own
    assert NAME not in names(tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_a_failure_gives_the_folders_back(tmp_path: Path, error: type[BaseException]) -> None:
    folders = [tmp_path / name for name in "ab"]
    with pytest.raises(error), hold(folders, needed=lambda: True, what="work"):  # noqa: PT012
        assert [names(folder) for folder in folders] == [{NAME}] * 2
        raise error
    assert [names(folder) for folder in folders] == [set()] * 2
    assert "lease" not in {thread.name for thread in threading.enumerate()}


def test_nothing_is_written_where_nothing_is_needed(tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    with hold([folder], needed=lambda: False, what="work") as own:
        assert not own
        assert names(tmp_path) == set()


def test_work_that_another_ended_just_before_is_not_done_again(tmp_path: Path) -> None:
    answers = iter([True, False])
    with hold([tmp_path], needed=lambda: next(answers), what="work") as own:
        assert not own
        assert names(tmp_path) == set()


def test_only_the_lease_that_was_seen_is_removed(tmp_path: Path) -> None:
    path = tmp_path / NAME
    seen = written(path)
    other = written(path, token="cd34")  # noqa: S106 no password
    file = path.stat().st_ino
    assert not lock._remove(path, seen)
    assert (path.read_bytes(), path.stat().st_ino) == (other, file)
    assert names(tmp_path) == {NAME}
    assert lock._remove(path, other)
    assert not lock._remove(path, other)
    assert names(tmp_path) == set()


def test_the_lease_of_the_next_holder_is_not_given_back(tmp_path: Path) -> None:
    with hold([tmp_path], needed=lambda: True, what="work"):
        (tmp_path / NAME).unlink()
        other = written(tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == other


def test_a_failing_disk_does_not_end_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def fail(_: int) -> None:
        failed.set()
        raise OSError(errno.EIO, "Input/output error")

    with hold([tmp_path], needed=lambda: True, what="work", lease=1, renewal=0.01):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            assert failed.wait(10)
        before = (tmp_path / NAME).read_bytes()
        while (tmp_path / NAME).read_bytes() == before:
            time.sleep(0.01)
    assert names(tmp_path) == set()


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with (
            pytest.raises(OSError, match=r"could not be written .*set output to") as caught,
            hold([folder], needed=lambda: True, what="work"),
        ):
            pass
        assert str(folder) in str(caught.value)

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock._Lease, "write", full)
    with (
        pytest.raises(OSError, match=r"No space left on device\): make space"),
        hold([tmp_path / "a", tmp_path / "b"], needed=lambda: True, what="work"),
    ):
        pass
    assert names(tmp_path / "a") == set()


@pytest.mark.parametrize("renewal", [0, 5, 6])
def test_a_holder_must_show_itself_within_its_lease(tmp_path: Path, renewal: float) -> None:
    with (
        pytest.raises(ValueError, match=r"renewal must be in 0\.\.lease=5"),
        hold([tmp_path], needed=lambda: True, what="work", lease=5, renewal=renewal),
    ):
        pass


def test_one_look_that_finds_the_file_moved_does_not_end_a_lease(tmp_path: Path) -> None:
    own = lock._Lease(tmp_path / NAME)
    own.write()
    (tmp_path / NAME).rename(tmp_path / "aside")
    own.renew("work")
    assert not own.lost
    (tmp_path / "aside").rename(tmp_path / NAME)
    own.renew("work")
    assert own.renewals == 1
    (tmp_path / NAME).unlink()
    own.renew("work")
    own.renew("work")
    assert own.lost
    own.release()
