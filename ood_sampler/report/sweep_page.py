"""The page of a sweep: sliders over its settings, its table, its curves, its images."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from ood_sampler.report.plots import svg
from ood_sampler.report.run_columns import columns_of, narrow_columns
from ood_sampler.report.run_plots import curves
from ood_sampler.report.runs import ShownRun, runs_script
from ood_sampler.report.sweep import Sweep
from ood_sampler.report.sweep_files import counted_verdicts
from ood_sampler.report.tables import csv_table, judged_by
from ood_sampler.report.template import File, csv_file, data_uri, render
from ood_sampler.store.files import write_atomically

_NAMES = {"inversion.step": "t", "decode.eta": "η", "sampler": "strategy"}

_FILES = (
    ("sweep.csv", "all numbers of all runs"),
    ("sweep.md", "the table in Markdown"),
    ("sweep.json", "figures and verdicts of all runs"),
    ("sweep.png", "first samples of all runs"),
    ("sweep_curves.png", "the curves"),
)


def write_sweep_page(path: Path, sweep: Sweep, links: Sequence[str]) -> None:
    """Write the page of a sweep beside its files.

    Args:
        path: where to, `report.html`; written atomically.
        sweep: its runs.
        links: from this page to that of each run; empty for a run without one.
    """
    write_atomically(path, sweep_page(sweep, links, path.parent).encode())


def sweep_page(sweep: Sweep, links: Sequence[str], folder: Path) -> str:
    """Write the page of a sweep as HTML; arguments as for `write_sweep_page`."""
    rows = [*sweep.rows, *sweep.shared_rows]
    columns = narrow_columns(sweep.rows)
    shown = [
        ShownRun(
            settings={_NAMES.get(key, key): setting.get(key, "") for key in sweep.swept},
            images=run.samples,
            numbers=[(column.title, column.text_with_bounds(row)) for column in columns],
            link=link,
        )
        for setting, run, row, link in zip(
            sweep.settings, sweep.runs, sweep.rows, links, strict=True
        )
    ]
    plots = []
    if sweep.curves is not None:
        figure = curves(sweep.curves.axis, sweep.curves.lines, sweep.shared_rows)
        caption = f"Scores over {_NAMES.get(sweep.curves.axis, sweep.curves.axis)}."
        plots.append((caption, data_uri("image/svg+xml", svg(figure))))
    files = [
        csv_file("sweep-table.csv", csv_table(sweep.table_rows, first=sweep.swept), "the table"),
        *(File(name, about) for name, about in _FILES if (folder / name).exists()),
    ]
    image = folder / "sweep.png"
    return render(
        "sweep.html.j2",
        title=_title([_NAMES.get(key, key) for key in sweep.swept]),
        runs=list(zip(sweep.labels, links, strict=True)),
        models=_listed(str(run.results["run"]["model"]) for run in sweep.runs),
        domains=_listed(str(run.results["run"]["data"]) for run in sweep.runs),
        judged=judged_by([run.results for run in sweep.runs]),
        verdicts=counted_verdicts(sweep),
        rows=rows,
        columns=columns_of(rows),
        plots=plots,
        image=data_uri("image/png", image.read_bytes()) if image.exists() else "",
        files=files,
        script=runs_script(shown),
        warnings=None,
    )


def _title(swept: Sequence[str]) -> str:
    if not swept:
        return "Sweep of one run"
    *before, last = swept
    return f"Sweep over {', '.join(before)} and {last}" if before else f"Sweep over {last}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
