import csv
import io
from typing import Any

import pytest
from rich.console import Console

from ood_sampler.report.columns import number
from ood_sampler.report.run_columns import COLUMNS, columns_of, figure
from ood_sampler.report.tables import (
    csv_table,
    markdown_table,
    rich_table,
    strategy,
    sweep_table,
)


def printed(table: object, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("kid", "error", "text"),
    [
        (0.00094, 0.00021, "0.94 ± 0.21"),
        (0.312, 0.0091, "312.0 ± 9.1"),
        (-0.00001, 0.00012, "-0.01 ± 0.12"),
        (0.5, 0.025, "500 ± 25"),
        (0.001, None, "1.00"),
        (None, 0.1, "–"),
        (float("nan"), 0.1, "–"),
    ],
)
def test_kid_has_as_many_digits_as_its_error(
    kid: float | None, error: float | None, text: str
) -> None:
    assert figure("kid", {"kid": kid, "kid_standard_error": error}) == text


@pytest.mark.parametrize(
    ("fid", "text"),
    [(0.41, "0.410"), (1.234, "1.23"), (81.26, "81.3"), (1234.4, "1234"), (0, "0.00"), (None, "–")],
)
def test_fid_has_three_digits(fid: float | None, text: str) -> None:
    assert figure("fid", {"fid": fid}) == text


@pytest.mark.parametrize(
    ("key", "figures", "text"),
    [
        ("precision", (0.7, 0.6512, 0.7488), "[0.651, 0.749]"),
        ("captured", (0.0, 0.0, 0.0366), "[0.000, 0.037]"),
        # as many digits as a standard error, a quarter of the width, deserves
        ("kid", (0.001, -0.00021, 0.00221), "[-0.21, 2.21]"),
        ("kid", (0.3, 0.2, 0.4), "[200, 400]"),
        ("fid", (81.26, 78.2, 84.3), "[78.2, 84.3]"),
        ("fid", (81.26, None, 84.3), ""),
        ("fid", (None, 78.2, 84.3), ""),
    ],
)
def test_bounds(key: str, figures: tuple[float | None, ...], text: str) -> None:
    row = dict(zip((key, f"{key}_low", f"{key}_high"), figures, strict=True))
    assert next(column for column in COLUMNS if column.key == key).bounds(row) == text


def test_shares_and_counts() -> None:
    assert figure("precision", {"precision": 0.70449}) == "0.704"
    assert figure("captured", {"captured": -1e-9}) == "0.000"
    assert figure("samples", {"samples": 500}) == "500"
    assert figure("samples", {}) == "–"


def test_number() -> None:
    assert number(3) == 3.0
    for missing in (None, float("nan"), float("inf"), "3", True):
        assert number(missing) is None


def test_strategy(results: dict[str, Any]) -> None:
    assert strategy(results)["name"] == "cog (2)"
    results["rows"] = results["rows"][1:]
    with pytest.raises(ValueError, match="rows must hold one of role strategy"):
        strategy(results)


def test_directions() -> None:
    better = {column.key: column.better for column in COLUMNS}
    lower = {"fid", "fid_infinity", "kid", "near_copies", "captured", "blend_pair", "blend_five"}
    assert {key for key, direction in better.items() if direction == "lower"} == lower
    assert better["samples"] is None
    titles = {column.key: column.title for column in COLUMNS}
    assert titles["recall"].endswith("↑")
    assert titles["kid"].endswith("↓")
    assert titles["samples"] == "images"


def test_rich_table_fits_a_terminal(results: dict[str, Any]) -> None:
    results["rows"][2]["blend_pair"] = None
    text = printed(rich_table(results), 80)
    assert "…" not in text
    lines = text.splitlines()
    assert "galaxy32 from dog32: cog, step 500" in lines[0]
    kid = next(line for line in lines if "KID" in line)
    assert "1.00 ± 0.20" in kid
    assert "300 ± 10" in kid
    assert kid.index("1.00") < kid.index("300 ± 10")
    assert next(line for line in lines if "blend of 2" in line).count("–") == 1
    for name in ("cog (2)", "in-domain", "lerp (2) in"):
        assert name in text


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 100, 120, 200])
def test_no_figure_is_cut_at_any_width(results: dict[str, Any], width: int) -> None:
    for k, row in enumerate(results["rows"]):
        row |= {"kid": 0.12634 + k, "kid_standard_error": 0.1344, "fid": 123.4 + k}
    names = [f"inversion.step={400 + k},sampler.references={k}" for k in range(5)]
    named = [{**row, "name": name} for row, name in zip(results["rows"], names, strict=True)]
    for table, rows, columns in (
        (rich_table(results), results["rows"], columns_of(results["rows"])),
        (sweep_table("Sweep", named), named, [column for column in COLUMNS if column.narrow]),
    ):
        lines = printed(table, width).splitlines()
        assert max(map(len, lines)) <= width
        text = "\n".join(lines)
        assert "…" not in text
        words = text.split()
        for column in columns:
            for row in rows:
                figures = column.text(row).split()
                assert set(figures) <= set(words)
                if width >= 30:
                    # value and error stand side by side
                    assert " ".join(figures) in text
    # the second block of a narrow terminal names its lines again
    assert printed(rich_table(results), 60).count("precision") == 2


