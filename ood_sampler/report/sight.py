"""The sensitivity of a judge in words, from the rows of `experiment=judges`.

A row is about one judge and one degradation of known strength. It has `kind`, `strength`,
`degradation` (in words), `beyond` (words appended if stronger ones are meant too) and `detected`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ood_sampler.report.claims import listed
from ood_sampler.report.columns import Row

MEASURED = Path(__file__).parents[1] / "assets" / "judges.json"
"""Judges measured on the domains that ship; `experiments/judges` makes it."""

KEPT = ("kind", "strength", "degradation", "beyond", "multiple", "detected")
"""Keys of a row that `MEASURED` holds."""


class Sight(NamedTuple):
    """Degradations that a judge notices and misses, each kind in a few words."""

    noticed: list[str]
    missed: list[str]


def sight(rows: Sequence[Row]) -> Sight:
    """Find the strength from which a judge notices each kind of degradation.

    Args:
        rows: one per degradation.
    """
    found = Sight([], [])
    for own in _by_kind(rows):
        if any(row["detected"] for row in own):
            found.noticed.append(_threshold(own))
        else:
            found.missed.append(own[-1]["degradation"])
    return found


def cite(judge: str, domain: str, model: str, *, measured: Path = MEASURED) -> str:
    """Say what a judge can see, as measured on a domain or, failing that, on those measured.

    Args:
        judge: name of the judge.
        domain: of the run.
        model: of the run, which makes the in-domain images.
        measured: file of measurements.

    Returns:
        Sentences; empty if the judge was not measured.
    """
    if not measured.exists():
        return ""
    entries = [each for each in json.loads(measured.read_text()) if each["judge"] == judge]
    own = [each for each in entries if each["domain"] == domain]
    chosen = [each for each in own if each["model"] == model] or own or entries
    if not chosen:
        return ""
    domains = list(dict.fromkeys(each["domain"] for each in chosen))
    source = f"(experiment=judges, {listed(domains)}, {_sizes(chosen)} images)"
    if len(chosen) == 1:
        told = _plain(sight(chosen[0]["rows"]))
    else:
        told = _ranged([each["rows"] for each in chosen])
    apart = "" if own else f" {domain} was not measured: experiment=judges does it."
    return f"{told} {source}.{apart}"


def _plain(found: Sight) -> str:
    if not found.noticed:
        return f"This judge notices none of {listed(found.missed)}"
    missed = f", but not {listed(found.missed)}" if found.missed else ""
    return f"This judge notices {listed(found.noticed)}{missed}"


def _ranged(measured: Sequence[Sequence[Row]]) -> str:
    """Say what is noticed in all measurements, in some and in none."""
    everywhere, somewhere = (
        [
            {**same[0], "detected": rule(row["detected"] for row in same)}
            for same in _alike(measured)
        ]
        for rule in (all, any)
    )
    differ = [row for row, always in zip(somewhere, everywhere, strict=True) if row != always]
    always, sometimes = sight(everywhere).noticed, sight(differ).noticed
    told = f"In all measurements this judge notices {listed(always) or 'none of what was tried'}"
    if sometimes:
        told += f"; in some, {listed(sometimes)}"
    if never := sight(somewhere).missed:
        told += f"; in none, {listed(never)}"
    return told


def _alike(measured: Sequence[Sequence[Row]]) -> list[list[Row]]:
    """Rows of all measurements by their degradation."""
    found: dict[tuple[str, float], list[Row]] = {}
    for rows in measured:
        for row in rows:
            found.setdefault((row["kind"], row["strength"]), []).append(row)
    return list(found.values())


def _threshold(own: Sequence[Row]) -> str:
    """The weakest noticed degradation of a kind, and whether stronger ones are noticed too."""
    noticed = [row for row in own if row["detected"]]
    missed = [
        row for row in own if not row["detected"] and row["strength"] > noticed[0]["strength"]
    ]
    if missed:
        words, but = ([row["degradation"] for row in rows] for rows in (noticed, missed))
        return f"{listed(words)} but not {listed(but)}"
    told: str = noticed[0]["degradation"]
    return told if len(noticed) == 1 else f"{told} {noticed[0]['beyond']}"


def _by_kind(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of each kind from weak to strong, in the order of the kinds."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["kind"], []).append(row)
    return [sorted(own, key=lambda row: float(row["strength"])) for own in found.values()]


def _sizes(entries: Sequence[Mapping[str, Any]]) -> str:
    sizes = sorted({int(each["images"]) for each in entries})
    return str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
