"""One table, one picture and one plot over all runs of a sweep."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from ood_sampler.metrics.opinions import plain
from ood_sampler.report.claims import Verdict
from ood_sampler.report.grid import save_png, strip
from ood_sampler.report.plots import bitmap, curves
from ood_sampler.report.results import write_json
from ood_sampler.report.tables import (
    Results,
    Row,
    csv_table,
    judged_by,
    markdown_table,
    number,
    strategy,
    sweep_table,
)
from ood_sampler.report.terminal import TerminalTable
from ood_sampler.report.verdicts import conclusion, verdicts
from ood_sampler.statistics.decision import counted
from ood_sampler.store.files import write_atomically

Run: TypeAlias = tuple[str, Results, Tensor]
"""Overrides that tell the run from the others, what it found, and its first samples."""

_SHOWN = 12
"""Samples shown of each run where runs stand below each other."""

_BLOCK = 2
"""Rows and columns of samples shown of each run where runs stand in a table."""


def write_sweep(folder: Path, runs: Sequence[Run]) -> TerminalTable:
    """Write `sweep.csv`, `sweep.md`, `sweep.json`, `sweep.png` and `sweep_curves.png`.

    The picture shows the same sample numbers of each run: runs one below the other, or as a table
    where two keys were swept. The plot is there where a key with numbers was swept. Each file is
    written atomically.

    Args:
        folder: Where to.
        runs: In the order of the table.

    Returns:
        The table, for a terminal.
    """
    if not runs:
        raise ValueError("runs must not be empty: a sweep needs at least one finished run")
    settings = _settings(runs)
    swept = swept_keys(settings)
    labels = _labels(settings, runs)
    rows = _rows(labels, runs)
    shared = _shared_rows(labels, runs)

    judged = [verdicts(results) for _, results, _ in runs]
    asked = dict.fromkeys(f"verdict_{verdict.key}" for own in judged for verdict in own)
    text = csv_table(table_rows(runs), first=swept, last=list(asked))
    write_atomically(folder / "sweep.csv", text.encode())
    title = f"Sweep over {' and '.join(swept)}" if swept else "Sweep of one run"
    told = judged_by([results for _, results, _ in runs])
    caption = ", ".join(filter(None, (title, "against held-out pictures", told)))
    table = f"{caption}:\n\n{markdown_table([*rows, *shared])}"
    write_atomically(folder / "sweep.md", f"{table}\n{_counted(judged)}".encode())
    write_json(folder / "sweep.json", _summary(settings, runs, judged))
    save_png(_picture(settings, swept, runs), folder / "sweep.png")
    drawn = swept_curves(runs)
    if drawn is not None:
        axis, lines = drawn
        write_atomically(folder / "sweep_curves.png", bitmap(curves(axis, lines, shared)))
    return sweep_table(title, [*rows, *shared], judged=told)


def table_rows(runs: Sequence[Run]) -> list[Row]:
    """All rows of a sweep: the runs, each with what was swept, then references and controls.

    Outcomes of verdicts are `verdict_<key>` in the rows of runs.
    """
    settings = _settings(runs)
    labels, swept = _labels(settings, runs), swept_keys(settings)
    rows = [
        {
            **row,
            **{key: setting.get(key, "") for key in swept},
            **{f"verdict_{verdict.key}": verdict.outcome for verdict in verdicts(results)},
        }
        for row, setting, (_, results, _) in zip(_rows(labels, runs), settings, runs, strict=True)
    ]
    return [*rows, *_shared_rows(labels, runs)]


def swept_curves(runs: Sequence[Run]) -> tuple[str, dict[str, list[tuple[float, Row]]]] | None:
    """The key with numbers that makes the axis, and rows over it; None where none was swept.

    The key with most values makes the axis, each combination of the others a line.
    """
    settings = _settings(runs)
    swept = swept_keys(settings)
    numeric = [key for key in swept if all(_number(s.get(key)) is not None for s in settings)]
    if not numeric:
        return None
    axis = max(numeric, key=lambda key: len({s[key] for s in settings}))
    return axis, _lines(axis, swept, settings, _rows(_labels(settings, runs), runs))


def _settings(runs: Sequence[Run]) -> list[dict[str, str]]:
    return [overrides(label) for label, _, _ in runs]


def _labels(settings: Sequence[dict[str, str]], runs: Sequence[Run]) -> list[str]:
    swept = swept_keys(settings)
    shown = _last_parts(swept)
    return [
        ", ".join(f"{shown[key]}={setting[key]}" for key in swept if key in setting)
        or str(strategy(results)["name"])
        for setting, (_, results, _) in zip(settings, runs, strict=True)
    ]


def _rows(labels: Sequence[str], runs: Sequence[Run]) -> list[Row]:
    return [
        {**strategy(results), "name": label}
        for label, (_, results, _) in zip(labels, runs, strict=True)
    ]


def overrides(label: str) -> dict[str, str]:
    """Split `key=value,key=value` at the commas that are not within brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for character in label:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += character
    pairs = (part.strip().lstrip("+").partition("=") for part in parts if "=" in part)
    return {key: value for key, _, value in pairs}


