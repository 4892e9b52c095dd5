"""What ends a program with one sentence instead of a traceback."""

from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError


class CommandError(ValueError):
    """A mistake in the command, said in one sentence."""


def install(extra: str) -> str:
    """How to get the packages of an optional extra."""
    return f"pip install -e '.[{extra}]' in the project's folder"


def printable(text: str) -> str:
    """Escape what of a file's name is not valid UTF-8, so that text with it can be written.

    Only the shown name changes: the file opens by the original one.
    """
    return text.encode("utf-8", "backslashreplace").decode()


FAULTS = (ValueError, OSError, MemoryError, OmegaConfBaseException, SafetensorError)
"""What a wrong setting, a file, the disk or the network can raise; the rest are bugs."""
