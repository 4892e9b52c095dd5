"""The files of a study, and how several of them become one."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from ood_sampler.metrics.opinions import as_judged, second_judges
from ood_sampler.report.columns import Column, Row, csv_rows, markdown_lines, number
from ood_sampler.report.grid import to_uint8
from ood_sampler.report.plots import bitmap, svg
from ood_sampler.report.results import write_json
from ood_sampler.report.tables import judges_of
from ood_sampler.statistics.decision import TOO_FEW, Outcome
from ood_sampler.store.files import save_state, write_atomically
from ood_sampler.studies.base import Measured, Strip, Study

Names = Mapping[str, str]
"""What is added to the names of domains."""

ABOUT = (Column("model", "model"), Column("domain", "domain"))
_PICTURES = "pictures.safetensors"
_STRIPS = "strips.safetensors"

_SECOND = (
    *("kid", "precision", "authenticity", "near_copies", "captured", "kid_gain"),
    *("smoothness", "gain", "distance"),
)
"""Metrics by further judges that tables for people show."""

_FEWEST_RANKED = 4
"""Rows that a rank correlation needs at least."""

_WORDS: Mapping[Outcome, str] = {"shown": "shown", "refuted": "refuted", "unclear": TOO_FEW}


def write_study(
    folder: Path, study: Study, measured: Measured, protocol: Mapping[str, Any]
) -> list[str]:
    """Write the answer of a study: JSON, CSV, Markdown, PNG and SVG, each named like the study.

    Beside them stand the files that the study makes of its images (`Study.files`).

    Args:
        folder: where to.
        study: the question.
        measured: the answer, for one domain or several.
        protocol: everything that it depends on.

    Returns:
        The conclusion.
    """
    conclusion = opinions(study, measured.rows, judges_of({"protocol": protocol}))
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
    if measured.strips:
        strips = {
            json.dumps([place, dict(strip.settings)]): to_uint8(strip.images)
            for place, strip in enumerate(measured.strips)
        }
        save_state(folder / _STRIPS, strips)
    write_atomically(path.with_suffix(".csv"), csv_rows(measured.rows).encode())
    text = [f"# {study.title}", "", *(f"- {sentence}" for sentence in conclusion), ""]
    columns = columns_of(study, measured.rows)
    text += [markdown_rows(columns, measured.rows), *_meanings(study.headings), ""]
    text += [f"- {key}: {value}" for key, value in protocol.items()]
    write_atomically(path.with_suffix(".md"), ("\n".join(text) + "\n").encode())
    figure = study.draw(measured.rows, measured.pictures)
    write_atomically(path.with_suffix(".png"), bitmap(figure))
    write_atomically(path.with_suffix(".svg"), svg(figure))
    for name, data in study.files(measured.pictures).items():
        write_atomically(folder / name, data)
    return conclusion


def columns_of(study: Study, rows: Sequence[Row]) -> list[Column]:
    """The columns of a study's table that a row has, those of further judges last."""
    further = [
        column.of(judge)
        for judge in second_judges(rows)
        for column in study.headings
        if column.key in _SECOND
    ]
    return [c for c in (*study.headings, *further) if any(c.key in row for row in rows)]


def opinions(study: Study, rows: Sequence[Row], judges: Sequence[str]) -> list[str]:
    """The conclusions of a study by each judge, and how far judges agree.

    Args:
        study: the question.
        rows: with the metrics of all judges.
        judges: their names, the headline's first.
    """
    others = second_judges(rows)
    if not others:
        return study.conclude(rows)
    headline = judges[0] if judges else "headline"
    views = {headline: None, **{judge: judge for judge in others}}
    judged = {name: [as_judged(row, judge) for row in rows] for name, judge in views.items()}
    told = [f"{name}: {said}" for name, own in judged.items() for said in study.conclude(own)]
    claimed = {name: study.claims(own) for name, own in judged.items()}
    for judge in others:
        told.append(_rank_agreement(headline, judge, judged))
        told += _agreement(headline, judge, claimed)
    return [sentence for sentence in told if sentence]


def _agreement(
    headline: str, judge: str, claimed: Mapping[str, Mapping[str, Outcome]]
) -> list[str]:
    """Say of each claim how both judges decide it."""
    found = []
    for claim, outcome in claimed[headline].items():
        other = claimed[judge].get(claim)
        if {outcome, other} == {"shown", "refuted"}:
            found.append(f"judges disagree ({headline}: {outcome}, {judge}: {other}): {claim}")
        elif other == outcome:
            found.append(f"both judges, {headline} and {judge}: {_WORDS[outcome]}: {claim}")
        elif other is not None:
            words = f"{headline}: {_WORDS[outcome]}, {judge}: {_WORDS[other]}"
            found.append(f"one judge alone ({words}): {claim}")
    return [f"{sentence[0].upper()}{sentence[1:]}." for sentence in found]


def _rank_agreement(headline: str, judge: str, judged: Mapping[str, Sequence[Row]]) -> str:
    """Rank correlation of the KIDs of two judges over the rows; empty if these are too few."""
    pairs = [
        (first, second)
        for rows in zip(judged[headline], judged[judge], strict=True)
        if None not in (found := [number(row.get("kid")) for row in rows])
        for first, second in [found]
    ]
    if len(pairs) < _FEWEST_RANKED:
        return ""
    from scipy.stats import kendalltau

    found = kendalltau(*zip(*pairs, strict=True))
    return (
        f"Rank correlation of KID by {headline} and by {judge} over {len(pairs)} rows: Kendall's "
        f"τ = {found.statistic:.2f} (p = {found.pvalue:.2g})."
    )


