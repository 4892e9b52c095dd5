import csv
import errno
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Column, Row, csv_rows
from ood_sampler.report.plots import panel_figure
from ood_sampler.statistics.decision import Outcome, decide
from ood_sampler.statistics.intervals import interval, with_bounds
from ood_sampler.statistics.resampling import Interval
from ood_sampler.studies.base import Measured, Study
from ood_sampler.studies.files import (
    columns_of,
    markdown_rows,
    opinions,
    read_studies,
    write_study,
)
from ood_sampler.studies.rows import units

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ToyStudy(Study):
    name = "toy"
    title = "Toys"
    headings = (
        Column("colour", "colour"),
        Column("size", "size in mm", 1, 1e3, meaning="From end to end."),
        Column("parts", "parts", 0),
        Column("rate", "rate"),
        Column("broken", "broken"),
    )

    def measure(self, pipeline: Pipeline) -> Measured:
        raise NotImplementedError

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        return [f"{len(rows)} toys."]

    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        figure, (axes,) = panel_figure(width=2, height=2)
        axes.plot([row["size"] for row in rows])
        return figure


STUDY = ToyStudy()


def toy(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        "model": "tiny",
        "domain": "a",
        "colour": "red",
        "size": 0.01234,
        "size_low": 0.0119,
        "size_high": 0.01301,
        "parts": 3,
        "rate": 12345.678,
        "broken": False,
        **changes,
    }


def write(folder: Path, rows: Sequence[Row], *labels: str, **protocol: Any) -> list[str]:  # noqa: ANN401
    pictures = {
        label: torch.linspace(-1, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4).roll(k)
        for k, label in enumerate(labels)
    }
    return write_study(folder, STUDY, Measured(rows, pictures), protocol)


def test_a_study_leaves_its_numbers_its_sentences_and_its_figure(tmp_path: Path) -> None:
    assert write(tmp_path, [toy()], seed=3) == ["1 toys."]
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {f"toy.{end}" for end in ("json", "csv", "md", "png", "svg")} | {
        "pictures.safetensors"
    }
    found = json.loads((tmp_path / "toy.json").read_text())
    assert found == {
        "study": "toy",
        "rows": [toy()],
        "conclusion": ["1 toys."],
        "protocol": {"seed": 3},
    }
    page = (tmp_path / "toy.md").read_text()
    assert page.startswith("# Toys\n\n- 1 toys.\n\n| model | domain | colour |")
    assert page.endswith("\n- seed: 3\n")
    assert "- **size in mm**: From end to end." in page
    assert "- **colour**" not in page
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
    assert b"</svg>" in (tmp_path / "toy.svg").read_bytes()


def test_answers_of_two_folders_become_one(tmp_path: Path) -> None:
    one = [toy(), toy(colour="blue", broken=True)]
    two = [toy(domain="b", size=float("nan"), extra=1)]
    write(tmp_path / "1", one, "a/x", seed=3, torch="2.15", steps=[1, 2], only="here")
    write(tmp_path / "2", two, "b/x", "b/y", torch="2.15", seed=4, steps=[1, 2])
    measured, protocol = read_studies("toy", [tmp_path / "1", tmp_path / "2"])
    # what is not finite is missing
    assert measured.rows == [*one, {**two[0], "size": None}]
    assert list(protocol.items()) == [("torch", "2.15"), ("steps", [1, 2])]
    assert list(measured.pictures) == ["a/x", "b/x", "b/y"]
    original = torch.linspace(-1, 1, 96).reshape(2, 3, 4, 4)
    torch.testing.assert_close(measured.pictures["a/x"], original, rtol=0, atol=0.5001 / 127.5)
    assert not torch.equal(measured.pictures["b/y"], measured.pictures["b/x"])
    # in the order of the folders
    other, _ = read_studies("toy", [tmp_path / "2", tmp_path / "1"])
    assert [row["domain"] for row in other.rows] == ["b", "a", "a"]
    # what was merged can be written and read again, to the same bytes of images
    write_study(tmp_path / "3", STUDY, Measured(measured.rows[:2], measured.pictures), protocol)
    again, same = read_studies("toy", [tmp_path / "3"])
    assert again.rows == one
    assert same == protocol
    assert all(torch.equal(again.pictures[key], x) for key, x in measured.pictures.items())


def test_a_folder_without_an_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"toy\.json"):
        read_studies("toy", [tmp_path])


