"""A lock on a folder, so that one of several processes that need an artifact computes it.

The lock is a lease: it expires without heartbeats. If a process stalls for longer than that, two
may hold it. This only doubles work, as shards are written atomically, with the same bytes.
"""

import errno
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

NAME = ".lease"
"""Name of the lock file in its folder."""

LEASE = 60.0
"""Seconds without a heartbeat after which a holder counts as dead: six heartbeats, and as long as a
network file system may show an old state of a file."""

_MISSES = 2
"""Checks in a row that find the lock with another process before it counts as lost."""

RENEWAL = 10.0
"""Seconds between heartbeats."""


@contextmanager
def hold(
    folders: Sequence[Path],
    *,
    needed: Callable[[], bool],
    what: str,
    lease: float = LEASE,
    renewal: float = RENEWAL,
) -> Iterator[bool]:
    """Lock folders against other processes, on this machine or others that share the file system.

    Waits while another process holds one of them. A holder that ran on this machine and has ended
    counts as dead at once; any other, after `lease` seconds without a change of its lock file. The
    waiting process counts these seconds itself: clocks are not compared. It holds no folder while
    it waits, so that two processes cannot wait for each other.

    Args:
        folders: to lock; created if missing.
        needed: whether the work is still to be done; asked at first, after waiting, and once all
            folders are locked.
        what: the work, for the log.
        lease: seconds without a heartbeat after which a holder counts as dead.
        renewal: seconds between heartbeats, less than `lease`.

    Yields:
        True if the folders are locked, False if the work need not be done.

    Raises:
        ValueError: `renewal` is not between 0 and `lease`.
        OSError: a folder cannot be written; names it.
    """
    if not 0 < renewal < lease:
        raise ValueError(f"renewal must be in 0..lease={lease}, got {renewal}")
    paths = sorted({folder / NAME for folder in folders})
    held: list[_Lease] = []
    try:
        while needed():
            busy = _take_all(paths, held)
            if busy is None:
                break
            _release_all(held)
            _wait(busy, what, lease, renewal)
        # another process may have finished since the last check
        if not held or not needed():
            _release_all(held)
            yield False
            return
        with _renewing(held, renewal, what):
            yield True
    finally:
        _release_all(held)


def _take_all(paths: Sequence[Path], held: list["_Lease"]) -> Path | None:
    """Take locks until another process holds one; return the path of that one."""
    for path in paths:
        if not _take(path, held):
            return path
    return None


def _release_all(held: list["_Lease"]) -> None:
    while held:
        held.pop().release()


@contextmanager
def _renewing(held: Sequence["_Lease"], renewal: float, what: str) -> Iterator[None]:
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(renewal):
            for lease in held:
                lease.renew(what)

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _wait(path: Path, what: str, lease: float, renewal: float) -> None:
    """Return once the lock is released, or removed as its holder is dead."""
    seen: bytes | None = None
    silent, pause, told = 0.0, renewal / 1000, False
    while (content := _read(path)) is not None:
        holder = _Holder.parse(content)
        # a lock that was made this moment has no name in it yet
        if not told and (holder is not None or silent):
            told = True
            log.info("waiting for %s, which %s computes", what, holder or "another process")
        if content != seen:
            seen, silent = content, 0.0
        gone = holder is not None and holder.is_gone()
        if gone or silent >= lease:
            if _remove(path, content):
                reason = "is gone" if gone else f"gave no sign of life for {silent:.0f} s"
                log.warning("taking over %s: %s %s", what, holder or "the other process", reason)
            return
        time.sleep(pause)
        # not by a clock: a process that itself stalled may have missed heartbeats
        silent += pause
        pause = min(2 * pause, renewal / 10)


@dataclass(frozen=True)
class _Holder:
    """The process that a lock file names.

    Attributes:
        host: name of its machine.
        pid: its number there.
        machine: boot and process namespace in which the number is valid; None if unknown.
        started: ticks from boot to its start, as numbers are reused; None if unknown.
        token: unique to this lock.
    """

    host: str
    pid: int
    machine: str | None
    started: str | None
    token: str

    @classmethod
    def here(cls) -> "_Holder":
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _machine(), _started(pid), secrets.token_hex(8))

    @classmethod
    def parse(cls, content: bytes) -> "_Holder | None":
        """Parse a lock file; None if it is only half written."""
        try:
            fields = json.loads(content)
            return cls(**fields["holder"])
        except (ValueError, TypeError, KeyError):
            return None

    def is_gone(self) -> bool:
        """Whether it ran on this machine and has ended."""
        if self.machine is None or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class _Lease:
    """A lock that this process took.

    The file stays open: a holder that was taken for dead writes to its own, removed file, not to
    that of the next holder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.holder = _Holder.here()
        self.renewals = 0
        self.misses = 0
        self.lost = False
        self.file = path.open("xb", buffering=0)

    def write(self) -> None:
        content = json.dumps({"holder": asdict(self.holder), "renewals": f"{self.renewals:012d}"})
        self.file.seek(0)
        self.file.write(content.encode())
        # other machines see only data on the server
        os.fsync(self.file.fileno())

    def renew(self, what: str) -> None:
        """Write a heartbeat."""
        # disk or network may be back by the next heartbeat
        with suppress(OSError):
            # a single miss may be the moment in which another process inspects the file
            self.misses = self.misses + 1 if self._own() is None else 0
            if not self.lost and self.misses >= _MISSES:
                self.lost = True
                log.warning(
                    "this process stood still, and another took over %s: it goes on, at worst the "
                    "work is done twice",
                    what,
                )
            if not self.misses:
                self.renewals += 1
                self.write()

    def release(self) -> None:
        """Remove the lock, if it still is this process's."""
        # if that fails, it expires
        with suppress(OSError), self.file:
            content = self._own()
            if content is not None:
                _remove(self.path, content)

    def _own(self) -> bytes | None:
        """Content of the file; None if it is no longer this process's."""
        content = _read(self.path)
        return content if content is not None and _Holder.parse(content) == self.holder else None


def _take(path: Path, held: list[_Lease]) -> bool:
    """Take a free lock, and add it to those held."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lease = _Lease(path)
    except FileExistsError as error:
        if path.parent.is_dir():
            return False
        raise _fault(error, path) from error
    except OSError as error:
        raise _fault(error, path) from error
    held.append(lease)
    try:
        lease.write()
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _fault(error, path) from error
    return True


def _fault(error: OSError, path: Path) -> OSError:
    return OSError(
        error.errno,
        f"could not be written ({error.strerror}): make space or set output to another folder; "
        "finished shards are kept and the same command continues",
        str(path),
    )


def _read(path: Path) -> bytes | None:
    """Content of a file; None if it is missing."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        # another machine removed it during the read
        if error.errno == errno.ESTALE:
            return None
        raise


def _remove(path: Path, content: bytes) -> bool:
    """Remove the lock with this content; of several processes that try, one succeeds.

    The file is renamed before it is checked: checking first could remove the lock of a process
    that took it in between.
    """
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    removed = _read(aside) == content
    if not removed:
        # another's: put it back, unless a third has come by now
        with suppress(OSError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)
    return removed


@cache
def _machine() -> str | None:
    """Boot and namespace in which process numbers are valid; None off Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """Ticks from boot to the start of a process; None if it has ended or cannot be seen."""
    try:
        # the program's name, which ends at the parenthesis, may hold anything
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
