"""Divide data sources into a few-shot and a held-out set without repeated images."""

import hashlib
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

from ood_sampler.data.images import ImageError, fit_square, read_rgb
from ood_sampler.data.sources import DataSource, ImageSource
from ood_sampler.faults import printable

S = TypeVar("S", bound=DataSource[Any])

FEW_SHOT = 500
"""Default size of the few-shot set, at most."""

_MIN_IMAGES = 2
"""Smallest set that has a covariance."""


@dataclass(frozen=True)
class Picture:
    """Metadata of an inspected image; `inspect` makes it."""

    index: int
    name: str
    sha256: str
    """Hash of the stored bytes."""

    content: str
    """`content_of` the image at the model's resolution; equal for equal images."""

    shorter_side: int


def inspect(source: ImageSource, index: int, *, resolution: int) -> Picture:
    """Read and decode image `index` of `source`.

    Raises:
        ImageError: It is unreadable.
    """
    data = source.read(index)
    pixels = read_rgb(data, name=source.path(index))
    return Picture(
        index=index,
        name=source.names[index],
        sha256=hashlib.sha256(data).hexdigest(),
        content=content_of(fit_square(pixels, resolution)),
        shorter_side=min(pixels.shape[:2]),
    )


def content_of(image: Tensor) -> str:
    """Hash the values that the model sees, independent of the file format."""
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class Chosen:
    """Images of two sets, no two of them the same, and those left out with the reason."""

    few_shot: list[Picture]
    held_out: list[Picture]
    skipped: list[tuple[str, str]]


@dataclass(frozen=True)
class Split:
    """How a data source is divided into a few-shot and a held-out set.

    Both sets follow a permutation of the items that `seed` alone fixes: the few-shot set takes the
    first usable ones, the held-out set those that come next, or the first ones of a source of its
    own. Of items with equal content (`Picture.content`) only the first counts. So the few-shot set
    does not depend on `held_out`, and a smaller one begins a larger one.

    Raises:
        ValueError: A field is out of range.
    """

    few_shot: int | None
    """Number of images to invert. None takes half of the source without its repeats, or all of it
    beside a held-out source, at most `FEW_SHOT` either way."""

    held_out: int | None
    """Number of images to compare with; None takes all that are left."""

    seed: int
    """Fixes the permutation."""

    on_error: Literal["raise", "skip"]
    """Whether an unreadable item ends the run or is left out and listed."""

    def __post_init__(self) -> None:
        check_counts(few_shot=self.few_shot, held_out=self.held_out)
        if self.on_error not in ("raise", "skip"):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {self.on_error!r}")

    def choose(
        self,
        few_shot_source: S,
        held_out_source: S | None,
        inspect: Callable[[S, int], Picture],
    ) -> Chosen:
        """Choose the items of both sets.

        Only those that are chosen or left out are inspected, each once; if `few_shot` is None, all
        of a source of at most twice `FEW_SHOT`, to take half of those that differ. Where only
        repeats make the items too few for a requested number, a warning gives the smaller number.

        Args:
            few_shot_source: Source of the few-shot set.
            held_out_source: Source of the held-out set; None takes the rest of the first.
            inspect: Reads one item.

        Raises:
            ImageError: `on_error` is `raise` and an item is unreadable.
            ValueError: There are too few items.
        """
        sources = [few_shot_source]
        if held_out_source is not None:
            sources.append(held_out_source)
        scans = [Scan(source, partial(inspect, source), seed=self.seed) for source in sources]
        limit = _default_few_shot(scans) if self.few_shot is None else self.few_shot
        chosen: dict[str, tuple[str, Picture]] = {}
        few_shot = scans[0].take(limit, "few-shot", chosen)
        held_out = scans[-1].take(self.held_out, "held-out", chosen)

        unreadable = [entry for scan in scans for entry in scan.unreadable]
        if unreadable and self.on_error == "raise":
            raise ImageError(
                f"{len(unreadable)} of {sum(scan.consumed for scan in scans)} images cannot be "
                f"used{_by_kind([error for _, error in unreadable])}, or leave all such images "
                "out with data.on_error=skip"
            )
        _check_enough("few_shot", self.few_shot, few_shot, scans[0])
        _check_enough("held_out", self.held_out, held_out, scans[-1])
        _warn_of_repeats(
            scans, {"few_shot": (self.few_shot, few_shot), "held_out": (self.held_out, held_out)}
        )
        repeats = [entry for scan in scans for entry in scan.repeats]
        left_out = [(name, str(error)) for name, error in unreadable]
        return Chosen(few_shot, held_out, left_out + repeats)


