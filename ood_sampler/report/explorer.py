"""What a page can show of single images of a run: numbers, neighbours, places, films."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ood_sampler.data.radiation import FieldScale
from ood_sampler.report.columns import csv_rows, number
from ood_sampler.report.fields import tick_labels, values_at
from ood_sampler.report.sprites import sheet

MOST = {"samples": 500, "few_shot": 500, "held_out": 250, "in_domain": 128}
"""Images of each set on a page, at most; few-shot images that samples name come on top."""

_BYTES = {"samples": 1_150_000, "few_shot": 700_000, "held_out": 250_000, "in_domain": 150_000}
"""Bytes of each sheet, at most: a third more in the page."""

_LARGEST = {"samples": 128, "few_shot": 96, "held_out": 64, "in_domain": 64}
_FILM_BYTES = 45_000
_TICKS = 5
_LEVELS = 256


class Named(NamedTuple):
    """A few-shot image beside a sample: its place on the sheet, and a distance or a share."""

    place: int
    value: float


@dataclass(frozen=True)
class SampleRecord:
    """Numbers of one sample, by the headline judge.

    Attributes:
        number: within the run.
        file: of the sample, beside the page.
        near_copy: nearer to a few-shot image than 99% of held-out images are; None where that was
            not measured.
        captured: most of its neighbours belong to the model's own domain; None of a model that has
            none.
        authentic: farther from its nearest few-shot image than that from its own nearest.
        realism: above 1 within the held-out images.
        blend_pair: explained by two few-shot images, in pixels.
        neighbours: nearest few-shot images and their distances.
        parts: few-shot images that explain it best, and the share of each.
    """

    number: int
    file: str
    near_copy: bool | None
    captured: bool | None
    authentic: bool
    realism: float
    blend_pair: float | None
    neighbours: Sequence[Named]
    parts: Sequence[Named]

    @property
    def blend_five(self) -> float:
        """What five few-shot images explain together."""
        return sum(part.value for part in self.parts)

    def as_dict(self) -> dict[str, Any]:
        """The record as a script reads it: numbers of five digits, infinity as null."""
        return {
            **{key: value for key, value in vars(self).items() if isinstance(value, bool | str)},
            "number": self.number,
            "realism": _short(self.realism),
            "distance": _short(self.neighbours[0].value),
            "blend_pair": _short(self.blend_pair),
            "blend_five": _short(self.blend_five),
            "neighbours": [[place, _short(value)] for place, value in self.neighbours],
            "parts": [[place, _short(value)] for place, value in self.parts],
        }


@dataclass(frozen=True)
class FilmReel:
    """A film of a few images.

    Attributes:
        up: inverted few-shot images in [-1, 1], shape $(N, F, 3, h, w)$.
        down: decoded samples and what the model makes of them on the way, $(N, F', 2, 3, h, w)$.
        up_steps: steps of the frames.
        down_steps: likewise; -1 is the image.
        few_shot: names of the few-shot images.
        numbers: of the samples.
    """

    up: Tensor
    down: Tensor
    up_steps: Sequence[int]
    down_steps: Sequence[int]
    few_shot: Sequence[str]
    numbers: Sequence[int]


@dataclass(frozen=True)
class Explorer:
    """Single images of a run.

    Attributes:
        images: by kind (`MOST`), in [-1, 1], shape $(N, 3, R, R)$.
        points: of the same images in the plane, shape $(N, 2)$.
        axes: shares of the variance along both axes of the plane.
        judge: whose features they are.
        samples: numbers of each sample, in the order of its images.
        few_shot: names of the few-shot images, in the order of their images.
        total: samples of the run, on the page or not.
        film: a few images on their way; None if there is none.
        scale: of physical fields; None for other domains.
        unit: of their values; None if unknown.
        files: names of files beside the page, with a description each.
    """

    images: Mapping[str, Tensor]
    points: Mapping[str, Tensor]
    axes: tuple[float, float]
    judge: str
    samples: Sequence[SampleRecord]
    few_shot: Sequence[str]
    total: int
    film: FilmReel | None
    scale: FieldScale | None
    unit: str | None
    files: Sequence[tuple[str, str]]


def embedded(explorer: Explorer) -> dict[str, Any]:
    """Everything that the scripts of a page read, as JSON."""
    sheets = {
        kind: sheet(images, largest=_LARGEST[kind], most_bytes=_BYTES[kind]).as_dict()
        for kind, images in explorer.images.items()
        if len(images)
    }
    points = {kind: _rounded(places) for kind, places in explorer.points.items()}
    return {
        "sheets": sheets,
        "points": points,
        "axes": [_short(share) for share in explorer.axes],
        "judge": explorer.judge,
        "samples": [record.as_dict() for record in explorer.samples],
        "few_shot": list(explorer.few_shot),
        "film": None if explorer.film is None else _film(explorer.film),
        "field": None if explorer.scale is None else _field(explorer.scale, explorer.unit),
    }


def samples_csv(explorer: Explorer) -> str:
    """The numbers of all samples of a page as CSV, few-shot images by their names."""
    rows = []
    for record in explorer.samples:
        row: dict[str, Any] = {
            "file": record.file,
            "number": record.number,
            **{
                key: None if (value := getattr(record, key)) is None else int(value)
                for key in ("near_copy", "captured", "authentic")
            },
            "realism": record.realism,
            "distance": record.neighbours[0].value,
            "blend_pair": record.blend_pair,
            "blend_five": record.blend_five,
        }
        for name, found in (("nearest", record.neighbours), ("part", record.parts)):
            end = "distance" if name == "nearest" else "share"
            for rank, (place, value) in enumerate(found, start=1):
                row |= {f"{name}_{rank}": explorer.few_shot[place], f"{name}_{rank}_{end}": value}
        rows.append(row)
    return csv_rows(rows)


def _film(film: FilmReel) -> dict[str, Any]:
    """One sprite per film: frames up, frames down, what the model makes of the latter."""
    reels = []
    for up, down in zip(film.up, film.down, strict=True):
        frames = torch.cat([up, down[:, 0], down[:, 1]])
        made = sheet(frames, largest=64, most_bytes=_FILM_BYTES, columns=len(frames))
        reels.append(made.as_dict())
    return {
        "reels": reels,
        "up": list(film.up_steps),
        "down": list(film.down_steps),
        "few_shot": list(film.few_shot),
        "numbers": list(film.numbers),
    }


def _field(scale: FieldScale, unit: str | None) -> dict[str, Any]:
    """Values of all grey levels of each band, the ticks of its colour bar, and its colours."""
    from matplotlib import colormaps

    levels = torch.linspace(-1, 1, _LEVELS, dtype=torch.float64).view(-1, 1, 1, 1)
    values = scale.from_pictures(levels.expand(-1, 3, 1, 1))[:, :, 0, 0].double()
    ticks = torch.linspace(-1, 1, _TICKS, dtype=torch.float64)
    bands = []
    for band in range(values.shape[1]):
        labels = tick_labels(values_at(scale, ticks, band))
        places = ((_LEVELS - 1) * (ticks + 1) / 2).tolist()
        bands.append(
            {
                "values": [float(f"{value:.5g}") for value in values[:, band].tolist()],
                "ticks": [list(tick) for tick in zip(places, labels, strict=True)],
            }
        )
    colours = (colormaps["viridis"](range(_LEVELS))[:, :3] * 255).round().astype(int).tolist()
    return {"unit": unit, "scaling": scale.scaling, "bands": bands, "colours": colours}


def _rounded(points: Tensor) -> list[list[float]]:
    return [[_short(x) or 0.0, _short(y) or 0.0] for x, y in points.tolist()]


def _short(value: float | None) -> float | None:
    found = number(value)
    return None if found is None else float(f"{found:.5g}")
