"""Known sources of a model's weights: find what was fetched, or fetch it."""

import hashlib
import inspect
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ood_sampler.faults import install
from ood_sampler.models.layout import (
    INDEX,
    parts_of,
    read_json,
    refuse_other_networks,
    wanted_parts,
)

_TIMEOUT = 30.0
"""Seconds until a silent server counts as down."""

_RETRIES = 3
"""Broken transfers to continue before a source is given up."""

_WEB_PAGE = (b"<!doctype", b"<html", b"<?xml")


class FetchError(OSError):
    """A source did not deliver the weights; the message says why, in half a sentence."""


@dataclass(frozen=True, kw_only=True)
class WeightSource(ABC):
    """A known place of a model's weights.

    Attributes:
        megabytes: to fetch, about.
    """

    megabytes: float | None = None

    @property
    @abstractmethod
    def address(self) -> str:
        """Address to open in a browser."""

    @property
    @abstractmethod
    def entry(self) -> str:
        """Name in the model's cache folder; that of a folder ends with a slash."""

    @abstractmethod
    def find(self, folder: Path) -> Path | None:
        """Look for whole weights in `folder`, without the network."""

    @abstractmethod
    def fetch(self, folder: Path) -> None:
        """Put the weights into `folder` as `entry`, whole or not at all; a second call resumes.

        Raises:
            FetchError: they cannot be fetched.
        """


@dataclass(frozen=True, kw_only=True)
class HubPipeline(WeightSource):
    """A pipeline on the Hugging Face hub.

    Attributes:
        hub: its id, `owner/name`.
    """

    hub: str

    @property
    def address(self) -> str:
        return f"https://huggingface.co/{self.hub}"

    @property
    def entry(self) -> str:
        return self.hub.replace("/", "--") + "/"

    def find(self, folder: Path) -> Path | None:
        place = folder / self.entry
        return place if parts_of(place) else self._find_in_hub_cache()

    def _find_in_hub_cache(self) -> Path | None:
        """The pipeline in the user's own Hugging Face cache, as other programs left it there."""
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        for sign in ("unet/config.json", "unet_ema/config.json", "config.json"):
            try:
                found = try_to_load_from_cache(self.hub, sign)
            except HFValidationError:
                return None
            if isinstance(found, str):
                snapshot = Path(found).parents[sign.count("/")]
                return snapshot if parts_of(snapshot) else None
        return None

    def fetch(self, folder: Path) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        # base of the errors of whichever HTTP library the hub's client uses
        errors: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, OSError, ValueError)
        try:
            info = HfApi().model_info(self.hub, files_metadata=True, timeout=_TIMEOUT)
            files = {sibling.rfilename: sibling for sibling in info.siblings or ()}
            self._fetch_files(folder / self.entry, files, revision=str(info.sha))
        except FetchError:
            raise
        except errors as error:
            raise FetchError(_in_one_line(error)) from error

    def _fetch_files(self, folder: Path, files: Mapping[str, Any], *, revision: str) -> None:
        def fetch(part: str) -> Path:
            lfs = files[part].lfs
            self._fetch_part(
                folder / part,
                part,
                revision=revision,
                size=files[part].size,
                sha256=None if lfs is None else lfs.sha256,
            )
            return folder / part

        if INDEX in files:
            refuse_other_networks(read_json(fetch(INDEX)), self.hub)
        # an index of shards is fetched here, to know them
        parts = wanted_parts(files, fetch).files
        if lacking := [part for part in parts if part not in files]:
            raise FetchError(
                f"{self.hub} holds no diffusers pipeline of one UNet2DModel: it lacks "
                f"{', '.join(lacking)}"
            )
        for part in parts:
            fetch(part)

    def _fetch_part(
        self, target: Path, part: str, *, revision: str, size: int | None, sha256: str | None
    ) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        if target.is_file():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        # a revision's files never change: a partial one is resumed
        partial = target.with_name(f".{target.name}.{revision[:12]}.partial")
        if size is not None and partial.is_file() and partial.stat().st_size > size:
            partial.unlink()
        with partial.open("ab") as file:
            http_get(
                hf_hub_url(self.hub, part, revision=revision),
                file,
                resume_size=file.tell(),
                headers=build_hf_headers(),
                expected_size=size,
                displayed_filename=part,
            )
        if sha256 is not None and (got := sha256_of(partial)) != sha256:
            partial.unlink()
            raise FetchError(f"{part} arrived with SHA-256 {got}, the hub announced {sha256}")
        _publish(partial, target)


