"""The files of a sweep: one table, one sheet and one plot over all its runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ood_sampler.report.grid import save_png, strip
from ood_sampler.report.plots import bitmap
from ood_sampler.report.results import write_json
from ood_sampler.report.run_plots import curves
from ood_sampler.report.sweep import Setting, Sweep, parsed
from ood_sampler.report.tables import csv_table, judged_by, markdown_table, sweep_table
from ood_sampler.report.terminal import TerminalTable
from ood_sampler.statistics.decision import counted
from ood_sampler.store.files import write_atomically

_SHOWN = 12
"""Samples shown per run where runs stand below each other."""

_BLOCK = 2
"""Rows and columns of samples shown per run where runs stand in a table."""


def write_sweep(folder: Path, sweep: Sweep) -> TerminalTable:
    """Write `sweep.csv`, `sweep.md`, `sweep.json`, `sweep.png` and `sweep_curves.png`.

    The image shows the same sample numbers of each run: runs one below the other, or as a table
    if two keys were swept. The plot is left out unless a numeric key was swept. Each file is
    written atomically.

    Returns:
        The table, for a terminal.
    """
    asked = dict.fromkeys(f"verdict_{verdict['key']}" for own in sweep.verdicts for verdict in own)
    text = csv_table(sweep.table_rows, first=sweep.swept, last=list(asked))
    write_atomically(folder / "sweep.csv", text.encode())
    rows = [*sweep.rows, *sweep.shared_rows]
    title = f"Sweep over {' and '.join(sweep.swept)}" if sweep.swept else "Sweep of one run"
    told = judged_by([run.results for run in sweep.runs])
    caption = ", ".join(filter(None, (title, "against held-out images", told)))
    table = f"{caption}:\n\n{markdown_table(rows)}"
    said = "".join(f"- {sentence}\n" for sentence in counted_verdicts(sweep))
    write_atomically(folder / "sweep.md", f"{table}\n{said}".encode())
    write_json(folder / "sweep.json", _summary(sweep))
    save_png(_picture(sweep), folder / "sweep.png")
    if sweep.curves is not None:
        figure = curves(sweep.curves.axis, sweep.curves.lines, sweep.shared_rows)
        write_atomically(folder / "sweep_curves.png", bitmap(figure))
    return sweep_table(title, rows, judged=told)


def counted_verdicts(sweep: Sweep) -> list[str]:
    """Say of each question in how many runs a yes is shown, refuted, or neither."""
    outcomes: dict[str, list[str]] = {}
    for own in sweep.verdicts:
        for verdict in own:
            outcomes.setdefault(verdict["question"], []).append(verdict["outcome"])
    return [f"{question} {counted(found)}." for question, found in outcomes.items()]


def _summary(sweep: Sweep) -> dict[str, Any]:
    kept = ("run", "rows", "reconstruction", "verdicts", "conclusion")
    return {
        "runs": [
            {
                "label": run.label,
                "overrides": setting,
                **{key: run.results[key] for key in kept if key in run.results},
            }
            for setting, run in zip(sweep.settings, sweep.runs, strict=True)
        ]
    }


def _picture(sweep: Sweep) -> Tensor:
    """Draw the first samples of each run."""
    settings, swept = sweep.settings, sweep.swept
    places = {tuple(setting.get(key, "") for key in swept) for setting in settings}
    if len(swept) != 2 or len(places) < len(sweep.runs):
        return strip(
            [[run.samples[:_SHOWN]] for run in sweep.runs],
            row_labels=[
                "\n".join(f"{key}={setting[key]}" for key in swept if key in setting)
                for setting in settings
            ],
            columns=_SHOWN,
        )
    down, across = (_values(key, settings) for key in swept)
    blocks: list[list[Tensor | None]] = [[None] * len(across) for _ in down]
    for setting, run in zip(settings, sweep.runs, strict=True):
        i, j = (
            values.index(setting.get(key, ""))
            for values, key in zip((down, across), swept, strict=True)
        )
        blocks[i][j] = run.samples[: _BLOCK**2]
    return strip(
        blocks,
        row_labels=[f"{swept[0]}={value}" for value in down],
        column_labels=[f"{swept[1]}={value}" for value in across],
        columns=_BLOCK,
    )


def _values(key: str, settings: Sequence[Setting]) -> list[str]:
    """The values of a key: numbers in increasing order, all else in order of appearance."""
    values = list(dict.fromkeys(setting.get(key, "") for setting in settings))
    numbers = {value: found for value in values if (found := parsed(value)) is not None}
    return sorted(values, key=numbers.__getitem__) if len(numbers) == len(values) else values
