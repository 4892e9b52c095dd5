"""Where the weights of a model are, and how they get there: found, fetched, checked.

Nothing here needs torch, so that a list of models or a message about missing weights is there at
once.
"""

import json
import logging
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ood_sampler.models.layout import (
    is_pipeline,
    parts_of,
    pipeline_files,
    refuse_other_folders,
)
from ood_sampler.models.sources import (
    CheckpointFile,
    FetchError,
    HubPipeline,
    PageFile,
    parse_source,
    sha256_of,
)

log = logging.getLogger(__name__)

ASSETS = Path(__file__).parents[1] / "assets"

RECORD = "sha256.json"
"""File beside the weights in the cache: their checksums at first use."""

_CHECKPOINTS = (".pt", ".pth", ".ckpt", ".safetensors", ".bin")

_PIPELINE = (
    "whole diffusers pipeline (config.json, scheduler_config.json and "
    "diffusion_pytorch_model.safetensors or .bin, a variant or shards)"
)

_OTHERS = "model=diffusers (of a folder) or model=checkpoint (of a file)"
"""Configurations for a user's own weights, under a name of their own."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def cache_folder() -> Path:
    """Folder of downloads: `OOD_SAMPLER_CACHE`, else below the user's cache."""
    chosen = os.environ.get("OOD_SAMPLER_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ood_sampler"


def offline() -> bool:
    """Whether the user forbids the network, through the hub's own variable."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


@dataclass(frozen=True)
class Weights:
    """Weights found on disk.

    Attributes:
        path: a pipeline folder or a checkpoint file.
        record: file of the checksums at first use; None for what the user named and what ships
            with the package.
        key: of `path` in the record, a folder's with a slash at its end.
        known: the source whose published checksums the file must have; of what the user named, it
            must not be the raw weights of that source.
    """

    path: Path
    record: Path | None = None
    key: str = ""
    known: CheckpointFile | None = None

    @cached_property
    def checksums(self) -> dict[str, str]:
        """File below `path` (empty for `path` itself) -> SHA-256, each hashed once and compared.

        Raises:
            FileNotFoundError: a file of a pipeline folder is missing.
            ValueError: a file is not what it was at first use, or not the published one.
        """
        self._refuse_other_weights()
        recorded = self._recorded()
        checksums = {}
        for file in self._files():
            part = "" if file == self.path else file.relative_to(self.path).as_posix()
            got, expected = sha256_of(file), recorded.get(self._entry(part))
            if expected is not None and got != expected:
                raise ValueError(
                    f"{file} must have the SHA-256 {expected} of its first use, got {got}: remove "
                    f"{file} to have it fetched again, or remove {self.record} if the change was "
                    "intended"
                )
            checksums[part] = got
        return checksums

    def remember(self) -> None:
        """Record the checksums, once the weights have loaded; earlier records stay."""
        recorded = self._recorded()
        new = {self._entry(part): sha256 for part, sha256 in self.checksums.items()}
        if self.record is None or new.keys() <= recorded.keys():
            return
        partial = self.record.with_name(f".{self.record.name}.{secrets.token_hex(8)}")
        try:
            self.record.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps({**new, **recorded}, indent=1, sort_keys=True) + "\n")
            partial.replace(self.record)
        except OSError as error:
            log.warning("%s cannot be written (%s): no checksum is kept", self.record, error)

    def _refuse_other_weights(self) -> None:
        """Refuse a second set of weights under one name."""
        if self.known is None or not self.path.is_file():
            return
        difference = self.known.difference(self.path, raw_alone=self.record is None)
        if difference is None:
            return
        place = f"model=checkpoint model.name=… model.path={self.path}"
        remedy = f"use it under a name of its own, {place}"
        if self.record is not None:
            remedy = f"remove it to have {self.known.file} fetched again, or move it and {remedy}"
        raise ValueError(f"{self.path} {difference}: {remedy}")

    def _files(self) -> list[Path]:
        return [self.path] if self.path.is_file() else pipeline_files(self.path)

    def _entry(self, part: str) -> str:
        return self.key + part

    def _recorded(self) -> dict[str, str]:
        if self.record is None or not self.record.is_file():
            return {}
        try:
            recorded = dict(json.loads(self.record.read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{self.record} must map files to checksums as JSON, got: {error}; remove it, and "
                "it is written again"
            ) from error
        return {str(file): str(sha256) for file, sha256 in recorded.items()}


class WeightFiles:
    """The weights of one model, on disk or not.

    Looked for in this order: the path the user gave; the model's folder in the cache; the user's
    Hugging Face cache, for hub models; the sources.

    Args:
        name: of the model, and of its folder in the cache.
        path: a pipeline folder, a checkpoint file or a folder that holds one of the `sources`'
            files; a bare name at which there is none in the working directory is a pipeline that
            ships with the package. Or the hub id of a pipeline. None where only `sources` are
            known.
        sources: entries as `parse_source` takes them, tried in their order.

    Raises:
        ValueError: an entry of `sources` is malformed.
    """

    def __init__(
        self, *, name: str, path: str | None, sources: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self.name = name
        self.path = path
        self.sources = [parse_source(entry) for entry in sources]
        if path is not None and not sources and _names_hub_model(path):
            self.sources = [HubPipeline(hub=path)]

    @property
    def folder(self) -> Path:
        """The model's folder in the cache."""
        plain = re.sub(r"[^\w.-]", "_", self.name).lstrip(".")
        return cache_folder() / "models" / plain

    def find(self) -> Weights | None:
        """Look everywhere but on the network; None if nothing complete is found."""
        if self.path is not None:
            for path in map(self._at, self._places()):
                if path is not None:
                    return Weights(path, known=self._published)
            if not self._is_hub_model:
                return None
        for source in self.sources:
            path = source.find(self.folder)
            if path is not None:
                known = source if isinstance(source, CheckpointFile) else None
                return Weights(path, self.folder / RECORD, source.entry, known)
        return None

    def obtain(self) -> Weights:
        """Find the weights, or else fetch them.

        Raises:
            FileNotFoundError: they are neither on disk nor to be fetched; says which file, every
                known source, the folder where it is looked for, and the key to set.
        """
        found = self.find()
        if found is not None:
            return found
        if self.path is not None and not self._is_hub_model:
            raise FileNotFoundError(self._missing_path())
        reasons: list[str] = []
        if offline():
            reasons.append("HF_HUB_OFFLINE is set")
        else:
            with self._lock(reasons):
                found = self.find() or self._fetch(reasons)
        if found is None:
            raise FileNotFoundError(self._missing(reasons))
        return found

    def missing_megabytes(self) -> float | None:
        """Megabytes that `obtain` would fetch now, NaN where not known; None if nothing.

        Raises:
            FileNotFoundError: the weights are missing and no source can be fetched from.
        """
        if self.find() is not None:
            return None
        if self.path is not None and not self._is_hub_model:
            raise FileNotFoundError(self._missing_path())
        fetched = [source for source in self.sources if not isinstance(source, PageFile)]
        if not fetched:
            raise FileNotFoundError(self._missing([]))
        return next((s.megabytes for s in fetched if s.megabytes is not None), math.nan)

    @property
    def _published(self) -> CheckpointFile | None:
        """The source whose raw weights are known."""
        files = [source for source in self.sources if isinstance(source, CheckpointFile)]
        return next((source for source in files if source.raw_md5), None)

    @property
    def _is_hub_model(self) -> bool:
        """Whether the path is a hub id, and not a path on disk."""
        named = any(isinstance(s, HubPipeline) and s.hub == self.path for s in self.sources)
        return named and not any(place.exists() for place in self._places())

    def _places(self) -> list[Path]:
        given = Path(str(self.path)).expanduser()
        is_bare = given.name == self.path and self.path not in ("", "..")
        return [given, ASSETS / given] if is_bare else [given]

    def _at(self, place: Path) -> Path | None:
        """Complete weights at a place; among the package's assets, pipelines alone."""
        if parts_of(place):
            return place
        if place.parent == ASSETS:
            return None
        if place.is_file():
            return place
        files = [s.find(place) for s in self.sources if isinstance(s, CheckpointFile)]
        return next((file for file in files if file is not None), None)

    def _fetch(self, reasons: list[str]) -> Weights | None:
        for source in self.sources:
            if isinstance(source, PageFile):
                continue
            size = "" if source.megabytes is None else f" ({source.megabytes:,.0f} MB)"
            log.info("fetching %s%s to %s", source.address, size, self.folder)
            try:
                source.fetch(self.folder)
            except FetchError as error:
                reasons.append(f"{source.address}: {error}")
                continue
            return self.find()
        return None

    @contextmanager
    def _lock(self, reasons: list[str]) -> Iterator[None]:
        """Let one process fetch this model at a time; the others find what it fetched."""
        from filelock import FileLock, Timeout

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                log.info("another process is fetching %s, waiting for it", self.name)
                lock.acquire()
        except NotImplementedError:
            log.warning("%s cannot be locked: start no other run meanwhile", self.folder)
        except OSError as error:
            reasons.append(f"{self.folder} cannot be written ({error.strerror})")
            raise FileNotFoundError(self._missing(reasons)) from error
        try:
            yield
        finally:
            lock.release()

    def _missing_path(self) -> str:
        places = self._places()
        if places[0].is_dir() and is_pipeline(places[0]):
            refuse_other_folders(places[0])
            pipeline_files(places[0])
        looked = f"looked for {' and '.join(map(str, places))}"
        remedy = "a diffusers pipeline folder or a checkpoint file"
        if places[0].is_dir():
            known = [source.file for source in self.sources if isinstance(source, CheckpointFile)]
            wanted = " nor ".join(dict.fromkeys([_PIPELINE, *known]))
            looked = f"{places[0]} has no {wanted}"
            files = sorted(file.name for file in places[0].iterdir() if file.suffix in _CHECKPOINTS)
            if files:
                looked += f", but {', '.join(files)}"
                remedy = f"the file itself, as {places[0] / files[0]}"
        message = (
            f"the weights of model {self.name} are missing: {looked}; set model.path to {remedy}"
        )
        if self.sources:
            return (
                f"{message}, or to null: then {self._wanted()} is looked for in {self.folder}, and "
                "fetched if need be"
            )
        if len(places) > 1:
            return f"{message}, or install the package again if they came with it"
        return message

    def _missing(self, reasons: Sequence[str]) -> str:
        message = f"the weights of model {self.name} are missing"
        remedy = "set model.path to a diffusers pipeline folder or a checkpoint file"
        if not self.sources:
            return f"{message}, and no source of them is known: {remedy}"
        if reasons:
            message += f" and were not fetched ({'; '.join(reasons)})"
        places = str(self.folder)
        if any(isinstance(source, HubPipeline) for source in self.sources):
            places += " and the Hugging Face cache"
        return (
            f"{message}: looked in {places} for {self._wanted()}; get it by hand and put it into "
            f"{self.folder}, or {remedy}{self._left_over()}"
        )

    def _left_over(self) -> str:
        """Say which other weights are in the model's folder: earlier versions had other sources."""
        known = {source.entry.rstrip("/") for source in self.sources}
        found = sorted(
            place.name
            for place in (self.folder.iterdir() if self.folder.is_dir() else ())
            if place.name not in known and (place.suffix in _CHECKPOINTS or parts_of(place))
        )
        if not found:
            return ""
        return (
            f" ({', '.join(found)} in {self.folder} are other weights: use them under a name of "
            f"their own by {_OTHERS})"
        )

    def _wanted(self) -> str:
        """Files by their names in the cache, each with the addresses it is known at."""
        addresses: dict[str, list[str]] = {}
        for source in self.sources:
            addresses.setdefault(source.entry, []).append(source.address)
        return " or ".join(
            f"{entry} (from {' or '.join(known)})" for entry, known in addresses.items()
        )


def _names_hub_model(path: str) -> bool:
    return _HUB_ID.fullmatch(path) is not None and not path.endswith(_CHECKPOINTS)
