"""The page of a study: its conclusion, sliders over its runs, its figure, its table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ood_sampler.report.columns import Column, csv_rows
from ood_sampler.report.runs import ShownRun, runs_script
from ood_sampler.report.template import File, csv_file, data_uri, page_script, render
from ood_sampler.store.files import write_atomically
from ood_sampler.studies.base import Measured, Strip, Study
from ood_sampler.studies.files import ABOUT, columns_of

_MOST_BYTES = 2_000_000
"""Of strips and films within a page; a third more as text."""

_NAMES = {
    "domain": "domain",
    "strategy": "strategy",
    "step": "t",
    "eta": "η",
    "correction": "correction",
}


def write_study_page(
    folder: Path,
    study: Study,
    measured: Measured,
    conclusion: Sequence[str],
    protocol: Mapping[str, Any],
) -> None:
    """Write `report.html` of a study beside the files that `write_study` has written.

    Args:
        folder: of the files.
        study: the question.
        measured: the answer.
        conclusion: its sentences.
        protocol: everything that it depends on.
    """
    columns = [*ABOUT, *columns_of(study, measured.rows)]
    made = study.files(measured.pictures)
    runs = [_shown(strip, measured, columns) for strip in measured.strips]
    page = render(
        "study.html.j2",
        title=study.title,
        conclusion=conclusion,
        has_runs=bool(runs),
        images=_embedded(made),
        figure=_figure(folder / study.name),
        rows=[dict(row) for row in measured.rows],
        columns=columns,
        explained=[column for column in study.headings if column.meaning],
        protocol=list(protocol.items()),
        files=[*_files(folder, study, measured), *_beside(made)],
        script=runs_script(runs) if runs else page_script(),
        warnings=None,
    )
    write_atomically(folder / "report.html", page.encode())


def _shown(strip: Strip, measured: Measured, columns: Sequence[Column]) -> ShownRun:
    """Samples of a run with the figures of its row."""
    settings = strip.settings
    row: Mapping[str, Any] = next(
        (
            row
            for row in measured.rows
            if all(row.get(key) == value for key, value in settings.items())
        ),
        {},
    )
    numbers = [
        (column.title, column.text_with_bounds(row))
        for column in columns
        if column.key not in (*settings, "model")
    ]
    return ShownRun(
        settings={_NAMES[key]: _text(value) for key, value in settings.items()},
        images=strip.images,
        numbers=numbers if row else [],
    )


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _embedded(made: Mapping[str, bytes]) -> list[tuple[str, str]]:
    """Names and sources of the strips and films of a study, as many as fit into a page."""
    found, room = [], _MOST_BYTES
    for name, content in made.items():
        kind = {".png": "image/png", ".webp": "image/webp"}.get(Path(name).suffix)
        if kind is not None and len(content) <= room:
            found.append((name, data_uri(kind, content)))
            room -= len(content)
    return found


def _beside(made: Mapping[str, bytes]) -> list[File]:
    """Strips and films beside the page; a folder of them is one entry."""
    places = Counter(name.rpartition("/")[0] for name in made)
    alone = [name for name in made if "/" not in name]
    return [
        *(File(name, "a film of the images") for name in alone),
        *(File(f"{place}/", f"{count} strips") for place, count in places.items() if place),
    ]


def _figure(path: Path) -> str:
    """The figure as a source: lines as SVG, and images, which make that large, as PNG."""
    drawn, painted = (path.with_suffix(end).read_bytes() for end in (".svg", ".png"))
    if len(drawn) <= 2 * len(painted):
        return data_uri("image/svg+xml", drawn)
    return data_uri("image/png", painted)


def _files(folder: Path, study: Study, measured: Measured) -> list[File]:
    beside = (
        (".png", "the figure"),
        (".svg", "the figure as lines"),
        (".csv", "all numbers"),
        (".md", "conclusion and table in Markdown"),
        (".json", "numbers, conclusion and protocol"),
    )
    return [
        csv_file(f"{study.name}-table.csv", csv_rows(measured.rows), "all numbers"),
        *(
            File(f"{study.name}{end}", about)
            for end, about in beside
            if (folder / f"{study.name}{end}").exists()
        ),
    ]
