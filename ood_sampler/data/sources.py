"""Read encoded images from folders, zip archives and LMDB databases, always in one order."""

import lzma
import os
import posixpath
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ood_sampler.data.database import Database, DatabaseError
from ood_sampler.data.images import ImageError, fit_square, read_rgb
from ood_sampler.data.listing import (
    LINK,
    PACKED,
    START,
    SUFFIXES,
    Listing,
    files_below,
    is_hidden,
    it_holds,
    kind_of,
    list_folder,
    user_path,
    warn_of_passed_over,
)
from ood_sampler.data.sequences import Keys
from ood_sampler.faults import install

T_co = TypeVar("T_co", covariant=True)

MAX_BYTES = 2**30
"""Limit per file, more than any image within the pixel limit needs; a larger zip member is
rejected as a zip bomb."""

LMDB_FILE = "data.mdb"
"""File that makes a folder an LMDB database."""

_LONGEST_PATH = 4096

_ZIP_ERRORS = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    # NotImplementedError and an encrypted member's error derive from it.
    RuntimeError,
)


class MissingPackageError(ValueError):
    """A package of an optional extra is not installed; the message says how to install it."""


class DataSource(ABC, Generic[T_co]):
    """Items read by index, in an order that never varies; can be pickled for worker processes."""

    location: Path | str
    """The folder, archive, database or data set."""

    names: Sequence[str]
    """One name per item, unique within the source."""

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def read(self, index: int) -> T_co:
        """Return item `index`.

        Raises:
            ImageError: It cannot be read.
        """

    def path(self, index: int) -> str:
        """Name the location of item `index`, for messages."""
        return f"{self.location}/{self.names[index]}"


class ImageSource(DataSource[bytes]):
    """Encoded images: `read` returns the bytes of a file that `read_rgb` can decode."""

    passed_over: str = ""
    """Counts by kind of the files beside them that may be images but are not read."""


class FolderSource(ImageSource):
    """Images below a folder, as `list_folder` finds them.

    Names are paths relative to the folder with forward slashes, sorted by code point.
    """

    def __init__(self, root: str | Path) -> None:
        self.location = Path(root)
        listing = list_folder(self.location)
        self.names = sorted(listing.names)
        self.passed_over = listing.passed_over()

    def read(self, index: int) -> bytes:
        return read_file(Path(self.location, self.names[index]))


class ZipSource(ImageSource):
    """Images in a zip archive, or in one folder of it; nothing is extracted to disk.

    Names are relative to `folder`, equal to those of the unpacked folder.

    Raises:
        ImageError: The file is not a zip archive, or the path of a member is absolute or has `..`
            in it, or a member is a link that leads out of the archive.
    """

    location: Path

    def __init__(self, path: str | Path, folder: str = "") -> None:
        self.location = Path(path)
        self._prefix = f"{folder}/" if folder else ""
        self._archive: zipfile.ZipFile | None = None
        self._process = -1
        archive = self._open()
        members = {member.filename: member for member in archive.infolist()}
        for member in members.values():
            _check_member(member.filename, self.location)
            if _is_link(member):
                _check_link(archive, member, self.location)
        listing = Listing()
        for name, member in members.items():
            below = name.removeprefix(self._prefix)
            if name.startswith(self._prefix) and not name.endswith("/") and not is_hidden(below):
                listing.add(below, _kind(archive, member))
        self.names = sorted(listing.names)
        self.passed_over = listing.passed_over()

    def read(self, index: int) -> bytes:
        try:
            member = self._open().getinfo(self._prefix + self.names[index])
            if member.file_size > MAX_BYTES:
                raise ImageError(
                    f"{self.path(index)} must be at most {MAX_BYTES} bytes, "
                    f"got {member.file_size}; remove it"
                )
            return self._open().read(member)
        except _ZIP_ERRORS as error:
            raise ImageError(
                f"{self.path(index)} cannot be read ({error}); "
                "pack the archive again, without a password"
            ) from error

    def path(self, index: int) -> str:
        return f"{self.location}/{self._prefix}{self.names[index]}"

    def entries(self) -> list[str]:
        """Return the names of all members, images or not."""
        return self._open().namelist()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_archive": None}

    def _open(self) -> zipfile.ZipFile:
        # A forked worker shares its parent's file position, so each process opens its own.
        if self._archive is None or self._process != os.getpid():
            try:
                self._archive = zipfile.ZipFile(self.location)
            except (zipfile.BadZipFile, NotImplementedError) as error:
                raise ImageError(
                    f"{self.location} is neither a folder nor a readable zip archive ({error}); "
                    "give a folder, or pack the archive again"
                ) from error
            self._process = os.getpid()
        return self._archive


