"""Memory of large feature maps on the CPU: kept while a stage runs, then returned."""

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of mallopt(3)
_BYTES = 2**27


def keep_freed_memory() -> None:
    """Let the C library reuse freed blocks of up to 128 MB.

    glibc maps every block above 32 MB anew (128 channels at 256x256 are 34 MB) and faults its pages
    in one by one, which is a third of an evaluation's time. Does nothing with another C library.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        if not library.mallopt(_MMAP_THRESHOLD, _BYTES):
            # older versions reject a threshold that high
            library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, 4 * _BYTES)


def return_freed_memory() -> None:
    """Return to the system the memory that `keep_freed_memory` kept."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
