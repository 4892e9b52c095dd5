"""What ends a program with one sentence instead of a traceback."""

from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError


class CommandError(ValueError):
    """A mistake in the command, said in one sentence."""


def install(extra: str) -> str:
    """How to get the packages of an optional extra."""
    return f"pip install -e '.[{extra}]' in the project's folder"


FAULTS = (ValueError, OSError, MemoryError, OmegaConfBaseException, SafetensorError)
"""What a wrong setting, a file, the disk or the network can raise; the rest are bugs."""

INTERRUPTED = (
    "interrupted: finished shards are kept, the same command continues; of a sweep, sweep=last "
    "beside it goes on in the same folder"
)
"""What Ctrl-C is answered with."""
