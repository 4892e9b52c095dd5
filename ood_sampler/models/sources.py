"""Known places of a model's weights: how to find what they gave, and how to fetch it."""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ood_sampler.faults import install

_INDEX = "model_index.json"
"""File of a pipeline that names its parts."""

_TIMEOUT = 30.0
"""Seconds to wait for a server that says nothing."""

_RETRIES = 3
"""Broken transfers to continue before a source is given up."""

_WEB_PAGE = (b"<!doctype", b"<html", b"<?xml")


def pipeline_parts(there: Callable[[str], bool]) -> list[str] | None:
    """Files of a diffusers pipeline that a denoiser is made of; None if one is not there.

    Two layouts are published: `unet/` and `scheduler/` folders, and all files at the root.

    Args:
        there: tells whether the pipeline has a file, by its path relative to the root.

    Returns:
        Network config, scheduler config and weights, in this order.
    """
    for network, scheduler in (("unet/", "scheduler/"), ("", "")):
        weights = f"{network}diffusion_pytorch_model"
        wanted = [
            [f"{network}config.json"],
            [f"{scheduler}scheduler_config.json"],
            [f"{weights}.safetensors", f"{weights}.bin"],
        ]
        found = [next(filter(there, alternatives), None) for alternatives in wanted]
        parts = [part for part in found if part is not None]
        if len(parts) == len(wanted):
            return parts
    return None


def parts_of(folder: Path) -> list[str] | None:
    """`pipeline_parts` of a folder."""
    return pipeline_parts(lambda part: (folder / part).is_file())


def refuse_other_networks(index: object, place: object) -> None:
    """See that a pipeline has no other networks, such as the decoder of latent diffusion.

    Args:
        index: content of its `model_index.json`.
        place: of the pipeline, for messages.

    Raises:
        ValueError: it has, or its network is no `UNet2DModel`.
    """
    if not isinstance(index, Mapping):
        raise ValueError(f"model_index.json must hold a JSON object, got {type(index).__name__}")
    parts = {name: part[-1] for name, part in index.items() if isinstance(part, list) and part}
    others = [name for name in parts if name not in ("unet", "scheduler") and parts[name]]
    if others:
        raise ValueError(
            f"{place} must hold a pipeline of unet and scheduler alone, got {', '.join(others)}: "
            "models of latents or of text are not implemented"
        )
    if parts.get("unet", "UNet2DModel") != "UNet2DModel":
        raise ValueError(f"the network must be a UNet2DModel, got {parts['unet']} in {place}")


class FetchError(OSError):
    """A source did not give the weights; the message says why, in half a sentence."""


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A known place of a model's weights.

    Attributes:
        megabytes: to fetch, about.
    """

    megabytes: float | None = None

    @property
    @abstractmethod
    def address(self) -> str:
        """What a person can open in a browser."""

    @property
    @abstractmethod
    def entry(self) -> str:
        """Name in the model's cache folder, of a folder with a slash at its end."""

    @abstractmethod
    def find(self, folder: Path) -> Path | None:
        """Look for whole weights in `folder`, without the network."""

    @abstractmethod
    def fetch(self, folder: Path) -> None:
        """Put the weights into `folder` as `entry`, whole or not at all; a second call continues.

        Raises:
            FetchError: they cannot be had.
        """


@dataclass(frozen=True, kw_only=True)
class HubSource(Source):
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

        def cached(part: str) -> str | None:
            found = try_to_load_from_cache(self.hub, part)
            return found if isinstance(found, str) else None

        try:
            parts = pipeline_parts(lambda part: cached(part) is not None)
        except HFValidationError:
            return None
        if parts is None:
            return None
        network = Path(str(cached(parts[0])))
        return network.parents[parts[0].count("/")]

    def fetch(self, folder: Path) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        # whatever HTTP library the hub's client is built on raises errors of this base
        errors: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, OSError, ValueError)
        try:
            info = HfApi().model_info(self.hub, files_metadata=True, timeout=_TIMEOUT)
            files = {sibling.rfilename: sibling for sibling in info.siblings or ()}
            parts = pipeline_parts(files.__contains__)
            if parts is None:
                raise FetchError(f"{self.hub} holds no diffusers pipeline of one UNet2DModel")
            # the weights last: a folder without them is not taken for a pipeline
            for part in [*({_INDEX} & set(files)), *parts]:
                lfs = files[part].lfs
                self._fetch_part(
                    folder / self.entry / part,
                    part,
                    revision=str(info.sha),
                    size=files[part].size,
                    sha256=None if lfs is None else lfs.sha256,
                )
                if part == _INDEX:
                    index = json.loads((folder / self.entry / part).read_text(encoding="utf-8"))
                    refuse_other_networks(index, self.hub)
        except FetchError:
            raise
        except errors as error:
            raise FetchError(_in_one_line(error)) from error

    def _fetch_part(
        self, target: Path, part: str, *, revision: str, size: int | None, sha256: str | None
    ) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        if target.is_file():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        # a revision's files never change: what is there of one is continued, not begun again
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
class FileSource(Source):
    """A checkpoint file somewhere.

    Attributes:
        file: its published name.
    """

    file: str

    def __post_init__(self) -> None:
        if not self.file or Path(self.file).name != self.file:
            raise ValueError(f"file in model.sources must be a file name, got {self.file!r}")

    @property
    def entry(self) -> str:
        return self.file

    def find(self, folder: Path) -> Path | None:
        return folder / self.file if (folder / self.file).is_file() else None


@dataclass(frozen=True, kw_only=True)
class DriveSource(FileSource):
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
            from gdown.exceptions import DownloadError
        except ImportError as error:
            raise FetchError(f"needs gdown: {install('data')}") from error
        partial = folder / f".{self.file}.partial"
        try:
            gdown.download(
                id=self.drive,
                output=str(partial),
                resume=True,
                timeout=_TIMEOUT,
                retries=_RETRIES,
            )
            _refuse_web_page(partial)
            _publish(partial, folder / self.file)
        except FetchError:
            raise
        # KeyError: an answer without the headers that gdown counts on
        except (DownloadError, OSError, KeyError) as error:
            raise FetchError(_in_one_line(_innermost(error))) from error


@dataclass(frozen=True, kw_only=True)
class PageSource(FileSource):
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


_KINDS: Mapping[str, Callable[..., Source]] = {
    "hub": HubSource,
    "drive": DriveSource,
    "page": PageSource,
}


def parse_source(entry: Mapping[str, Any]) -> Source:
    """Make a source of its entry in `model.sources`.

    Args:
        entry: `hub`, or `drive` and `file`, or `page` and `file`; and `megabytes` if known.

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
    """Drive answers with a page where it will not give the file, over its quota for example."""
    with file.open("rb") as opened:
        start = opened.read(512).lstrip().lower()
    if start.startswith(_WEB_PAGE):
        file.unlink()
        raise FetchError(
            "Google Drive sent a web page instead of the file, as it does when too many have "
            "fetched it lately; try again tomorrow, or with a browser"
        )


def _publish(partial: Path, target: Path) -> None:
    """Give a whole file its name, so that it never looks whole before it is."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(target)


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _innermost(error: BaseException) -> BaseException:
    """What went wrong first: gdown wraps it in advice that is no use here."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + "…"
