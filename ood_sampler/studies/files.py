"""What a study leaves in its folder, and how several of them become one."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from ood_sampler.data.artifact import save_state, write_atomically
from ood_sampler.report.grid import to_uint8
from ood_sampler.report.plots import bitmap, svg
from ood_sampler.report.results import write_json
from ood_sampler.report.tables import MISSING, number
from ood_sampler.studies.base import Heading, Measured, Row, Study

_ABOUT = (Heading("model", "model"), Heading("domain", "domain"))
_PICTURES = "pictures.safetensors"


def write_study(
    folder: Path, study: Study, measured: Measured, protocol: Mapping[str, Any]
) -> list[str]:
    """Write the answer of a study: JSON, CSV, Markdown, PNG and SVG, each named like the study.

    Args:
        folder: where to.
        study: what was asked.
        measured: what was found, for one domain or for several.
        protocol: what the figures depend on.

    Returns:
        The conclusion.
    """
    conclusion = study.conclude(measured.rows)
    path = folder / study.name
    write_json(
        path.with_suffix(".json"),
        {
            "study": study.name,
            "rows": [dict(row) for row in measured.rows],
            "conclusion": conclusion,
            "protocol": dict(protocol),
        },
    )
    save_state(folder / _PICTURES, {key: to_uint8(x) for key, x in measured.pictures.items()})
    write_atomically(path.with_suffix(".csv"), csv_rows(measured.rows).encode())
    text = [f"# {study.title}", "", *(f"- {sentence}" for sentence in conclusion), ""]
    text += [markdown_rows(study.headings, measured.rows), *_meanings(study.headings), ""]
    text += [f"- {key}: {value}" for key, value in protocol.items()]
    write_atomically(path.with_suffix(".md"), ("\n".join(text) + "\n").encode())
    figure = study.draw(measured.rows, measured.pictures)
    write_atomically(path.with_suffix(".png"), bitmap(figure))
    write_atomically(path.with_suffix(".svg"), svg(figure))
    return conclusion


def read_studies(name: str, folders: Iterable[Path]) -> tuple[Measured, dict[str, Any]]:
    """Put the answers of several runs together, in the order of their folders.

    Returns:
        All rows and pictures, and of the protocols what they share. Where there are several models
        each domain is named with its own.

    Raises:
        FileNotFoundError: a folder holds no answer to the study.
    """
    runs = [
        (json.loads((folder / f"{name}.json").read_text()), load_file(folder / _PICTURES))
        for folder in folders
    ]
    # curves are of one model and one domain
    several = len({found["protocol"].get("model") for found, _ in runs}) > 1
    rows: list[Row] = []
    pictures: dict[str, Tensor] = {}
    shared: dict[str, Any] | None = None
    for found, strips in runs:
        protocol = found["protocol"]
        of_model = f" from {protocol['model']}" if several else ""
        rows += [{**row, "domain": f"{row['domain']}{of_model}"} for row in found["rows"]]
        for key, picture in strips.items():
            domain, slash, label = key.partition("/")
            pictures[f"{domain}{of_model}{slash}{label}"] = picture.float() / 127.5 - 1
        shared = protocol if shared is None else _shared(shared, protocol)
    return Measured(rows, pictures), shared or {}


def csv_rows(rows: Sequence[Row]) -> str:
    """All figures with all digits; one that is missing is an empty field."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, keys, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                key: "" if isinstance(value, float) and number(value) is None else value
                for key, value in row.items()
            }
        )
    return text.getvalue()


def markdown_rows(headings: Sequence[Heading], rows: Sequence[Row]) -> str:
    """The columns of a study as a Markdown table, intervals in brackets."""
    shown = [*_ABOUT, *headings]
    lines = [[heading.text for heading in shown], ["---"] * len(shown)]
    lines += [[text(heading, row) for heading in shown] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def text(heading: Heading, row: Row) -> str:
    """One figure of a row, with its interval where it has one."""
    value = row.get(heading.key)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value.replace("|", "\\|")
    shown = [_figure(heading, row.get(heading.key + end)) for end in ("", "_low", "_high")]
    return shown[0] if MISSING in shown[1:] else f"{shown[0]} [{shown[1]}, {shown[2]}]"


def _shared(protocol: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {k: value for k, value in protocol.items() if k in other and other[k] == value}


def _figure(heading: Heading, value: object) -> str:
    found = number(value)
    if found is None:
        return MISSING
    found *= heading.scale
    if heading.digits is None:
        return f"{found:.3g}"
    return f"{found:.{heading.digits}f}"


def _meanings(headings: Sequence[Heading]) -> list[str]:
    return [f"- **{h.text}**: {h.meaning}" for h in headings if h.meaning]
