"""Which pictures are few-shot and which held-out: each shown once, in one set alone."""

import hashlib
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

from ood_sampler.data.images import ImageError, fit_square, read_rgb
from ood_sampler.data.sources import ImageSource, Source
from ood_sampler.faults import printable

S = TypeVar("S", bound=Source)

FEW_SHOT = 500
"""Of a user's pictures no more are few-shot unless asked for."""

_MIN_IMAGES = 2
"""The fewest that have a covariance."""


@dataclass(frozen=True)
class Picture:
    """What reading a picture of a source once has told; `inspect` makes it."""

    index: int
    name: str
    sha256: str
    """Of the stored bytes."""

    content: str
    """`content_of` the picture at the model's resolution: where it is equal the picture is."""

    shorter_side: int


def inspect(source: ImageSource, index: int, *, resolution: int) -> Picture:
    """Read and decode picture `index` of `source`.

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
    """Hash the values of an image or field: what the model sees, not how it is stored."""
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()


@dataclass(frozen=True)
class Split:
    """Pictures of two sets, no two of them the same, and what was left out with the reason."""

    few_shot: list[Picture]
    held_out: list[Picture]
    skipped: list[tuple[str, str]]


def split_sources(
    few_shot_source: S,
    held_out_source: S | None,
    inspect: Callable[[S, int], Picture],
    *,
    few_shot: int | None,
    held_out: int | None,
    seed: int,
    on_error: Literal["raise", "skip"],
) -> Split:
    """Choose the pictures of both sets; of pictures with one content the first alone is chosen.

    Only those that are chosen or left out are inspected, each once; without `few_shot` all of a
    root of at most 1,000, to take half of those that differ. Where pictures are too few for a
    number that was asked for because of repeats alone, a warning tells the smaller number.

    Args:
        few_shot_source: Where the few-shot set comes from.
        held_out_source: Where the held-out set comes from; None takes the rest of the first.
        inspect: Reads one item.
        few_shot: As in `folder_domain`, like the rest.
        held_out: Likewise.
        seed: Likewise.
        on_error: Likewise.

    Raises:
        ImageError: `on_error` is `raise` and a picture is unreadable.
        ValueError: There are too few pictures, or an argument is out of range.
    """
    check_counts(few_shot=few_shot, held_out=held_out)
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    sources = [few_shot_source] if held_out_source is None else [few_shot_source, held_out_source]
    scans = [Scan(source, partial(inspect, source), seed=seed) for source in sources]
    limit = _default_few_shot(scans) if few_shot is None else few_shot
    chosen: dict[str, tuple[str, Picture]] = {}
    few_shot_pictures = scans[0].take(limit, "few-shot", chosen)
    held_out_pictures = scans[-1].take(held_out, "held-out", chosen)

    unreadable = [entry for scan in scans for entry in scan.unreadable]
    if unreadable and on_error == "raise":
        raise ImageError(
            f"{len(unreadable)} of {sum(scan.consumed for scan in scans)} pictures cannot be "
            f"used{_by_kind([error for _, error in unreadable])}, or leave all such pictures out "
            "with data.on_error=skip"
        )
    _check_enough("few_shot", few_shot, few_shot_pictures, scans[0])
    _check_enough("held_out", held_out, held_out_pictures, scans[-1])
    asked = {"few_shot": (few_shot, few_shot_pictures), "held_out": (held_out, held_out_pictures)}
    _warn_of_repeats(scans, asked)
    repeats = [entry for scan in scans for entry in scan.repeats]
    left_out = [(name, str(error)) for name, error in unreadable]
    return Split(few_shot_pictures, held_out_pictures, left_out + repeats)


class Scan(Generic[S]):
    """The pictures of one source in the order of its split, each inspected at most once.

    Args:
        source: Of the pictures.
        inspect: Reads one.
        seed: Fixes the order.
    """

    def __init__(self, source: S, inspect: Callable[[int], Picture], *, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(source), generator=generator)
        self.source = source
        self.consumed = 0
        """Pictures that were taken or left out."""

        self.unreadable: list[tuple[str, ImageError]] = []
        self.repeats: list[tuple[str, str]] = []
        self._inspect = inspect
        # One number after the other: a list of millions would take more than their names.
        self._rest: Iterator[int] = (int(index) for index in order.numpy())
        self._ahead: deque[Picture | tuple[str, ImageError]] = deque()

    def take(
        self, count: int | None, role: str, chosen: dict[str, tuple[str, Picture]]
    ) -> list[Picture]:
        """Return the next `count` readable pictures that differ, fewer at the end.

        Args:
            count: How many; None takes all.
            role: What they are, for the reason why a repeated one is left out.
            chosen: By content, those that were taken before; the new ones are added.
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
        """Inspect all that is left, for `take` to return, and count the repeated pictures."""
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
    """Refuse numbers of pictures that cannot be.

    Raises:
        ValueError: One is no whole number, or too small.
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
    return f"has the same {same} as {role} picture {printable(first.name)}"


def _warn_of_repeats(
    scans: Sequence[Scan[S]], asked: Mapping[str, tuple[int | None, Sequence[Picture]]]
) -> None:
    repeats = [entry for scan in scans for entry in scan.repeats]
    if not repeats:
        return
    name, reason = repeats[0]
    found = [
        f"repeated pictures left out: {len(repeats)} of {sum(scan.consumed for scan in scans)} "
        f"equal another at the model's resolution; {name}, for example, {reason}"
    ]
    for key, (count, pictures) in asked.items():
        if count is not None and len(pictures) < count:
            found.append(f"data.{key} becomes {len(pictures)}, not {count}")
    warnings.warn("; ".join(found), stacklevel=4)


def _check_enough(key: str, asked: int | None, pictures: Sequence[Picture], scan: Scan[S]) -> None:
    needed = _MIN_IMAGES if asked is None else asked
    source, repeats, unreadable = scan.source, len(scan.repeats), len(scan.unreadable)
    if len(pictures) < max(needed - repeats, _MIN_IMAGES):
        raise ValueError(
            f"{key} must be at most {len(pictures)}, the pictures left for it of the {len(source)} "
            f"in {source.location} ({repeats} repeated and {unreadable} unreadable ones left out), "
            f"got {needed}; add other pictures, or lower data.few_shot or data.held_out"
        )
