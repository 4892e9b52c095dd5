"""Rows of all domains: those that `measure` left in a folder, or the ones kept in one CSV file.

    python -m experiments.frontier.rows outputs/frontier/rows > experiments/frontier/rows.csv

The file holds what `goals` and `figure` read, so that tables and figure can be made again without
the measurement.
"""

import csv
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ood_sampler.metrics.opinions import of_judge
from ood_sampler.report.columns import csv_rows
from ood_sampler.store.files import load_json

JUDGES = ("imagenet", "features32")
"""The headline judge and the second opinion."""


class Place(NamedTuple):
    """What a file of rows was measured on."""

    model: str
    domain: str
    few_shot: int
    seed: int


Rows = Mapping[str, Mapping[str, Any]]
"""Rows of one place by the keys of settings."""

_PLACE = Place._fields
_OPINION = (
    "kid",
    "kid_standard_error",
    "authenticity",
    "authenticity_low",
    "authenticity_high",
    "near_copies",
)
_KEPT = ("images", *_OPINION, "blend_five", *(of_judge(JUDGES[1], key) for key in _OPINION))


def rows_in(place: Path) -> dict[Place, Rows]:
    """Rows of every place: of a folder of JSON files, or of a CSV file.

    Settings whose strategy gave up have no figures and are left out.

    Raises:
        FileNotFoundError: there is neither.
    """
    if place.is_dir():
        return {_place(file): _given(file) for file in sorted(place.glob("*.json"))}
    found: dict[Place, dict[str, Any]] = defaultdict(dict)
    with place.open(newline="") as file:
        for line in csv.DictReader(file):
            where = Place(line["model"], line["domain"], int(line["few_shot"]), int(line["seed"]))
            found[where][line["setting"]] = {key: float(line[key]) for key in _KEPT if line[key]}
    return dict(found)


def _place(file: Path) -> Place:
    model, domain, few_shot, seed = file.stem.rsplit("_", 3)
    return Place(model, domain, int(few_shot), int(seed))


def _given(file: Path) -> Rows:
    return {key: row for key, row in (load_json(file) or {}).items() if "gave_up" not in row}


def main(write: Callable[[str], object] = sys.stdout.write) -> None:
    """Print the rows of a folder as CSV."""
    lines = [
        {**place._asdict(), "setting": key, **{name: float(f"{row[name]:.6g}") for name in _KEPT}}
        for place, rows in rows_in(Path(sys.argv[1])).items()
        for key, row in rows.items()
    ]
    write(csv_rows(lines, [*_PLACE, "setting", *_KEPT]))


if __name__ == "__main__":
    main()
