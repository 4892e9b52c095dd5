"""Find data sets in the layouts in which they are published, or say how to obtain them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ood_sampler.data.domain import TargetDomain, picture_domain
from ood_sampler.data.images import ImageError
from ood_sampler.data.listing import PACKED, is_hidden, user_path, warn_of_passed_over
from ood_sampler.data.options import from_keys
from ood_sampler.data.sources import ImageSource, LmdbSource, ZipSource, open_source
from ood_sampler.data.split import Split

Layouts = Sequence[Sequence[str]]

WHOLE = "."
"""The folder of a layout that is the root itself."""


@dataclass(frozen=True)
class Origin:
    """How to obtain a data set; `conf/data/` holds one for each."""

    what: str
    """Name and size of the data set."""

    where: str
    """Where to get it."""

    licence: str
    """Its licence, or the uses that are allowed."""

    layout: str
    """The files expected below the root."""

    def request(self) -> str:
        """Return the sentences that tell how to obtain the data set."""
        return (
            f"It is {self.what}, from {self.where} (licence: {self.licence}). "
            f"Expected layout: {self.layout}. Set data.root to it, or the environment variable "
            "OOD_SAMPLER_DATA to the folder that holds all data sets"
        )


@from_keys(Split)
def published_domain(
    split: Split,
    *,
    name: str,
    root: str,
    layouts: Layouts,
    resolution: int,
    origin: Origin,
) -> TargetDomain:
    """Make a domain of a published data set.

    Args:
        split: Divides the images.
        name: Name of the domain in tables.
        root: Folder, zip archive or LMDB database; the folder above or below the expected one also
            works.
        layouts: Pairs of folders, one for few-shot and one for held-out images; equal ones are
            split. They are searched for in the root itself, in the folder above, then right below
            the root (in an archive: from the top down); the first of these places with a pair
            counts, and must hold one pair only. `.` is the root itself, used if no other pair is
            found.
        resolution: Side of the images in pixels.
        origin: How to obtain the data set.

    Raises:
        FileNotFoundError: The root does not exist, or has none of the layouts.
        ImageError: An archive or database is damaged, or `split.on_error` is `raise` and an image
            is unreadable.
        ValueError: The root holds the layout several times, there are too few images, or an
            argument is out of range.
    """
    few_shot, held_out = _find(user_path(str(root), key="data.root"), layouts, name, origin)
    return picture_domain(split, few_shot, held_out, name=name, resolution=resolution)


def missing_data(name: str, root: Path, origin: Origin) -> FileNotFoundError:
    """Return the error for a root that does not exist; it says how to obtain the data set."""
    packed = [f for f in (root.with_name(root.name + suffix) for suffix in PACKED) if f.is_file()]
    beside = f"There is {packed[0]}: unpack it, or set data.root to it. " if packed else ""
    return FileNotFoundError(
        f"the data set {name} is missing: {root} does not exist. {beside}{origin.request()}"
    )


@dataclass(frozen=True)
class _Pair:
    """Folders of few-shot and of held-out images below a base; equal ones are to be split."""

    base: str
    few_shot: str
    held_out: str

    @property
    def place(self) -> str:
        """What to set `data.root` to."""
        return self.few_shot if self.few_shot == self.held_out else self.base


def _find(
    root: Path, layouts: Layouts, name: str, origin: Origin
) -> tuple[ImageSource, ImageSource | None]:
    if not root.exists():
        raise missing_data(name, root, origin)
    place = _Folder(root) if root.is_dir() else _Archive(root)
    for pairs in place.levels([layout for layout in layouts if WHOLE not in layout]):
        if len(pairs) > 1:
            raise _ambiguous(root, name, pairs)
        for pair in pairs:
            few_shot = place.open(pair.few_shot)
            return few_shot, None if pair.few_shot == pair.held_out else place.open(pair.held_out)
    if any(WHOLE in layout for layout in layouts):
        source = _open_whole(root, origin)
        # A database below the root is named after another data set.
        if source.location == root or not isinstance(source, LmdbSource):
            return source, None
    raise FileNotFoundError(
        f"{root} does not hold the data set {name} in a known layout, it holds "
        f"{_listing(place.entries())}. {origin.request()}"
    )


def _ambiguous(root: Path, name: str, pairs: Sequence[_Pair]) -> ValueError:
    places = [pair.place for pair in pairs]
    if len({*places}) == len(places):
        unpack = "" if root.is_dir() else "unpack it and "
        return ValueError(
            f"{root} must hold the data set {name} once, got it in {' and '.join(places)}; "
            f"{unpack}set data.root to one of them"
        )
    versions = " and ".join(f"{pair.few_shot} with {pair.held_out}" for pair in pairs)
    return ValueError(
        f"{root} must hold one version of the data set {name}, got {versions}, whose images are "
        "mixed; unpack each into a folder of its own and set data.root to one of them"
    )


def _open_whole(root: Path, origin: Origin) -> ImageSource:
    try:
        return open_source(root)
    except ImageError:
        raise
    except ValueError as error:
        raise ValueError(f"{error}. {origin.request()}") from error


class _Folder:
    """Searches for both parts of a layout in a folder, above it, and right below it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def levels(self, layouts: Layouts) -> Iterator[list[_Pair]]:
        """Yield the pairs that were found, the nearest first."""
        yield self._pairs([self.root], layouts)
        whole = self.root.absolute()
        above = []
        for layout in layouts:
            parts = PurePosixPath(layout[0]).parts
            if whole.parts[-len(parts) :] == parts:
                above += self._pairs([whole.parents[len(parts) - 1]], [layout])
        yield above
        below = sorted(path for path in self.root.iterdir() if not is_hidden(path.name))
        yield self._pairs(below, layouts)

    def open(self, folder: str) -> ImageSource:
        return open_source(folder)

    def entries(self) -> set[str]:
        return {path.name for path in self.root.iterdir()}

    def _pairs(self, bases: Sequence[Path], layouts: Layouts) -> list[_Pair]:
        return [
            _Pair(str(base), str(base / few_shot), str(base / held_out))
            for base in bases
            for few_shot, held_out in layouts
            if (base / few_shot).is_dir() and (base / held_out).is_dir()
        ]