def swept_keys(settings: Sequence[dict[str, str]]) -> list[str]:
    """Find the keys that are not the same in all runs, in order of appearance."""
    keys = dict.fromkeys(key for setting in settings for key in setting)
    return [key for key in keys if len({setting.get(key) for setting in settings}) > 1]


def _last_parts(keys: Sequence[str]) -> dict[str, str]:
    """Shorten keys to what follows their last dot, where that tells them apart."""
    parts = [key.rpartition(".")[2] for key in keys]
    return dict(zip(keys, parts if len(set(parts)) == len(parts) else keys, strict=True))


def _number(text: str | None) -> float | None:
    try:
        return number(float(text or ""))
    except ValueError:
        return None


def _shared_rows(labels: Sequence[str], runs: Sequence[Run]) -> list[Row]:
    """Collect references and controls, those that are the same in several runs once."""
    found: dict[str, list[tuple[str, Row]]] = {}
    for label, (_, results, _) in zip(labels, runs, strict=True):
        for row in results["rows"]:
            if row["role"] == "strategy":
                continue
            # by how much the KID exceeds that of the samples is of the run alone
            row = {k: v for k, v in row.items() if not plain(k).startswith("kid_above")}
            known = found.setdefault(row["name"], [])
            if all(other != row for _, other in known):
                known.append((label, row))
    rows = [
        row if len(variants) == 1 else {**row, "name": f"{name} ({label})"}
        for name, variants in found.items()
        for label, row in variants
    ]
    return sorted(rows, key=lambda row: row["role"] == "control")


def _counted(judged: Sequence[Sequence[Verdict]]) -> str:
    """Say of each question in how many runs a yes is shown, refuted, or neither."""
    outcomes: dict[str, list[str]] = {}
    for own in judged:
        for verdict in own:
            outcomes.setdefault(verdict.question, []).append(verdict.outcome)
    return "".join(f"- {question} {counted(found)}.\n" for question, found in outcomes.items())


def _summary(
    settings: Sequence[dict[str, str]], runs: Sequence[Run], judged: Sequence[Sequence[Verdict]]
) -> dict[str, Any]:
    kept = ("run", "rows", "reconstruction")
    return {
        "runs": [
            {
                "label": label,
                "overrides": setting,
                **{key: results[key] for key in kept if key in results},
                "verdicts": [verdict.as_dict() for verdict in own],
                "conclusion": conclusion(own),
            }
            for setting, (label, results, _), own in zip(settings, runs, judged, strict=True)
        ]
    }


def _picture(
    settings: Sequence[dict[str, str]], swept: Sequence[str], runs: Sequence[Run]
) -> Tensor:
    places = {tuple(setting.get(key, "") for key in swept) for setting in settings}
    if len(swept) != 2 or len(places) < len(runs):
        return strip(
            [[samples[:_SHOWN]] for _, _, samples in runs],
            row_labels=[
                "\n".join(f"{key}={setting[key]}" for key in swept if key in setting)
                for setting in settings
            ],
            columns=_SHOWN,
        )
    down, across = (_values(key, settings) for key in swept)
    blocks: list[list[Tensor | None]] = [[None] * len(across) for _ in down]
    for setting, (_, _, samples) in zip(settings, runs, strict=True):
        i, j = (
            values.index(setting.get(key, ""))
            for values, key in zip((down, across), swept, strict=True)
        )
        blocks[i][j] = samples[: _BLOCK**2]
    return strip(
        blocks,
        row_labels=[f"{swept[0]}={value}" for value in down],
        column_labels=[f"{swept[1]}={value}" for value in across],
        columns=_BLOCK,
    )


def _values(key: str, settings: Sequence[dict[str, str]]) -> list[str]:
    """List the values of a key: numbers in increasing order, all else in order of appearance."""
    values = list(dict.fromkeys(setting.get(key, "") for setting in settings))
    numbers = {value: found for value in values if (found := _number(value)) is not None}
    return sorted(values, key=numbers.__getitem__) if len(numbers) == len(values) else values


def _lines(
    axis: str,
    swept: Sequence[str],
    settings: Sequence[dict[str, str]],
    rows: Sequence[Row],
) -> dict[str, list[tuple[float, Row]]]:
    lines: dict[str, list[tuple[float, Row]]] = {}
    for setting, row in zip(settings, rows, strict=True):
        others = [f"{key}={setting.get(key, '')}" for key in swept if key != axis]
        point = (float(setting[axis]), row)
        lines.setdefault(", ".join(others) or "samples", []).append(point)
    return lines