def test_a_missing_figure_is_an_empty_field_and_others_keep_all_digits() -> None:
    rows = [toy(size=1 / 3), {"domain": "b", "size": float("nan"), "rate": None, "later": 1}]
    found = list(csv.DictReader(io.StringIO(csv_rows(rows))))
    assert float(found[0]["size"]) == 1 / 3
    assert found[0]["broken"] == "False"
    assert found[0]["later"] == ""
    assert found[1] == {**dict.fromkeys(found[0], ""), "domain": "b", "later": "1"}
    assert list(found[0]) == [*toy(), "later"]


@pytest.mark.parametrize(
    ("key", "changes", "shown"),
    [
        ("size", {}, "12.3 [11.9, 13.0]"),
        ("size", {"size_high": None}, "12.3"),
        ("size", {"size_low": float("nan")}, "12.3"),
        ("size", {"size": None, "size_low": None, "size_high": None}, "–"),
        ("parts", {}, "3"),
        ("rate", {}, "1.23e+04"),
        ("rate", {"rate": 0.5}, "0.5"),
        ("rate", {"rate": float("inf")}, "–"),
        ("broken", {}, "no"),
        ("broken", {"broken": True}, "yes"),
        ("colour", {}, "red"),
        ("colour", {"colour": None}, "–"),
    ],
)
def test_a_figure_is_shown_in_its_unit_with_its_interval(
    key: str, changes: dict[str, Any], shown: str
) -> None:
    column = next(column for column in STUDY.headings if column.key == key)
    assert column.text_with_bounds(toy(**changes)) == shown


def test_the_table_has_a_line_for_each_row() -> None:
    lines = markdown_rows(STUDY.headings, [toy(), {"model": "m", "domain": "a|b"}]).splitlines()
    assert lines[0] == "| model | domain | colour | size in mm | parts | rate | broken |"
    assert lines[1] == "| --- | --- | --- | --- | --- | --- | --- |"
    assert lines[2] == "| tiny | a | red | 12.3 [11.9, 13.0] | 3 | 1.23e+04 | no |"
    assert lines[3] == r"| m | a\|b | – | – | – | – | – |"
    assert len(lines) == 4


def test_a_full_disk_leaves_the_files_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, [toy()], "a/x")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ood_sampler.store.files.os.fsync", full)
    with pytest.raises(OSError, match="could not be written"):
        write(tmp_path, [toy(colour="blue")], "a/x", "a/y")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def told(folder: Path, *overrides: str) -> None:
    """What Hydra notes of a run."""
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {x}\n" for x in overrides))


def test_runs_of_one_domain_answer_for_themselves(tmp_path: Path) -> None:
    settings = ({"step": 300}, {"step": 700}, {"step": 700, "correction": "gaussian"})
    for k, given in enumerate(settings):
        rows = [toy(run="x"), toy(run="x", domain="b")] if k == 0 else [toy(run="x")]
        long = {"few-shot sha256": f"{k}", "warnings": f"many words {k}"}
        write(tmp_path / str(k), rows, "a/x", **long, **given)
    folders = [tmp_path / str(k) for k in range(3)]
    measured, _ = read_studies("toy", folders)
    names = ["a, step 300", "a, step 700", "a, step 700, correction gaussian"]
    # a domain of one run keeps its name
    assert [row["domain"] for row in measured.rows] == [names[0], "b", *names[1:]]
    assert [row.get("of_domain") for row in measured.rows] == ["a", None, "a", "a"]
    assert units(measured.rows) == "runs"
    assert list(measured.pictures) == [f"{name}/x" for name in names]
    # a run that nothing else tells apart has a name of its own
    assert [row["run"] for row in measured.rows] == ["x", "x", "x-1", "x-2"]
    together, _ = read_studies("toy", folders, joins=None)
    assert {row["domain"] for row in together.rows} == {"a", "b"}
    assert units(together.rows) == "domains"
    # where no setting tells them apart
    same, _ = read_studies("toy", [folders[0], folders[0]])
    assert [row["domain"] for row in same.rows] == ["a, run 0", "b, run 0"] * 2