class _Archive:
    """Searches for both parts of a layout in a zip archive, at any depth."""

    def __init__(self, path: Path) -> None:
        self.source = ZipSource(path)

    def levels(self, layouts: Layouts) -> Iterator[list[_Pair]]:
        """Yield the pairs that were found, from the top of the archive down."""
        pairs = [
            _Pair(base, str(PurePosixPath(base, few_shot)), str(PurePosixPath(base, held_out)))
            for few_shot, held_out in layouts
            for base in sorted(self._above(few_shot) & self._above(held_out))
        ]
        for depth in sorted({_depth(pair) for pair in pairs}):
            yield [pair for pair in pairs if _depth(pair) == depth]

    def open(self, folder: str) -> ImageSource:
        source = ZipSource(self.source.location, folder)
        warn_of_passed_over(f"{source.location}/{folder}", source.passed_over)
        return source

    def entries(self) -> set[str]:
        return {PurePosixPath(name).parts[0] for name in self.source.entries()}

    def _above(self, part: str) -> set[str]:
        """Return the folders that hold images in a subfolder `part`."""
        splits = (f"/{name}".partition(f"/{part}/") for name in self.source.names)
        return {above.strip("/") or WHOLE for above, found, _ in splits if found}


def _depth(pair: _Pair) -> int:
    return len(PurePosixPath(pair.base).parts)


def _listing(entries: Iterable[str]) -> str:
    shown = 8
    names = sorted(name for name in entries if not is_hidden(name))
    text = ", ".join(names[:shown]) or "nothing"
    if len(names) > shown:
        text += f" and {len(names) - shown} more"
    packed = [name for name in names if name.endswith(PACKED)]
    return f"{text} (unpack {packed[0]} first)" if packed else text