def test_a_table_that_fits_stands_in_one_block(results: dict[str, Any]) -> None:
    for width, blocks in ((60, 2), (80, 1), (120, 1)):
        assert printed(rich_table(results), width).count("KID × 10³") == blocks
    names = printed(sweep_table("Sweep", results["rows"]), 120)
    assert names.count("cog (2) in pixels") == 1


def test_sweep_table_fits_a_terminal(results: dict[str, Any]) -> None:
    text = printed(sweep_table("Sweep [of] two", results["rows"]), 80)
    assert "…" not in text
    assert "Sweep [of] two" in text
    # 80 columns take two blocks, each with the names
    cells = [line for line in text.splitlines() if "cog (2) in pixels" in line]
    assert len(cells) == 2
    assert "5.00 ± 0.30" in cells[0]
    found = " ".join(cells).split()
    assert [figure for figure in found if figure in {"0.500", "0.031", "0.010", "0.600"}] == [
        "0.500",
        "0.031",
        "0.010",
        "0.600",
    ]


def test_markdown(results: dict[str, Any]) -> None:
    results["rows"][0]["name"] = "a|b\nc"
    lines = markdown_table(results["rows"]).splitlines()
    assert len(lines) == 2 + 5
    assert {line.replace("\\|", "").count("|") for line in lines} == {
        len(columns_of(results["rows"])) + 2
    }
    assert lines[2].startswith(r"| a\|b c | 400 | 12.3 | – | 1.00 ± 0.20 | 0.700 | 0.800 |")


def test_csv_keeps_all_digits(results: dict[str, Any]) -> None:
    results["rows"][0] |= {"kid": 0.0012345678901, "fid": None, "recall": float("nan"), "step": "5"}
    results["rows"][0] |= {"kid_low": 0.00012345, "kid_high": 0.0023456}
    rows = list(csv.DictReader(io.StringIO(csv_table(results["rows"], first=["step"]))))
    assert list(rows[0])[:4] == ["step", "name", "role", "samples"]
    assert rows[0]["step"] == "5"
    assert float(rows[0]["kid"]) == 0.0012345678901
    assert rows[0]["kid_standard_error"] == "0.0002"
    assert (rows[0]["kid_low"], rows[0]["kid_high"]) == ("0.00012345", "0.0023456")
    assert rows[0]["precision_low"] == ""
    assert "samples_low" not in rows[0]
    assert rows[0]["fid"] == rows[0]["recall"] == rows[1]["step"] == ""
    assert [row["role"] for row in rows].count("control") == 2


def test_each_further_judge_has_columns_of_its_own(results: dict[str, Any]) -> None:
    for k, row in enumerate(results["rows"]):
        row |= {"second/kid": 0.01 * k, "second/kid_standard_error": 0.002, "second/fid": 5.5}
        row |= {"second/authenticity": 0.25, "second/kid_low": -0.5, "second/kid_high": 0.5}
    rows = results["rows"]
    shown = [column.key for column in columns_of(rows)]
    assert shown[-5:] == [
        f"second/{key}" for key in ("kid", "precision", "recall", "authenticity", "near_copies")
    ]
    assert "second/blend_pair" not in [column.key for column in columns_of(rows, all_metrics=True)]
    results["protocol"]["judges"] = "first, second"
    text = printed(rich_table(results), 200)
    assert "KID × 10³, second\xa0↓" in text
    assert "10.0 ± 2.0" in text
    assert "judged by first where no other is named" in text
    header, *lines = csv_table(rows).splitlines()
    stored = dict(zip(header.split(","), lines[1].split(","), strict=True))
    assert (stored["second/kid"], stored["second/kid_standard_error"]) == ("0.01", "0.002")
    assert (stored["second/kid_low"], stored["second/fid"]) == ("-0.5", "5.5")
    assert "authenticity, second" in markdown_table(rows).splitlines()[0]
    swept = printed(sweep_table("Sweep", rows), 200)
    assert swept.count("0.250") == len(rows)


def test_figures_of_the_users_own_metrics_have_columns(results: dict[str, Any]) -> None:
    shipped = columns_of(results["rows"])
    for row in results["rows"]:
        row |= {"mean_colour": 0.123456, "mean_colour_low": 0.1, "mean_colour_high": 0.2}
    added = [column for column in columns_of(results["rows"]) if column not in shipped]
    assert [column.heading for column in added] == ["mean colour"]
    assert added[0].bounds(results["rows"][0]) == "[0.100, 0.200]"
    assert "mean colour" in printed(rich_table(results), 200)
    assert "mean_colour,mean_colour_low,mean_colour_high" in csv_table(results["rows"])


def test_a_metric_of_the_users_own_is_stored_of_each_judge(results: dict[str, Any]) -> None:
    shown = len(columns_of(results["rows"]))
    for row in results["rows"]:
        row |= {"colour": 0.1, "spread": 0.2, "second/spread": 0.3, "second/spread_low": 0.25}
    header, line, *_ = csv_table(results["rows"]).splitlines()
    stored = dict(zip(header.split(","), line.split(","), strict=True))
    assert (stored["spread"], stored["second/spread"]) == ("0.2", "0.3")
    assert stored["second/spread_low"] == "0.25"
    # of pixels, which no judge sees
    assert "second/colour" not in stored
    # tables for people show few figures of a second judge
    assert [column.key for column in columns_of(results["rows"])][shown:] == [
        *("colour", "spread"),
        *(f"second/{key}" for key in ("kid", "precision", "recall", "authenticity", "near_copies")),
    ]
