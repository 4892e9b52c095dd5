"""Samples of several runs on one page: a slider per setting that tells them apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ood_sampler.report.grid import to_uint8
from ood_sampler.report.sprites import resized, sheet
from ood_sampler.report.template import Script, script

_LARGEST = 96
_BYTES = 2_600_000
_SCRIPTS = ("base", "runs")


@dataclass(frozen=True)
class ShownRun:
    """A run, as a slider leads to it.

    Attributes:
        settings: what tells it from the others, by name.
        images: its first samples in [-1, 1], shape $(N, 3, R, R)$.
        numbers: names and values of its figures.
        link: to its own page; empty if it has none.
    """

    settings: Mapping[str, str]
    images: Tensor
    numbers: Sequence[tuple[str, str]]
    link: str = ""


def runs_script(runs: Sequence[ShownRun]) -> Script:
    """The script of a page with samples of several runs; there is at least one."""
    return script(_SCRIPTS, runs_data(runs))


def runs_data(runs: Sequence[ShownRun]) -> dict[str, Any]:
    """Everything that the script reads, as JSON.

    Settings that are the same in all runs have no slider. Values are in increasing order where all
    are numbers, else as they come.
    """
    axes = {
        name: values
        for name in dict.fromkeys(name for run in runs for name in run.settings)
        if len(values := _values([run.settings.get(name, "") for run in runs])) > 1
    }
    edge = min(_LARGEST, max(run.images.shape[-1] for run in runs))
    pictures = [resized(to_uint8(run.images), edge) for run in runs]
    first, told = 0, []
    for run, images in zip(runs, pictures, strict=True):
        told.append(
            {
                "at": [axes[name].index(run.settings.get(name, "")) for name in axes],
                "first": first,
                "count": len(images),
                "numbers": [list(pair) for pair in run.numbers],
                "link": run.link,
            }
        )
        first += len(images)
    made = sheet(torch.cat(pictures), largest=_LARGEST, most_bytes=_BYTES)
    return {
        "sheet": made.as_dict(),
        "axes": [{"name": name, "values": values} for name, values in axes.items()],
        "runs": told,
    }


def _values(texts: Sequence[str]) -> list[str]:
    """Distinct values of a setting in order."""
    found = list(dict.fromkeys(texts))
    try:
        return sorted(found, key=float)
    except ValueError:
        return found
