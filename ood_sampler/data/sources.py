"""Where encoded pictures come from: a folder or a zip archive, in an order that never varies."""

import lzma
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ood_sampler.data.images import ImageError, fit_square, read_rgb

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")

MAX_BYTES = 2**30
"""No picture within the pixel limit needs more; a larger zip member is taken for a bomb."""


class ImageSource(ABC):
    """Encoded pictures by index, sorted by name; safe to hand to worker processes."""

    location: Path
    """The folder or archive."""

    names: list[str]
    """Paths relative to `location` with forward slashes, sorted by code point."""

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Return the encoded bytes of picture `index`.

        Raises:
            ImageError: The file cannot be read.
        """

    def path(self, index: int) -> str:
        """Say where picture `index` lies, for messages."""
        return f"{self.location}/{self.names[index]}"


class FolderSource(ImageSource):
    """Pictures below a folder; hidden files, hidden folders and linked folders are left out."""

    def __init__(self, root: str | Path) -> None:
        self.location = Path(root)
        self.names = sorted(
            name
            for folder, _, files in os.walk(self.location, onerror=_raise)
            for file in files
            if _is_picture(name := Path(folder, file).relative_to(self.location).as_posix())
        )

    def read(self, index: int) -> bytes:
        path = self.location / self.names[index]
        try:
            # Reading a named pipe would wait for ever.
            if not path.is_file():
                raise ImageError(f"{path} is not a readable file; remove it")
            if (size := path.stat().st_size) > MAX_BYTES:
                raise ImageError(f"{path} must be at most {MAX_BYTES} bytes, got {size}; remove it")
            return path.read_bytes()
        except OSError as error:
            raise ImageError(f"{path} cannot be read ({error}); check its permissions") from error


class ZipSource(ImageSource):
    """Pictures in a zip archive, read in place; nothing is ever extracted.

    Raises:
        ImageError: The file is not a zip archive, or a member has an absolute path or `..` in it.
    """

    def __init__(self, path: str | Path) -> None:
        self.location = Path(path)
        self._archive: zipfile.ZipFile | None = None
        self._process = -1
        members = self._open().namelist()
        for member in members:
            _check_member(member, self.location)
        self.names = sorted({member for member in members if _is_picture(member)})

    def read(self, index: int) -> bytes:
        try:
            member = self._open().getinfo(self.names[index])
            if member.file_size > MAX_BYTES:
                raise ImageError(
                    f"{self.path(index)} must be at most {MAX_BYTES} bytes, "
                    f"got {member.file_size}; remove it"
                )
            return self._open().read(member)
        except (
            zipfile.BadZipFile,
            OSError,
            EOFError,
            zlib.error,
            lzma.LZMAError,
            # NotImplementedError and an encrypted member's error derive from it.
            RuntimeError,
        ) as error:
            raise ImageError(
                f"{self.path(index)} cannot be read ({error}); "
                "pack the archive again, without a password"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_archive": None}

    def _open(self) -> zipfile.ZipFile:
        # A forked worker shares its parent's file position, so that each process opens its own.
        if self._archive is None or self._process != os.getpid():
            try:
                self._archive = zipfile.ZipFile(self.location)
            except zipfile.BadZipFile as error:
                raise ImageError(
                    f"{self.location} is neither a folder nor a readable zip archive ({error}); "
                    "give a folder, or pack the archive again"
                ) from error
            self._process = os.getpid()
        return self._archive


def open_source(root: str | Path, *, key: str = "data.root") -> ImageSource:
    """Open a folder or a zip archive of pictures; `key` names the setting in errors.

    Raises:
        FileNotFoundError: Nothing is there.
        ImageError: A file that is not a usable zip archive.
        ValueError: It holds no picture.
    """
    path = Path(root).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; set {key} to a folder or zip of pictures")
    source: ImageSource = FolderSource(path) if path.is_dir() else ZipSource(path)
    if not len(source):
        raise ValueError(
            f"{path} must hold at least one picture, got none; "
            f"{key} accepts a folder or zip with files ending in {', '.join(SUFFIXES)}"
        )
    return source


def load_training_images(root: str | Path, resolution: int) -> Tensor:
    """Read all pictures of a folder or zip into one uint8 tensor, shape $(N, 3, R, R)$.

    Raises:
        ImageError: A picture cannot be read.
    """
    source = open_source(root)
    images = torch.empty(len(source), 3, resolution, resolution, dtype=torch.uint8)
    for index in range(len(source)):
        pixels = read_rgb(source.read(index), name=source.path(index))
        images[index] = fit_square(pixels, resolution)
    return images


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and not name.endswith("/") and path.suffix.lower() in SUFFIXES


def _check_member(member: str, archive: Path) -> None:
    # Archives packed on Windows may separate by backslashes and start with a drive letter.
    parts = member.replace("\\", "/").split("/")
    if parts[0] == "" or parts[0].endswith(":") or ".." in parts:
        raise ImageError(
            f"{archive} must hold relative names without .., got {member!r}; pack it again"
        )


def _raise(error: OSError) -> None:
    raise error
