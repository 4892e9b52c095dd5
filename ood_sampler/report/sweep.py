"""The runs of a sweep: what tells them apart, and their rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from ood_sampler.metrics.opinions import plain
from ood_sampler.report.columns import Row, number
from ood_sampler.report.tables import Results, strategy

Setting: TypeAlias = Mapping[str, str]
"""Values of the overridden keys of a run."""


class SweptRun(NamedTuple):
    """A run of a sweep.

    Attributes:
        label: its overrides, which tell it from the others.
        results: as in its `metrics.json`.
        samples: the first ones.
    """

    label: str
    results: Results
    samples: Tensor


class SweptCurves(NamedTuple):
    """Rows over the values of a key, by the settings of the others."""

    axis: str
    lines: dict[str, list[tuple[float, Row]]]


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep, in the order of its table.

    Raises:
        ValueError: there are no runs.
    """

    runs: Sequence[SweptRun]

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("runs must not be empty: a sweep needs at least one finished run")

    @cached_property
    def settings(self) -> list[Setting]:
        """The overrides of each run."""
        return [overrides(run.label) for run in self.runs]

    @cached_property
    def swept(self) -> list[str]:
        """The swept keys."""
        return swept_keys(self.settings)

    @cached_property
    def labels(self) -> list[str]:
        """A name of each run, from the values of the swept keys."""
        shown = _last_parts(self.swept)
        return [
            ", ".join(f"{shown[key]}={setting[key]}" for key in self.swept if key in setting)
            or str(strategy(run.results)["name"])
            for setting, run in zip(self.settings, self.runs, strict=True)
        ]

    @cached_property
    def rows(self) -> list[Row]:
        """The row of the strategy of each run."""
        return [
            {**strategy(run.results), "name": label}
            for label, run in zip(self.labels, self.runs, strict=True)
        ]

    @cached_property
    def shared_rows(self) -> list[Row]:
        """References and controls, those that are the same in several runs once."""
        found: dict[str, list[tuple[str, Row]]] = {}
        for label, run in zip(self.labels, self.runs, strict=True):
            for row in run.results["rows"]:
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

    @cached_property
    def verdicts(self) -> list[Sequence[Mapping[str, Any]]]:
        """The verdicts of each run, as stored."""
        return [run.results.get("verdicts") or () for run in self.runs]

    @cached_property
    def table_rows(self) -> list[Row]:
        """All rows: the runs, each with its swept settings, then references and controls.

        Outcomes of verdicts are `verdict_<key>` in the rows of runs.
        """
        rows = [
            {
                **row,
                **{key: setting.get(key, "") for key in self.swept},
                **{f"verdict_{verdict['key']}": verdict["outcome"] for verdict in verdicts},
            }
            for row, setting, verdicts in zip(self.rows, self.settings, self.verdicts, strict=True)
        ]
        return [*rows, *self.shared_rows]

    @cached_property
    def curves(self) -> SweptCurves | None:
        """Rows over the numeric key with most values; None if no numeric key was swept."""
        numeric = [
            key for key in self.swept if all(parsed(s.get(key)) is not None for s in self.settings)
        ]
        if not numeric:
            return None
        axis = max(numeric, key=lambda key: len({setting[key] for setting in self.settings}))
        lines: dict[str, list[tuple[float, Row]]] = {}
        for setting, row in zip(self.settings, self.rows, strict=True):
            others = [f"{key}={setting.get(key, '')}" for key in self.swept if key != axis]
            point = (float(setting[axis]), row)
            lines.setdefault(", ".join(others) or "samples", []).append(point)
        return SweptCurves(axis, lines)


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


def swept_keys(settings: Sequence[Setting]) -> list[str]:
    """Find the keys that are not the same in all runs, in order of appearance."""
    keys = dict.fromkeys(key for setting in settings for key in setting)
    return [key for key in keys if len({setting.get(key) for setting in settings}) > 1]


def parsed(text: str | None) -> float | None:
    """The finite number that a text holds, if it holds one."""
    try:
        return number(float(text or ""))
    except ValueError:
        return None


def _last_parts(keys: Sequence[str]) -> dict[str, str]:
    """Shorten keys to what follows their last dot, if that tells them apart."""
    parts = [key.rpartition(".")[2] for key in keys]
    return dict(zip(keys, parts if len(set(parts)) == len(parts) else keys, strict=True))