class Scan(Generic[S]):
    """The items of one source in a random order, each inspected at most once.

    Args:
        source: Where the items come from.
        inspect: Reads one item.
        seed: Fixes the order.
    """

    def __init__(self, source: S, inspect: Callable[[int], Picture], *, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(source), generator=generator)
        self.source = source
        self.consumed = 0
        """Number of items that were taken or left out."""

        self.unreadable: list[tuple[str, ImageError]] = []
        self.repeats: list[tuple[str, str]] = []
        self._inspect = inspect
        # Lazily: a list of millions of numbers would take more memory than their names.
        self._rest: Iterator[int] = (int(index) for index in order.numpy())
        self._ahead: deque[Picture | tuple[str, ImageError]] = deque()

    def take(
        self, count: int | None, role: str, chosen: dict[str, tuple[str, Picture]]
    ) -> list[Picture]:
        """Return the next `count` usable items that differ, fewer at the end.

        Args:
            count: How many; None takes all.
            role: Name of the set, for the reason why a repeat is left out.
            chosen: Items taken before, by content; new ones are added.
        """
        taken: list[Picture] = []
        while count is None or len(taken) < count:
            found = self._next()
            if found is None:
                break
            self.consumed += 1
            if not isinstance(found, Picture):
                self.unreadable.append(found)
            elif found.content in chosen:
                reason = _repeats(found, *chosen[found.content])
                self.repeats.append((printable(found.name), reason))
            else:
                chosen[found.content] = role, found
                taken.append(found)
        return taken

    def count_repeats(self) -> int:
        """Inspect all remaining items, for `take` to return later, and count the repeats."""
        self._ahead.extend(self._look(index) for index in self._rest)
        contents = [found.content for found in self._ahead if isinstance(found, Picture)]
        return len(contents) - len({*contents})

    def _next(self) -> Picture | tuple[str, ImageError] | None:
        if self._ahead:
            return self._ahead.popleft()
        index = next(self._rest, None)
        return None if index is None else self._look(index)

    def _look(self, index: int) -> Picture | tuple[str, ImageError]:
        try:
            return self._inspect(index)
        except ImageError as error:
            return printable(self.source.names[index]), error


def check_counts(*, few_shot: int | None, held_out: int | None) -> None:
    """Check the sizes of the few-shot and the held-out set.

    Raises:
        ValueError: One is not a whole number, or is too small.
    """
    for key, count in (("few_shot", few_shot), ("held_out", held_out)):
        if count is not None and not isinstance(count, int):
            raise ValueError(f"data.{key} must be a whole number or null, got {count}")
    if few_shot is not None and few_shot < _MIN_IMAGES:
        raise ValueError(f"few_shot must be >= {_MIN_IMAGES}, got {few_shot}; raise data.few_shot")
    if held_out is not None and held_out < _MIN_IMAGES:
        raise ValueError(
            f"held_out must be >= {_MIN_IMAGES} or null for all, got {held_out}; "
            "raise data.held_out"
        )


def _by_kind(errors: Sequence[ImageError]) -> str:
    """Count errors by kind, most frequent first, and quote the first of each kind."""
    kinds: dict[str, list[ImageError]] = {}
    for error in errors:
        kinds.setdefault(error.kind, []).append(error)
    ordered = sorted(kinds.items(), key=lambda item: -len(item[1]))
    counts = ", ".join(f"{kind}: {len(found)}" for kind, found in ordered)
    if len(ordered) > 1:
        examples = "; ".join(f"{kind}: {found[0]}" for kind, found in ordered)
        return f" ({counts}); the first of each: {examples}"
    listed = "" if ordered[0][0] == ImageError.kind else f" ({counts})"
    return f"{listed}; the first: {errors[0]}"


def _default_few_shot(scans: Sequence[Scan[S]]) -> int:
    count = len(scans[0].source)
    if len(scans) == 1 and count // 2 <= FEW_SHOT:
        count -= scans[0].count_repeats()
    share = count // 2 if len(scans) == 1 else count
    return min(max(share, _MIN_IMAGES), FEW_SHOT)


def _repeats(picture: Picture, role: str, first: Picture) -> str:
    same = "bytes" if picture.sha256 == first.sha256 else "pixels"
    return f"has the same {same} as {role} image {printable(first.name)}"


def _warn_of_repeats(
    scans: Sequence[Scan[S]], asked: Mapping[str, tuple[int | None, Sequence[Picture]]]
) -> None:
    repeats = [entry for scan in scans for entry in scan.repeats]
    if not repeats:
        return
    name, reason = repeats[0]
    found = [
        f"repeated images left out: {len(repeats)} of {sum(scan.consumed for scan in scans)} "
        f"equal another at the model's resolution; {name}, for example, {reason}"
    ]
    for key, (count, pictures) in asked.items():
        if count is not None and len(pictures) < count:
            found.append(f"data.{key} becomes {len(pictures)}, not {count}")
    warnings.warn("; ".join(found), stacklevel=6)


def _check_enough(key: str, asked: int | None, pictures: Sequence[Picture], scan: Scan[S]) -> None:
    needed = _MIN_IMAGES if asked is None else asked
    source, repeats, unreadable = scan.source, len(scan.repeats), len(scan.unreadable)
    if len(pictures) >= max(needed - repeats, _MIN_IMAGES):
        return
    left_out = f"{repeats} repeated and {unreadable} unreadable ones left out"
    if asked is None:
        raise ValueError(
            f"too few images for the {key.replace('_', '-')} set, which needs {_MIN_IMAGES}: "
            f"{len(pictures)} left of the {len(source)} in {source.location} ({left_out}); add "
            "other images, or lower data.few_shot or data.held_out if you set it"
        )
    raise ValueError(
        f"data.{key} must be at most {len(pictures)}, the images left for it of the "
        f"{len(source)} in {source.location} ({left_out}), got {needed}; add other images, or "
        "lower data.few_shot or data.held_out"
    )
