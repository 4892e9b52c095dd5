"""The metrics of a run as tables: for a terminal, for Markdown, for CSV.

`Results` is what a run found, as it stands in `metrics.json`: `run` (names and numbers of the run),
`protocol`, `rows` (each with `name`, `role`, `samples` and the metrics; null where a metric has no
meaning), `reconstruction`, `stages`, `distributions`, `skipped`, `warnings`, `verdicts` and their
`conclusion`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ood_sampler.report.columns import Row, csv_rows, markdown_lines
from ood_sampler.report.run_columns import columns_of, narrow_columns
from ood_sampler.report.terminal import Line, TerminalTable

Results: TypeAlias = Mapping[str, Any]

IN_DOMAIN = "in-domain samples"
"""Name of the reference row of samples from pure noise (the ceiling)."""

_CAPTION = "against held-out images; ↓ lower is better, ↑ higher is better"


def strategy(results: Results) -> Row:
    """Find the row of the strategy.

    Raises:
        ValueError: there is none.
    """
    for row in results["rows"]:
        if row["role"] == "strategy":
            return dict(row)
    raise ValueError("rows must hold one of role strategy, got none")


def judges_of(results: Results) -> list[str]:
    """Names of the judges of a run, the headline first; empty if unknown."""
    told = str((results.get("protocol") or {}).get("judges") or "")
    return [name for name in told.split(", ") if name]


def judged_by(runs: Sequence[Results]) -> str:
    """Name the judge of the columns of several runs that name none; empty if unknown."""
    headlines = list(dict.fromkeys(judges_of(run)[0] for run in runs if judges_of(run)))
    if len(headlines) > 1:
        return (
            f"where no judge is named, by the headline of each run ({', '.join(headlines)}), so "
            "that runs of different ones do not compare"
        )
    return f"judged by {headlines[0]} where no other is named" if headlines else ""


def title_of(run: Mapping[str, Any]) -> str:
    """Name a run by its domain, its model, its strategy and where its latents lie."""
    at = f"step {run['step']}" if "step" in run else run["latents"]
    return f"{run['data']} from {run['model']}: {run['sampler']}{f', {at}' if at else ''}"


def rich_table(results: Results) -> TerminalTable:
    """Show a run in a terminal: a line per metric, a column per set."""
    run, rows = results["run"], results["rows"]
    judged = judged_by([results]) if len(judges_of(results)) > 1 else ""
    return TerminalTable(
        title=(
            f"{title_of(run)}, eta {run['eta']}, {run['num_samples']} samples, seed {run['seed']}"
        ),
        headings=[str(row["name"]) for row in rows],
        lines=[
            Line(column.title, [column.text(row) for row in rows]) for column in columns_of(rows)
        ],
        bold=[k for k, row in enumerate(rows) if row["role"] == "strategy"],
        caption=_caption(judged),
    )


def sweep_table(title: str, rows: Sequence[Row], *, judged: str = "") -> TerminalTable:
    """Show many runs in a terminal: a line per run, with the metrics that tell runs apart.

    Args:
        title: of the table.
        rows: its lines.
        judged: who judged, as `judged_by` says it.
    """
    columns = narrow_columns(rows)
    return TerminalTable(
        title=title,
        headings=[column.narrow + column.arrow for column in columns],
        lines=[
            Line(
                str(row["name"]),
                [column.text(row) for column in columns],
                bold=row["role"] == "strategy",
                last=following is not None and following["role"] != row["role"],
            )
            for row, following in zip(rows, [*rows[1:], None], strict=True)
        ],
        caption=_caption(judged),
    )


def _caption(judged: str) -> str:
    return "; ".join(filter(None, (_CAPTION, judged)))


def markdown_table(rows: Sequence[Row]) -> str:
    """Write rows as a Markdown table, with the metrics rounded as in all other tables."""
    columns = columns_of(rows)
    lines = [
        ["set", *(column.title for column in columns)],
        ["---", *("---:" for _ in columns)],
        *([str(row["name"]), *(column.text(row) for column in columns)] for row in rows),
    ]
    return markdown_lines(lines)


def csv_table(rows: Sequence[Row], *, first: Sequence[str] = (), last: Sequence[str] = ()) -> str:
    """Write the metrics of rows as CSV with all digits.

    Args:
        rows: what to write.
        first: further keys of the rows, as first columns.
        last: likewise, as last columns.
    """
    metrics = [key for column in columns_of(rows, all_metrics=True) for key in column.keys]
    return csv_rows(rows, [*first, "name", "role", *metrics, *last])