def read_studies(
    name: str, folders: Iterable[Path], *, joins: Sequence[str] | None = ()
) -> tuple[Measured, dict[str, Any]]:
    """Put the answers of several runs together, in the order of their folders.

    Args:
        name: of the study.
        folders: of the runs.
        joins: see `Study.joins`.

    Returns:
        All rows and images, and what the protocols share. If there are several models, each domain
        is named with its own. If several runs of one domain do not answer together, it is named
        with the settings that tell them apart, and `of_domain` is its name without these.

    Raises:
        FileNotFoundError: a folder holds no answer to the study.
    """
    folders = list(folders)
    runs = [
        (json.loads((folder / f"{name}.json").read_text()), load_file(folder / _PICTURES))
        for folder in folders
    ]
    # curves are of one model and one domain
    several = len({found["protocol"].get("model") for found, _ in runs}) > 1
    answers = [found for found, _ in runs]
    apart = [{} for _ in runs] if joins is None else _told_apart(folders, answers, joins)
    rows: list[Row] = []
    pictures: dict[str, Tensor] = {}
    strips: list[Strip] = []
    shared: dict[str, Any] | None = None
    first: dict[str, int] = {}
    for k, (folder, (found, shown), further) in enumerate(zip(folders, runs, apart, strict=True)):
        protocol = found["protocol"]
        of_model = f" from {protocol['model']}" if several else ""

        def named(domain: str, of_model: str = of_model, further: Names = further) -> str:
            return f"{domain}{of_model}{further.get(domain, '')}"

        for row in found["rows"]:
            domain = row["domain"]
            of_domain = {"of_domain": f"{domain}{of_model}"} if further.get(domain) else {}
            rows.append({**row, "domain": named(domain), **of_domain})
            # settings that `run` does not name may differ
            if "run" in row and first.setdefault(row["run"], k) != k:
                rows[-1] = {**rows[-1], "run": f"{row['run']}-{k}"}
        strips += _read_strips(folder / _STRIPS, named)
        for key, picture in shown.items():
            domain, slash, label = key.partition("/")
            pictures[f"{named(domain)}{slash}{label}"] = picture.float() / 127.5 - 1
        shared = protocol if shared is None else _shared(shared, protocol)
    return Measured(rows, pictures, strips), shared or {}


def _told_apart(
    folders: Sequence[Path], answers: Sequence[Mapping[str, Any]], joins: Sequence[str]
) -> list[dict[str, str]]:
    """What to add to the names of a run's domains, where other runs have the same."""
    found: list[dict[str, str]] = [{} for _ in answers]
    places: dict[tuple[str | None, str], list[int]] = defaultdict(list)
    for k, answer in enumerate(answers):
        for domain in dict.fromkeys(row["domain"] for row in answer["rows"]):
            places[answer["protocol"].get("model"), domain].append(k)
    for (_, domain), same in places.items():
        if len(same) < 2:
            continue
        given = [_settings(folders[k], answers[k]["protocol"]) for k in same]
        names = _differences(given, joins)
        if not joins and len(set(names)) < len(names):
            names = [f"run {folders[k].name}" for k in same]
        for k, name in zip(same, names, strict=True):
            found[k][domain] = f", {name}" if name else ""
    return found


def _settings(folder: Path, protocol: Mapping[str, Any]) -> dict[str, str]:
    """What a run was told on the command line; without a record of that, its protocol."""
    told = folder / ".hydra" / "overrides.yaml"
    if not told.exists():
        return {key: str(value) for key, value in protocol.items() if not _is_long(key)}
    split = (str(text).lstrip("+~").partition("=") for text in OmegaConf.load(told))
    return {key: value for key, _, value in split if not key.startswith(_PLACES)}


_PLACES = ("hydra.", "output", "sweep")
"""Settings that say where a run leaves its files."""


def _is_long(key: str) -> bool:
    """Whether a line of the protocol is no name for a run."""
    return "sha256" in key or key.startswith("judge ") or key in ("warnings", "scale")


def _differences(given: Sequence[Mapping[str, str]], joins: Sequence[str]) -> list[str]:
    """Name runs by the settings in which they differ, but those that they answer together over."""
    keys = dict.fromkeys(key for settings in given for key in settings)
    differing = [
        key
        for key in keys
        if key.partition(".")[0] not in joins and len({settings.get(key) for settings in given}) > 1
    ]
    return [
        ", ".join(f"{key} {settings[key]}" for key in differing if key in settings)
        for settings in given
    ]


def _read_strips(path: Path, named: Callable[[str], str]) -> list[Strip]:
    """First samples of the runs of a study in their order, if it is a sweep."""
    found = load_file(path) if path.exists() else {}
    strips = []
    for _, settings, images in sorted(
        ((*json.loads(key), images) for key, images in found.items()), key=lambda each: each[0]
    ):
        domain = named(settings["domain"])
        strips.append(Strip({**settings, "domain": domain}, images.float() / 127.5 - 1))
    return strips


def markdown_rows(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """The table of a study in Markdown, intervals in brackets."""
    shown = [*ABOUT, *columns]
    lines = [[column.heading for column in shown], ["---"] * len(shown)]
    lines += [[column.text_with_bounds(row) for column in shown] for row in rows]
    return markdown_lines(lines)


def _shared(protocol: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {k: value for k, value in protocol.items() if k in other and other[k] == value}


def _meanings(columns: Sequence[Column]) -> list[str]:
    return [f"- **{c.heading}**: {c.meaning}" for c in columns if c.meaning]