class LmdbSource(ImageSource):
    """Images that are the values of an LMDB database, as LSUN publishes them.

    Names are the keys, in the order of the database. Values are read one at a time, and no lock is
    taken, so a read-only disk works.

    Args:
        folder: The folder that holds `data.mdb`.

    Raises:
        ImageError: The database is truncated or damaged.
    """

    location: Path

    def __init__(self, folder: str | Path) -> None:
        self.location = Path(folder)
        names = Keys()
        pages, ends = [], []
        with self._open() as database:
            for leaf in database.leaves():
                for key in leaf.keys:
                    names.append(key)
                pages.append(leaf.page)
                ends.append(len(names))
        self.names = names
        self._pages = np.array(pages, dtype=np.int64)
        self._ends = np.array(ends, dtype=np.int64)

    def read(self, index: int) -> bytes:
        key = self.names[index].encode("utf-8", "surrogateescape")
        position = int(np.searchsorted(self._ends, index, side="right"))
        entry = index - (int(self._ends[position - 1]) if position else 0)
        with self._open() as database:
            leaf = database.leaf(int(self._pages[position]))
            if leaf.keys[entry : entry + 1] != [key]:
                raise ImageError(f"{self.path(index)} has been removed; start the run again")
            if (size := database.value_size(leaf, entry)) > MAX_BYTES:
                raise ImageError(
                    f"{self.path(index)} must be at most {MAX_BYTES} bytes, got {size}; remove it"
                )
            return database.value(leaf, entry)

    @contextmanager
    def _open(self) -> Iterator[Database]:
        # Once per image, as forked processes would share a file's position.
        try:
            with Database(self.location / LMDB_FILE) as database:
                yield database
        except (DatabaseError, OSError) as error:
            raise ImageError(
                f"{self.location} is no readable LMDB database ({error}); fetch and unpack it again"
            ) from error


def open_source(root: str | Path, *, key: str = "data.root") -> ImageSource:
    """Open a folder or zip archive of images, or an LMDB database; errors name `key`.

    An LMDB database is a folder with `data.mdb`, or a folder with one such folder and no image.

    Raises:
        FileNotFoundError: `root` does not exist.
        ImageError: It is a file but not a usable zip archive, or a damaged database.
        ValueError: It holds no image, or is empty.
    """
    path = user_path(root, key=key)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; set {key} to a folder or zip of images")
    source = _open_folder(path, key) if path.is_dir() else ZipSource(path)
    if not len(source):
        raise ValueError(
            f"{path} must hold at least one image, got none; "
            f"{key} accepts a folder or zip with files ending in {', '.join(SUFFIXES)}, or an LMDB "
            f"database{it_holds(source.passed_over)}{_found_instead(path, source)}"
        )
    warn_of_passed_over(source.location, source.passed_over)
    return source


def load_training_images(root: str | Path, resolution: int) -> Tensor:
    """Read all images of a folder or zip into one uint8 tensor, shape $(N, 3, R, R)$.

    Raises:
        ImageError: An image cannot be read.
    """
    source = open_source(root)
    images = torch.empty(len(source), 3, resolution, resolution, dtype=torch.uint8)
    for index in range(len(source)):
        pixels = read_rgb(source.read(index), name=source.path(index))
        images[index] = fit_square(pixels, resolution)
    return images


def load_extra(module: str, *, use: str) -> Any:  # noqa: ANN401 a module
    """Import a package of the optional extra `data`; the error message begins with `use`.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingPackageError(
            f"{use} needs the package {package}: {install('data')}"
        ) from error


def read_file(path: Path) -> bytes:
    """Read the bytes of an image file.

    Raises:
        ImageError: It is not a regular file, is too large, or cannot be read.
    """
    try:
        # Reading a named pipe would block for ever.
        if not path.is_file():
            raise ImageError(f"{path} is not a readable file; remove it")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ImageError(f"{path} must be at most {MAX_BYTES} bytes, got {size}; remove it")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error}); check its permissions") from error


def _open_folder(path: Path, key: str) -> ImageSource:
    if (path / LMDB_FILE).is_file():
        return LmdbSource(path)
    source = FolderSource(path)
    databases = sorted(file.parent for file in path.glob(f"*/{LMDB_FILE}"))
    if len(source) or not databases:
        return source
    if len(databases) > 1:
        names = ", ".join(database.name for database in databases)
        raise ValueError(f"{path} must hold one LMDB database, got {names}; set {key} to one")
    return LmdbSource(databases[0])


def _found_instead(path: Path, source: ImageSource) -> str:
    entries = source.entries() if isinstance(source, ZipSource) else files_below(path)
    for name in islice(entries, 10_000):
        if not is_hidden(name) and name.endswith(PACKED):
            return f"; unpack {name} that is in it"
        if PurePosixPath(name).name == LMDB_FILE:
            return "; this zip holds an LMDB database: unpack it first"
    return ""


def _kind(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    def start() -> bytes:
        try:
            with archive.open(member) as file:
                return file.read(START)
        except _ZIP_ERRORS as error:
            raise OSError from error

    return LINK if _is_link(member) else kind_of(member.filename, start)


def _is_link(member: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(member.external_attr >> 16)


def _check_link(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    try:
        target = archive.read(member).decode() if member.file_size <= _LONGEST_PATH else ""
    except (*_ZIP_ERRORS, UnicodeDecodeError):
        target = ""
    place = posixpath.normpath(posixpath.join(posixpath.dirname(member.filename), target))
    if not target or place.startswith("/") or place.split("/")[0] == "..":
        raise ImageError(
            f"{path} must hold no links that lead out of it, got {member.filename!r}; pack it again"
        )


def _check_member(member: str, archive: Path) -> None:
    # Archives packed on Windows may have backslashes and a drive letter.
    parts = member.replace("\\", "/").split("/")
    if parts[0] == "" or parts[0].endswith(":") or ".." in parts:
        raise ImageError(
            f"{archive} must hold relative names without .., got {member!r}; pack it again"
        )
