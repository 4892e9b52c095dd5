"""Entries at an experiment tracker for a run, a study or a sweep."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ood_sampler.names import file_name
from ood_sampler.pipeline.outcome import Outcome
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.record import SHOWN
from ood_sampler.report.columns import Row, keys_of, number
from ood_sampler.report.grid import gather, save_png, to_uint8
from ood_sampler.report.results import sample_file
from ood_sampler.report.run_columns import columns_of
from ood_sampler.report.sweep import Sweep
from ood_sampler.report.tracking import Cell, Curves, Entry, Table
from ood_sampler.studies.base import Measured

_LONGEST_TAG = 64


def run_entry(
    folder: Path,
    scratch: Path,
    pipeline: Pipeline,
    outcome: Outcome,
    found: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    group: str | None,
) -> Entry:
    """Describe a finished run: metrics, the grid, samples beside their nearest few-shot images.

    Args:
        folder: of the run, with all its files.
        scratch: folder for images needed until the entry is sent.
        pipeline: the run.
        outcome: its images.
        found: its results, as in `metrics.json`.
        config: its resolved configuration.
        group: name of its sweep; None outside of one.
    """
    row = found["rows"][0]
    reconstruction = {k: v for k, v in found["reconstruction"].items() if k != "images"}
    figures = {**row, **{f"reconstruction/{key}": v for key, v in reconstruction.items()}}
    return Entry(
        config=config,
        name=run_title(found["run"]),
        group=group,
        tags=_tags(found["run"]["model"], found["run"]["data"], found["run"]["sampler"]),
        figures={
            f"test/{key}": value
            for key, value in figures.items()
            if isinstance(value, float | int) and number(value) is not None
        },
        pictures={"grid": folder / "grid.png"},
        tables={
            "test/table": rows_table(found["rows"]),
            "samples": _samples(folder, scratch, pipeline, outcome),
        },
    )


def study_entry(
    folder: Path,
    name: str,
    measured: Measured,
    conclusion: Sequence[str],
    config: Mapping[str, Any],
    *,
    group: str | None,
) -> Entry:
    """Describe a finished study: its figure, its table and its conclusion.

    Args:
        folder: of its files.
        name: of the study.
        measured: its rows.
        conclusion: its sentences.
        config: resolved configuration.
        group: name of its sweep; None outside of one.
    """
    models = dict.fromkeys(str(row["model"]) for row in measured.rows)
    domains = dict.fromkeys(str(row["domain"]) for row in measured.rows)
    return Entry(
        config=config,
        name="_".join(file_name(part) for part in (*models, *domains, name)),
        group=group,
        tags=_tags(*models, *domains, name),
        pictures={name: folder / f"{name}.png"},
        tables={
            f"test/{name}": rows_table(measured.rows),
            "conclusion": Table(["conclusion"], [[sentence] for sentence in conclusion]),
        },
    )


def sweep_entry(folder: Path, sweep: Sweep, config: Mapping[str, Any]) -> Entry:
    """Describe a whole sweep: its table, its images, and each metric over the swept key."""
    pictures = {name: folder / f"{name}.png" for name in ("sweep", "sweep_curves")}
    return Entry(
        config=config,
        name=f"sweep_{folder.name}",
        group=folder.name,
        tags=_tags(*(run.results["run"][key] for run in sweep.runs for key in ("model", "data"))),
        pictures={name: path for name, path in pictures.items() if path.exists()},
        tables={"test/sweep": rows_table(sweep.table_rows)},
        curves=_curves(sweep),
    )


def _curves(sweep: Sweep) -> dict[str, Curves]:
    """Each metric over the swept key; empty if no numeric key was swept."""
    if sweep.curves is None:
        return {}
    axis, lines = sweep.curves
    found = {}
    for column in columns_of(sweep.rows, all_metrics=True):
        points = {
            line: [(x, y) for x, row in rows if (y := number(row.get(column.key))) is not None]
            for line, rows in lines.items()
        }
        if any(points.values()):
            found[f"test/{column.key} over {axis}"] = Curves(axis, points)
    return found


def run_title(run: Mapping[str, Any]) -> str:
    """Name a run by its model, its domain, its strategy, its step and the noise of decoding.

    A model without steps adds no noise; its kind of latents takes their place.
    """
    at = [f"t{run['step']}", f"eta{run['eta']:g}"] if "step" in run else [run["latents"]]
    parts = [file_name(str(part)) for part in (run["model"], run["data"], run["sampler"], *at)]
    return "_".join(filter(None, parts))


def rows_table(rows: Sequence[Row]) -> Table:
    """All rows with all their values; numbers that are not finite are left out."""
    keys = keys_of(rows)
    return Table(keys, [[_cell(row.get(key)) for key in keys] for row in rows])


def _cell(value: object) -> Cell:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return number(value)
    return None if value is None else json.dumps(value, default=str)


def _samples(folder: Path, scratch: Path, pipeline: Pipeline, outcome: Outcome) -> Table:
    """The first samples, each beside its nearest few-shot image."""
    few_shot, distances = pipeline.domain.few_shot, outcome.nearest_distance["samples"]
    rows: list[list[Cell]] = []
    for place, sample in enumerate(outcome.numbers[:SHOWN]):
        nearest = outcome.nearest_index[place]
        picture = scratch / f"{nearest}.png"
        if not picture.exists():
            save_png(to_uint8(gather(few_shot, [nearest]))[0], picture)
        file = folder / "samples" / sample_file(sample)
        rows.append([sample, file, picture, str(few_shot.names[nearest]), distances[place]])
    return Table(["number", "sample", "nearest", "name of nearest", "distance"], rows)


def _tags(*words: object) -> list[str]:
    return list(dict.fromkeys(str(word)[:_LONGEST_TAG] for word in words))
