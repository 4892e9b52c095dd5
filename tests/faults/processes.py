"""Runs in processes of their own that need no imports: forks, which may be killed."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

PATIENCE = 120
"""Seconds after which a process hangs."""


def start(work: Callable[[], object], log: Path) -> int:
    """Do work in a fork, whose output goes to a file; its process number.

    It ends with 0, or with 1 if the work raises.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        # those of pytest are not the real ones
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end(process: int, *, kill_after: float | None = None) -> int:
    """Wait for a process; its exit code, or minus the signal that ended it.

    Args:
        process: made by `start`.
        kill_after: seconds after which it is killed.

    Raises:
        TimeoutError: it hangs.
    """
    began = time.monotonic()
    limit = PATIENCE if kill_after is None else kill_after
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() - began >= limit:
            os.kill(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            if kill_after is None:
                raise TimeoutError(f"the process did not end within {PATIENCE} seconds")
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)


def stored(root: Path) -> dict[str, bytes]:
    """All files below a folder that count: partial ones and leases do not."""
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    }
