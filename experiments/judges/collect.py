"""Put what judges saw into the package, for the pages of runs to cite.

    make table-judges
    python -m experiments.judges.collect outputs/paper/embedded/judges/*/

Folders are those of runs of `experiment=judges`; what they found replaces the file as a whole.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ood_sampler.report.sight import KEPT, MEASURED
from ood_sampler.store.files import write_atomically
from ood_sampler.studies.judges import REAL, JudgesStudy

_ABOUT = ("judge", "domain", "model")


def entries(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """What each judge saw in each domain, in a fixed order.

    Raises:
        FileNotFoundError: a folder holds no answer to the study.
        ValueError: two folders answer for one judge, domain and model.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for folder in folders:
        path = folder / f"{JudgesStudy.name}.json"
        if not path.exists():
            raise FileNotFoundError(
                f"{path} does not exist: give folders of finished runs of experiment=judges"
            )
        rows = json.loads(path.read_text())["rows"]
        for about in dict.fromkeys(tuple(row[key] for key in _ABOUT) for row in rows):
            if about in found:
                raise ValueError(
                    f"{path} is the second answer for {', '.join(about)}: leave one out"
                )
            own = [row for row in rows if tuple(row[key] for key in _ABOUT) == about]
            found[about] = _entry(about, own)
    return [found[about] for about in sorted(found)]


def _entry(about: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    (real,) = (row for row in rows if row["kind"] == REAL)
    return {
        **dict(zip(_ABOUT, about, strict=True)),
        "images": real["images"],
        "references": real["references"],
        "rows": [
            {**{key: row[key] for key in KEPT}, "multiple": round(row["multiple"], 1)}
            for row in rows
            if row is not real
        ],
    }


def text(measured: Sequence[Mapping[str, Any]]) -> str:
    """JSON with a line for each degradation, so that changes can be read."""
    parts = []
    for entry in measured:
        about = {key: value for key, value in entry.items() if key != "rows"}
        rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in entry["rows"])
        parts.append(f'{json.dumps(about)[:-1]}, "rows": [\n  {rows}\n]}}')
    return "[\n" + ",\n".join(parts) + "\n]\n"


def table(measured: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a line for each degradation, a column for each domain, the judges in each cell."""
    judges = list(dict.fromkeys(entry["judge"] for entry in measured))
    domains = list(dict.fromkeys(entry["domain"] for entry in measured))
    rows = {
        (entry["judge"], entry["domain"], row["degradation"]): row
        for entry in measured
        for row in entry["rows"]
    }
    lines = [f"| {' / '.join(judges)} | {' | '.join(domains)} |", f"|---|{'---:|' * len(domains)}"]
    for words in dict.fromkeys(words for _, _, words in rows):
        cells = [
            " / ".join(_cell(rows.get((judge, domain, words))) for judge in judges)
            for domain in domains
        ]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    return f"**{row['multiple']:.1f}**" if row["detected"] else f"{row['multiple']:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file and print a table; 1 if a folder cannot be used."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="of runs of experiment=judges")
    parser.add_argument("--to", type=Path, default=MEASURED, help="file to write")
    given = parser.parse_args(arguments)
    try:
        measured = entries(given.folders)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_atomically(given.to, text(measured).encode())
    told = {(entry["judge"], entry["domain"]) for entry in measured}
    print(f"{given.to}: {len(measured)} answers, {len(told)} pairs of a judge and a domain\n")
    print(table(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
