"""What ends a program with one sentence instead of a traceback."""

import re
import shlex
from pathlib import Path

from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError


class CommandError(ValueError):
    """A mistake in the command, said in one sentence."""


class BrokenFileError(ValueError):
    """A file is not whole, or not what its name says."""


def is_interrupt(error: BaseException) -> bool:
    """Whether Ctrl-C ended something; Lightning makes it an exit with code 1."""
    cause = error.__context__ if isinstance(error, SystemExit) else error
    return isinstance(cause, KeyboardInterrupt)


def install(extra: str) -> str:
    """How to get the packages of an optional extra, in a checkout or beside an installed wheel."""
    if not (Path(__file__).parents[1] / "pyproject.toml").is_file():
        marker = re.compile(rf"""(?P<package>[^;]*?) ?; extra == ["']{extra}["']""")
        found = [marker.fullmatch(line) for line in _requirements()]
        packages = [match["package"] for match in found if match is not None]
        if packages:
            return f"pip install {shlex.join(packages)}"
    return f"pip install -e '.[{extra}]' in the project's folder"


def _requirements() -> list[str]:
    from importlib.metadata import PackageNotFoundError, requires

    try:
        return requires("ood-sampler") or []
    except PackageNotFoundError:
        return []


def printable(text: str) -> str:
    """Escape what of a file's name is not valid UTF-8, so that text with it can be written.

    Only the shown name changes: the file opens by the original one.
    """
    return text.encode("utf-8", "backslashreplace").decode()


FAULTS = (ValueError, OSError, MemoryError, OmegaConfBaseException, SafetensorError)
"""What a wrong setting, a file, the disk or the network can raise; the rest are bugs."""

INTERRUPTED = (
    "interrupted: what is done is kept, and the same command continues; add sweep=last to continue "
    "a sweep in its folder"
)
"""What Ctrl-C is answered with."""