@dataclass(frozen=True, kw_only=True)
class CheckpointFile(WeightSource):
    """A checkpoint file somewhere.

    Attributes:
        file: its published name.
        md5: its MD5, where that is published.
        sha256: its SHA-256, likewise.
        raw_md5: MD5 of the raw weights that are published beside these averaged ones.
    """

    file: str
    md5: str | None = None
    sha256: str | None = None
    raw_md5: str | None = None

    def __post_init__(self) -> None:
        if not self.file or Path(self.file).name != self.file:
            raise ValueError(f"file in model.sources must be a file name, got {self.file!r}")
        for algorithm, digits in (("md5", 32), ("sha256", 64), ("raw_md5", 32)):
            value = getattr(self, algorithm)
            if value is not None and not re.fullmatch(rf"[0-9a-f]{{{digits}}}", str(value)):
                raise ValueError(
                    f"{algorithm} in model.sources must be {digits} hexadecimal digits in lower "
                    f"case, got {value!r}"
                )

    @property
    def entry(self) -> str:
        return self.file

    def find(self, folder: Path) -> Path | None:
        return folder / self.file if (folder / self.file).is_file() else None

    def difference(self, file: Path, *, raw_alone: bool = False) -> str | None:
        """Say how a file differs from the published one, as far as checksums are known.

        Args:
            file: whatever its name.
            raw_alone: whether anything but the raw weights will do.
        """
        if (self.md5 or self.raw_md5) and (got := checksum_of(file, "md5")) != self.md5:
            if got == self.raw_md5:
                return f"has the MD5 {got} of the raw weights, not of the averaged ones"
            if self.md5 and not raw_alone:
                return f"has the MD5 {got}, the published file {self.md5}"
        if self.sha256 and not raw_alone and (got := sha256_of(file)) != self.sha256:
            return f"has the SHA-256 {got}, the published file {self.sha256}"
        return None


@dataclass(frozen=True, kw_only=True)
class DriveFile(CheckpointFile):
    """A checkpoint file on Google Drive.

    Attributes:
        drive: the file's id there.
    """

    drive: str

    @property
    def address(self) -> str:
        return f"https://drive.google.com/file/d/{self.drive}/view"

    def fetch(self, folder: Path) -> None:
        try:
            import gdown
            from gdown import exceptions
        except ImportError as error:
            raise FetchError(f"needs gdown: {install('data')}") from error
        # the second is its base, of gdown 6 and later
        refusals = (exceptions.FileURLRetrievalError, getattr(exceptions, "DownloadError", OSError))
        partial = folder / f".{self.file}.partial"
        options = {"resume": True, "timeout": _TIMEOUT, "retries": _RETRIES}
        try:
            gdown.download(id=self.drive, output=str(partial), **_accepted(gdown.download, options))
            if not partial.is_file():
                raise FetchError("Google Drive did not send the file")
            _refuse_web_page(partial)
            if difference := self.difference(partial):
                partial.unlink()
                raise FetchError(f"the file that arrived {difference}")
            _publish(partial, folder / self.file)
        except FetchError:
            raise
        # KeyError: an answer without the headers that gdown counts on
        except (*refusals, OSError, KeyError) as error:
            raise FetchError(_in_one_line(_innermost(error))) from error


@dataclass(frozen=True, kw_only=True)
class PageFile(CheckpointFile):
    """A page from which a person must fetch a checkpoint file.

    Attributes:
        page: its address.
    """

    page: str

    @property
    def address(self) -> str:
        return self.page

    def fetch(self, folder: Path) -> None:
        raise FetchError("must be fetched by hand")


_KINDS: Mapping[str, Callable[..., WeightSource]] = {
    "hub": HubPipeline,
    "drive": DriveFile,
    "page": PageFile,
}


def parse_source(entry: Mapping[str, Any]) -> WeightSource:
    """Make a source of its entry in `model.sources`.

    Args:
        entry: `hub`, or `drive` and `file`, or `page` and `file`; `megabytes` if known; of a file
            `md5`, `sha256` and `raw_md5` if known.

    Raises:
        ValueError: it has other keys, or a file that is no plain name.
    """
    kinds = [kind for kind in _KINDS if kind in entry]
    if len(kinds) == 1:
        # keys that the kind does not have, or lacks
        with suppress(TypeError):
            return _KINDS[kinds[0]](**entry)
    raise ValueError(
        "model.sources must hold entries of the form {hub: owner/name}, "
        f"{{drive: id, file: name}} or {{page: address, file: name}}, got {dict(entry)}"
    )


def _refuse_web_page(file: Path) -> None:
    """Drive answers with a page when it refuses a file, for example over quota."""
    with file.open("rb") as opened:
        start = opened.read(512).lstrip().lower()
    if start.startswith(_WEB_PAGE):
        file.unlink()
        raise FetchError(
            "Google Drive sent a web page instead of the file, as it does when too many have "
            "fetched it lately; try again tomorrow, or with a browser"
        )


def _publish(partial: Path, target: Path) -> None:
    """Rename a complete file to its final name, which never holds a partial one."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(target)


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    return checksum_of(file, "sha256")


def checksum_of(file: Path, algorithm: str) -> str:
    """Checksum of a file's bytes, read in pieces; against mix-ups, not against forgery."""
    with file.open("rb") as opened:
        return hashlib.file_digest(
            opened, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()


def _accepted(function: Callable[..., object], options: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the options that a function has: those of `gdown.download` differ by version."""
    known = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known):
        return dict(options)
    names = {parameter.name for parameter in known}
    return {name: value for name, value in options.items() if name in names}


def _innermost(error: BaseException) -> BaseException:
    """First cause of an error: gdown wraps it in advice that does not help here."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + "…"
