"""Data sets as they are published: found in the layouts in use, and explained where missing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from ood_sampler.data.domain import TargetDomain, picture_domain
from ood_sampler.data.images import ImageError
from ood_sampler.data.sources import (
    PACKED,
    ImageSource,
    LmdbSource,
    ZipSource,
    is_hidden,
    open_source,
)

WHOLE = "."
"""The folder of a layout that is the root itself."""


@dataclass(frozen=True)
class Origin:
    """What a user without a data set needs to know; `conf/data/` holds one for each."""

    what: str
    """Name and size of the data set."""

    where: str
    """Where it can be had."""

    licence: str
    """Its licence, or who may use it."""

    layout: str
    """The files expected below the root."""

    def request(self) -> str:
        """Return the sentences that tell how to come by the data set."""
        return (
            f"It is {self.what}, from {self.where} (licence: {self.licence}). "
            f"Expected layout: {self.layout}. Set data.root to it, or the environment variable "
            "OOD_SAMPLER_DATA to the folder that holds all data sets"
        )


def published_domain(
    *,
    name: str,
    root: str,
    layouts: Sequence[Sequence[str]],
    resolution: int,
    few_shot: int | None,
    held_out: int | None,
    seed: int,
    on_error: Literal["raise", "skip"],
    origin: Origin,
) -> TargetDomain:
    """Make a domain of a published data set, split as `folder_domain` says.

    Args:
        name: What the domain is called in tables.
        root: Folder, zip archive or LMDB database; one folder above or below the expected one
            will do.
        layouts: Pairs of folders below the root, one for few-shot and one for held-out pictures;
            the first pair that is there is used. Equal ones are split; `.` is the root itself.
        resolution: As in `folder_domain`, like the rest.
        few_shot: Likewise.
        held_out: Likewise.
        seed: Likewise.
        on_error: Likewise.
        origin: How to come by the data set.

    Raises:
        FileNotFoundError: The root does not exist, or has none of the layouts.
        ImageError: An archive or database is damaged, or a picture, with `on_error` of `raise`.
        ValueError: The root holds the layout several times, there are too few pictures, or an
            argument is out of range.
    """
    few_shot_source, held_out_source = _find(Path(str(root)).expanduser(), layouts, name, origin)
    return picture_domain(
        name=name,
        few_shot_source=few_shot_source,
        held_out_source=held_out_source,
        resolution=resolution,
        few_shot=few_shot,
        held_out=held_out,
        seed=seed,
        on_error=on_error,
    )


def missing_data(name: str, root: Path, origin: Origin) -> FileNotFoundError:
    """Return the error for a root that does not exist; it says how to come by the data set."""
    packed = [f for f in (root.with_name(root.name + suffix) for suffix in PACKED) if f.is_file()]
    beside = f"There is {packed[0]}: unpack it, or set data.root to it. " if packed else ""
    return FileNotFoundError(
        f"the data set {name} is missing: {root} does not exist. {beside}{origin.request()}"
    )


def _find(
    root: Path, layouts: Sequence[Sequence[str]], name: str, origin: Origin
) -> tuple[ImageSource, ImageSource | None]:
    if not root.exists():
        raise missing_data(name, root, origin)
    place = _Folder(root) if root.is_dir() else _Archive(root)
    for few_shot, held_out in layouts:
        if few_shot == held_out == WHOLE:
            source = _open_whole(root, origin)
            # A database below the root bears another name than that of this data set.
            if source.location == root or not isinstance(source, LmdbSource):
                return source, None
            continue
        bases = place.bases(few_shot, held_out)
        if len(bases) > 1:
            raise ValueError(
                f"{root} must hold the data set {name} once, got it in {' and '.join(bases)}; "
                "set data.root to one of them"
            )
        if bases and few_shot == held_out:
            return place.open(bases[0], few_shot), None
        if bases:
            return place.open(bases[0], few_shot), place.open(bases[0], held_out)
    raise FileNotFoundError(
        f"{root} does not hold the data set {name} in a known layout, it holds "
        f"{_listing(place.entries())}. {origin.request()}"
    )


def _open_whole(root: Path, origin: Origin) -> ImageSource:
    try:
        return open_source(root)
    except ImageError:
        raise
    except ValueError as error:
        raise ValueError(f"{error}. {origin.request()}") from error


class _Folder:
    """A folder, in which both parts of a layout are looked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def bases(self, few_shot: str, held_out: str) -> list[str]:
        """Find the folders at, above or right below the root that hold both parts."""
        parts = PurePosixPath(few_shot).parts
        whole = self.root.absolute()
        above = [whole.parents[len(parts) - 1]] if whole.parts[-len(parts) :] == parts else []
        below = sorted(path for path in self.root.iterdir() if not is_hidden(path.name))
        for places in ([self.root], above, below):
            hits = [p for p in places if (p / few_shot).is_dir() and (p / held_out).is_dir()]
            if hits:
                return [str(path) for path in hits]
        return []

    def open(self, base: str, part: str) -> ImageSource:
        return open_source(Path(base, part))

    def entries(self) -> set[str]:
        return {path.name for path in self.root.iterdir()}


class _Archive:
    """A zip archive, in which both parts of a layout are looked for at any depth."""

    def __init__(self, path: Path) -> None:
        self.source = ZipSource(path)

    def bases(self, few_shot: str, held_out: str) -> list[str]:
        return sorted(self._above(few_shot) & self._above(held_out))

    def open(self, base: str, part: str) -> ImageSource:
        return ZipSource(self.source.location, str(PurePosixPath(base, part)))

    def entries(self) -> set[str]:
        return {PurePosixPath(name).parts[0] for name in self.source.entries()}

    def _above(self, part: str) -> set[str]:
        """Name the folders that hold pictures in a folder `part`."""
        splits = (f"/{name}".partition(f"/{part}/") for name in self.source.names)
        return {above.strip("/") or WHOLE for above, found, _ in splits if found}


def _listing(entries: Iterable[str]) -> str:
    shown = 8
    names = sorted(name for name in entries if not is_hidden(name))
    text = ", ".join(names[:shown]) or "nothing"
    if len(names) > shown:
        text += f" and {len(names) - shown} more"
    packed = [name for name in names if name.endswith(PACKED)]
    return f"{text} (unpack {packed[0]} first)" if packed else text
