"""A lease on a folder: of several processes that need the same artifact one computes it.

Shards are written atomically and have the same bytes whoever writes them, so the worst that a
lease held twice does, after a process stood still for longer than the lease, is double work.
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
"""The file, in the folder that it is about."""

LEASE = 60.0
"""Seconds without a sign of life after which a holder counts as dead: six renewals, and as long as
a network file system may show an old state of a file."""

_MISSES = 2
"""Looks in a row that find the lease with another process, until it counts as lost."""

RENEWAL = 10.0
"""Seconds between two signs of life."""


@contextmanager
def hold(
    folders: Sequence[Path],
    *,
    needed: Callable[[], bool],
    what: str,
    lease: float = LEASE,
    renewal: float = RENEWAL,
) -> Iterator[bool]:
    """Hold folders against other processes, on this machine or others that share the file system.

    Waits while another process holds one of them. That process counts as dead at once if it ran on
    this machine and does so no more, else when its file has not changed for `lease` seconds, which
    the waiting process counts in its own waiting: clocks are not compared. No folder is held while
    another is waited for, so that two processes cannot wait for each other.

    Args:
        folders: to hold; made if they are not there.
        needed: whether the work is still to be done; asked at first, after waiting, and once all
            folders are held.
        what: the work, for the log.
        lease: seconds of silence after which a holder counts as dead.
        renewal: seconds between two signs of life, less than `lease`.

    Yields:
        True if the folders are held, False if the work need not be done.

    Raises:
        ValueError: `renewal` is not between 0 and `lease`.
        OSError: a folder cannot be written; says so.
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
        # another process may have finished between the last look and now
        if not held or not needed():
            _release_all(held)
            yield False
            return
        with _renewing(held, renewal, what):
            yield True
    finally:
        _release_all(held)


def _take_all(paths: Sequence[Path], held: list["_Lease"]) -> Path | None:
    """Take leases until one is held by another process; its path."""
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
    """Return once the lease is given back, or taken from a dead holder."""
    seen: bytes | None = None
    silent, pause = 0.0, renewal / 1000
    while (content := _read(path)) is not None:
        holder = _Holder.parse(content)
        if seen is None:
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
        # not by a clock: one that itself stood still has not heard the holder be silent
        silent += pause
        pause = min(2 * pause, renewal / 10)


@dataclass(frozen=True)
class _Holder:
    """A process, as a lease names it.

    Attributes:
        host: name of its machine.
        pid: its number there.
        machine: boot and process namespace that the number is valid in; None if unknown.
        started: ticks from boot to its start, as numbers are used again; None if unknown.
        token: of this lease alone.
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
        """The holder; None if the file is not whole, as a reader may come in the middle."""
        try:
            fields = json.loads(content)
            return cls(**fields["holder"])
        except (ValueError, TypeError, KeyError):
            return None

    def is_gone(self) -> bool:
        """Whether it ran on this machine, and does so no more."""
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
    """A lease that this process took.

    The open file stays the one that was made here, whatever becomes of its name: a holder that was
    taken for dead cannot write into the lease of the next.
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
        # other machines see what is on the server
        os.fsync(self.file.fileno())

    def renew(self, what: str) -> None:
        """Give a sign of life."""
        # the disk or the network may be back the next time
        with suppress(OSError):
            # once may be the moment in which another process looks at the file
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
        """Give the lease back, if it still is this process's."""
        # else it runs out
        with suppress(OSError), self.file:
            content = self._own()
            if content is not None:
                _remove(self.path, content)

    def _own(self) -> bytes | None:
        """What stands in the file; None if it is no longer this process's."""
        content = _read(self.path)
        return content if content is not None and _Holder.parse(content) == self.holder else None


def _take(path: Path, held: list[_Lease]) -> bool:
    """Take a lease that nobody has, and add it to those held."""
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
    """What stands in a file; None if it is not there."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        # removed by another machine while it was read
        if error.errno == errno.ESTALE:
            return None
        raise


def _remove(path: Path, content: bytes) -> bool:
    """Remove a lease if it is the one with this content; of several processes one does.

    A name is looked up once by renaming the file; looking first and removing then could remove
    the lease of a process that came in between.
    """
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    removed = _read(aside) == content
    if not removed:
        # another's: put back, unless there is a third by now
        with suppress(OSError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)
    return removed


@cache
def _machine() -> str | None:
    """What process numbers are valid in: this boot, this namespace; None off Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """Ticks from boot to the start of a process; None if it has ended or cannot be seen."""
    try:
        # the name before the parenthesis may hold anything
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