def test_runs_are_named_as_they_were_told(tmp_path: Path) -> None:
    swept = (("sampler.references=3", "ddim"), ("sampler.references=5", "heun"))
    for k, (setting, solver) in enumerate(swept):
        write(tmp_path / str(k), [toy()], "a/x", step=300)
        told(tmp_path / str(k), "study=toy", f"+{setting}", f"solver={solver}", f"sweep={k}")
    folders = [tmp_path / str(k) for k in range(2)]
    measured, _ = read_studies("toy", folders)
    assert [row["domain"] for row in measured.rows] == [
        "a, sampler.references 3, solver ddim",
        "a, sampler.references 5, solver heun",
    ]
    # a study of solvers answers over them
    measured, _ = read_studies("toy", folders, joins=("solver",))
    assert [row["domain"] for row in measured.rows] == [
        "a, sampler.references 3",
        "a, sampler.references 5",
    ]
    measured, _ = read_studies("toy", folders, joins=("solver", "sampler"))
    assert [row["domain"] for row in measured.rows] == ["a", "a"]


def test_domains_of_several_models_are_told_apart(tmp_path: Path) -> None:
    for model in ("m", "n"):
        rows = [toy(model=model), toy(model=f"{model}, tuned")]
        write(tmp_path / model, rows, "a/x", model=model, seed=1)
    measured, protocol = read_studies("toy", [tmp_path / "m", tmp_path / "n"])
    assert [row["domain"] for row in measured.rows] == ["a from m"] * 2 + ["a from n"] * 2
    assert list(measured.pictures) == ["a from m/x", "a from n/x"]
    assert protocol == {"seed": 1}
    alone, _ = read_studies("toy", [tmp_path / "m"])
    assert [row["domain"] for row in alone.rows] == ["a", "a"]
    assert list(alone.pictures) == ["a/x"]


class ClaimingStudy(ToyStudy):
    headings = (Column("kid", "KID × 10³", 1, 1e3), Column("blend", "blend"))

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        return [f"the best is {min(rows, key=lambda row: row['kid'])['colour']}."]

    def claims(self, rows: Sequence[Row]) -> Mapping[str, Outcome]:
        return {
            f"{row['colour']} is near": decide(interval(row, "kid"), most=0).outcome for row in rows
        }


def judged(*pairs: tuple[float, float]) -> list[dict[str, Any]]:
    """Rows with the KIDs of two judges, one unit wide on both sides."""
    colours = ("red", "green", "blue", "grey", "pink")
    found = []
    for colour, kids in zip(colours, pairs, strict=False):
        own, other = (with_bounds({"kid": Interval(kid, kid - 1, kid + 1)}) for kid in kids)
        second = {f"second/{key}": value for key, value in other.items()}
        found.append({"colour": colour, "domain": "a", "blend": 0.5, **own, **second})
    return found


def test_each_judge_concludes_and_their_agreement_is_told() -> None:
    rows = judged((-3, 3), (-2, -2), (2, 2), (0.5, 4), (4, 0.5))
    assert opinions(ClaimingStudy(), rows, ["first", "second"]) == [
        "first: the best is red.",
        "second: the best is green.",
        # of ten pairs of rows four are in the same order and six are not
        "Rank correlation of KID by first and by second over 5 rows: Kendall's τ = -0.20 "
        "(p = 0.82).",
        "Judges disagree (first: shown, second: refuted): red is near.",
        "Both judges, first and second: shown: green is near.",
        "Both judges, first and second: refuted: blue is near.",
        "One judge alone (first: too few images to say, second: refuted): grey is near.",
        "One judge alone (first: refuted, second: too few images to say): pink is near.",
    ]


def test_one_judge_concludes_alone() -> None:
    rows = [{key: row[key] for key in row if "/" not in key} for row in judged((1, 2), (3, 4))]
    assert opinions(ClaimingStudy(), rows, ["first"]) == ["the best is red."]


def test_few_rows_have_no_rank_correlation() -> None:
    rows = judged((1, 2), (3, 4), (5, 6))
    told = opinions(ClaimingStudy(), rows, ["first", "second"])
    assert not [sentence for sentence in told if "Rank correlation" in sentence]
    rows = judged((1, 2), (3, 4), (5, 6), (7, 8))
    assert "Kendall's τ = 1.00 (p = 0.083" in opinions(ClaimingStudy(), rows, ["x", "second"])[2]


def test_the_table_shows_what_other_judges_say() -> None:
    columns = columns_of(ClaimingStudy(), judged((1, 2)))
    assert [(column.key, column.heading) for column in columns] == [
        ("kid", "KID × 10³"),
        ("blend", "blend"),
        ("second/kid", "KID × 10³, second"),
    ]
    assert columns[-1].text_with_bounds(judged((0.001, 0.002))[0]) == "2.0 [-998.0, 1002.0]"
