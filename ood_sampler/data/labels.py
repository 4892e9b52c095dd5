"""Labels of images: numbers in a CSV file, or the two folders that images lie in."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from ood_sampler.data.domain import (
    ImageSet,
    TargetDomain,
    embedded_domain,
    folder_domain,
)
from ood_sampler.data.listing import user_path
from ood_sampler.data.options import from_keys
from ood_sampler.data.published import Layouts, Origin, published_domain
from ood_sampler.data.split import Split
from ood_sampler.faults import printable
from ood_sampler.store.files import digest

_ASSETS = Path(__file__).parents[1] / "assets"
_KEY = "data.labels"


@dataclass(frozen=True)
class Labels:
    """Numbers about images.

    Attributes:
        columns: their names.
        values: by the name of an image, one per column.
    """

    columns: tuple[str, ...]
    values: Mapping[str, tuple[float, ...]]

    def of(self, images: ImageSet) -> Tensor:
        """Labels of a set, float64, shape (N, columns); NaN for images without."""
        none = (math.nan,) * len(self.columns)
        rows = [self.values.get(name, none) for name in images.names]
        return torch.tensor(rows, dtype=torch.float64).reshape(len(images), len(self.columns))

    @property
    def digest(self) -> str:
        """Hash of names and numbers."""
        return digest(
            {"columns": self.columns, "values": {k: list(v) for k, v in self.values.items()}}
        )


@dataclass(frozen=True)
class LabelledDomain(TargetDomain):
    """A target domain with labels of its images."""

    labels: Labels | None = None
    """Labels of some or all of its images, if there are any."""


@from_keys(Split)
def labelled_folder(
    split: Split,
    *,
    name: str,
    root: str,
    held_out_root: str | None,
    labels: str | None,
    resolution: int,
) -> LabelledDomain:
    """Make a domain of a user's images (`folder_domain`), with labels if there are any.

    Args:
        split: Divides the images.
        name: Name of the domain in tables.
        root: Folder, zip archive or LMDB database.
        held_out_root: The same for the held-out set; None splits `root`.
        labels: CSV file, whose first column names images and whose others are numbers. None takes
            the two folders right below `root`, if all images lie in two: 0 in the first by name, 1
            in the second, after which the label is called.
        resolution: Side of the images in pixels.

    Raises:
        FileNotFoundError: A root or the CSV file does not exist.
        ValueError: The CSV file has no header, no numbers, or no line for any image; or as
            `folder_domain`.
    """
    table = None if labels is None else read_table(labels)
    domain = folder_domain(
        **vars(split), name=name, root=root, held_out_root=held_out_root, resolution=resolution
    )
    sets = (domain.few_shot, domain.held_out)
    return _labelled(domain, _of_folders(sets) if table is None else table.labels(sets))


@from_keys(Split)
def labelled_published(
    split: Split,
    *,
    name: str,
    root: str,
    layouts: Layouts,
    labels: str | None,
    resolution: int,
    origin: Origin,
) -> LabelledDomain:
    """Make a domain of a published data set (`published_domain`), with labels if they are given.

    Args:
        split: Divides the images.
        name: Name of the domain in tables.
        root: Folder, zip archive or LMDB database.
        layouts: As for `published_domain`.
        labels: CSV file, whose first column names images and whose others are numbers; None is
            none.
        resolution: Side of the images in pixels.
        origin: How to obtain the data set.
    """
    table = None if labels is None else read_table(labels)
    domain = published_domain(
        **vars(split), name=name, root=root, layouts=layouts, resolution=resolution, origin=origin
    )
    if table is None:
        return _labelled(domain, None)
    return _labelled(domain, table.labels((domain.few_shot, domain.held_out)))


def labelled_embedded(
    *, name: str, resolution: int, few_shot: int | None, held_out: int | None
) -> LabelledDomain:
    """Read a domain that ships with the package (`embedded_domain`), with its labels.

    Args:
        name: Folder and file name below `assets`.
        resolution: Side of the images in pixels.
        few_shot: Number of images to invert; None takes all 500.
        held_out: Number of images to compare with; None takes all.
    """
    domain = embedded_domain(name=name, resolution=resolution, few_shot=few_shot, held_out=held_out)
    path = _ASSETS / name / "labels.csv"
    if not path.is_file():
        return _labelled(domain, None)
    return _labelled(domain, read_table(path).labels((domain.few_shot, domain.held_out)))


def _labelled(domain: TargetDomain, labels: Labels | None) -> LabelledDomain:
    given = {field.name: getattr(domain, field.name) for field in fields(TargetDomain)}
    return LabelledDomain(**given, labels=labels)


@dataclass(frozen=True)
class Table:
    """Lines of a CSV file of numbers.

    Attributes:
        path: of the file.
        columns: names of the numbers.
        lines: by the text of their first field.
    """

    path: Path
    columns: tuple[str, ...]
    lines: Mapping[str, tuple[float, ...]]

    def labels(self, sets: Iterable[ImageSet]) -> Labels:
        """Match lines with images: by path below the root, or by file name, with suffix or without.

        Raises:
            ValueError: a line fits several images, or none fits any.
        """
        names = dict.fromkeys(name for images in sets for name in images.names)
        known: dict[str, list[str]] = {}
        for name in names:
            for alias in _aliases(name):
                known.setdefault(alias, []).append(name)
        values: dict[str, tuple[float, ...]] = {}
        for text, numbers in self.lines.items():
            # the whole path is never ambiguous
            found = [text] if text in names else known.get(text, [])
            if len(found) > 1:
                raise ValueError(
                    f"{self.path}: {text!r} is the name of {len(found)} images, {found[0]} and "
                    f"{found[1]}: write their paths below data.root in the first column"
                )
            values |= dict.fromkeys(found, numbers)
        if not values:
            example, own = next(iter(self.lines)), next(iter(names))
            raise ValueError(
                f"{_KEY}={self.path} names no image: its first column has {example!r}, images "
                f"are called as {own!r}; write file names there, with or without suffix"
            )
        return Labels(self.columns, values)


def read_table(path: str | Path) -> Table:
    """Read a CSV file: a header, then lines of a name and numbers; empty fields leave a line out.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it has no header or line, a field is no number, or a name comes twice.
    """
    place = user_path(path, key=_KEY)
    if not place.is_file():
        raise FileNotFoundError(f"{place} is not a file; set {_KEY} to a CSV file, or to null")
    try:
        with place.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if any(field.strip() for field in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{place} is not a readable CSV file ({error})") from error
    if len(rows) < 2 or len(rows[0]) < 2:
        raise ValueError(
            f"{place} must have a header with the name of a column of files and of one or more of "
            "numbers, and a line for each image, with commas between fields"
        )
    columns = tuple(printable(field.strip()) for field in rows[0][1:])
    if len(set(columns)) < len(columns) or "" in columns:
        raise ValueError(f"{place} must have a name of its own for each column, got {rows[0]}")
    lines: dict[str, tuple[float, ...]] = {}
    for number, row in enumerate(rows[1:], 2):
        numbers = _numbers(place, number, columns, row)
        name = printable(row[0].strip())
        if name in lines:
            raise ValueError(f"{place}, line {number}: {name!r} comes twice; remove one line")
        if numbers is not None:
            lines[name] = numbers
    if not lines:
        raise ValueError(f"{place} must have a line without empty fields, got none")
    return Table(place, columns, lines)


def _numbers(
    place: Path, number: int, columns: Sequence[str], row: Sequence[str]
) -> tuple[float, ...] | None:
    """Numbers of a line; None if a field is empty."""
    if len(row) != len(columns) + 1:
        raise ValueError(
            f"{place}, line {number}: must have {len(columns) + 1} fields, got {len(row)}"
        )
    if not all(field.strip() for field in row):
        return None
    found = []
    for column, field in zip(columns, row[1:], strict=True):
        try:
            value = float(field)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(
                f"{place}, line {number}: {column} must be a number, got {field!r}; write 0 and 1 "
                "for no and yes, and leave unknown fields empty"
            )
        found.append(value)
    return tuple(found)


def _aliases(name: str) -> set[str]:
    path = PurePosixPath(name)
    return {name, str(path.with_suffix("")), path.name, path.stem}


def _of_folders(sets: Iterable[ImageSet]) -> Labels | None:
    """Labels by the first folder of each name, if these are two."""
    names = [name for images in sets for name in images.names]
    folders = sorted({name.partition("/")[0] for name in names})
    if len(folders) != 2 or not all("/" in name for name in names):
        return None
    return Labels(
        (folders[1],), {name: (float(name.startswith(f"{folders[1]}/")),) for name in names}
    )
