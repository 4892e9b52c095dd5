"""List the images of a folder or archive, and count by kind the files that are passed over."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from ood_sampler.faults import printable

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp")

PACKED = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
"""Suffixes of files that may hold images but must be unpacked first."""

READ = "read"
"""Kind of a file that is read."""

TEXT = "text"
"""Kind of a file that is certainly no image, and not worth a mention."""

LINKED_FOLDER, LINK = "linked folder", "link"
_BROKEN_LINK, _NO_SUFFIX = "broken link", "without a suffix"
_NOUNS = {LINKED_FOLDER, LINK, _BROKEN_LINK}

_TEXTS = {
    *(".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml"),
    *(".ini", ".cfg", ".html", ".htm", ".css", ".log", ".py", ".sh", ".db", ".md5", ".sha256"),
}
"""Suffixes of files that often lie beside images but are none."""

_SUFFIX = re.compile(r"\.(?=.*[a-z])[a-z0-9]{1,8}")
"""Pattern of a suffix; those of digits alone, as in `a0.5`, are numbers in a name."""

_SIGNATURES = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF....WEBP|II[*+]\0|MM\0[*+]|BM....\0{4}", re.DOTALL
)
"""First bytes of images in the formats that are read."""

START = 16
"""Number of bytes that identify a file without a suffix."""

_SHOWN = 6
"""Largest number of kinds in a sentence."""


class Listing:
    """Names of images, and counts by kind of files that may be images but are not read."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, name: str, kind: str) -> None:
        """Add a file of a kind that `kind_of` returned, or `LINK` or `LINKED_FOLDER`."""
        if kind == READ:
            self.names.append(name)
        elif kind != TEXT:
            self._counts[kind] += 1
            # The smallest name, as files are listed in no order.
            self._examples[kind] = min(name, self._examples.get(kind, name))

    def passed_over(self) -> str:
        """Return a sentence on files that are not read, with an example per kind; else empty."""
        kinds = sorted(self._counts.items(), key=lambda entry: (-entry[1], entry[0]))
        shown = [
            f"{count} {kind}{'s' if count > 1 and kind in _NOUNS else ''} "
            f"({printable(self._examples[kind])})"
            for kind, count in kinds[:_SHOWN]
        ]
        if others := sum(count for _, count in kinds[_SHOWN:]):
            shown.append(f"{others} of other kinds")
        return ", ".join(shown)


def list_folder(root: Path, suffixes: tuple[str, ...] = SUFFIXES) -> Listing:
    """List the files with some suffixes below a folder, in no order, as relative paths.

    Hidden files and folders are left out. Linked folders are not entered: they could form a cycle
    or lead to the whole disk.
    """
    listing = Listing()
    for folder, folders, files in os.walk(root, onerror=_raise):
        place = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in folders:
            if Path(folder, name).is_symlink():
                listing.add((place / name).as_posix(), LINKED_FOLDER)
        for name in files:
            relative = (place / name).as_posix()
            if not is_hidden(relative):
                listing.add(relative, kind_of(name, partial(_start, Path(folder, name)), suffixes))
    return listing


def kind_of(
    name: str, start: Callable[[], bytes | None], suffixes: tuple[str, ...] = SUFFIXES
) -> str:
    """Identify a file by its suffix, an image without one by its first bytes.

    Args:
        name: Name of the file.
        start: Reads its first `START` bytes; None for a broken link.
        suffixes: Suffixes of the files that are read.

    Returns:
        `READ`, `TEXT`, or the kind under which the file is counted.
    """
    if name.lower().endswith(suffixes):
        return READ
    suffix = PurePosixPath(name).suffix.lower()
    if _SUFFIX.fullmatch(suffix):
        return TEXT if suffix in _TEXTS else suffix
    try:
        head = start()
    except OSError:
        return _NO_SUFFIX
    if head is None:
        return _BROKEN_LINK
    if _SIGNATURES.match(head) and suffixes == SUFFIXES:
        return READ
    return _NO_SUFFIX if b"\0" in head else TEXT


def it_holds(passed_over: str) -> str:
    """Return the end of an error about a place without readable files."""
    return f"; it holds {passed_over}" if passed_over else ""


def warn_of_passed_over(
    place: Path | str, passed_over: str, suffixes: tuple[str, ...] = SUFFIXES
) -> None:
    """Warn of files that are not read, if there are any."""
    if passed_over:
        remedy = f"read are files ending in {', '.join(suffixes)}: convert or unpack others"
        if LINKED_FOLDER in passed_over:
            remedy += ", and copy linked folders"
        warnings.warn(
            f"passed over in {printable(str(place))}: {passed_over}; {remedy}", stacklevel=4
        )


def user_path(root: str | Path, *, key: str) -> Path:
    """Return a path that a user gave, with `~` expanded.

    Raises:
        ValueError: It is empty, or the home folder in it is unknown.
    """
    if not str(root).strip():
        raise ValueError(f"{key} must be a folder or file, got nothing (an unset variable?)")
    try:
        return Path(root).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{key}={root} has an unknown home folder; write the path out") from error


def files_below(root: Path) -> Iterator[str]:
    """Yield the relative paths of all files below a folder, with forward slashes, in no order."""
    for folder, _, files in os.walk(root, onerror=_raise):
        for file in files:
            yield Path(folder, file).relative_to(root).as_posix()


def is_hidden(name: str) -> bool:
    """Tell whether a part of a relative path is hidden or holds macOS metadata."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _start(path: Path) -> bytes | None:
    if path.is_file():
        with path.open("rb") as file:
            return file.read(START)
    # Reading a named pipe would block for ever.
    return None if path.is_symlink() else b""


def _raise(error: OSError) -> None:
    raise error
