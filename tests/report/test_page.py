import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from ood_sampler.report.page import page, write_page
from ood_sampler.report.plots import svg
from ood_sampler.report.run_columns import columns_of
from ood_sampler.report.run_plots import curves, histogram, run_figures, share_figure
from ood_sampler.report.verdicts import judged

Draw = Callable[..., Tensor]

VOID = {"meta", "img", "input"}


class Reader(HTMLParser):
    """Collect tags and text, and check that each tag is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_everything_is_there(results: dict[str, Any], pictures: Draw) -> None:
    text = page(
        judged(results),
        {
            "samples": pictures(60),
            "nearest": pictures(60),
            "held_out": pictures(8),
            "in_domain": pictures(4),
            "originals": pictures(3),
            "reconstructions": pictures(3),
        },
    )
    reader = Reader(text)
    shown = " ".join(reader.texts)
    for row in results["rows"]:
        assert row["name"] in shown
        for column in columns_of(results["rows"]):
            assert column.text(row) in shown
            assert column.meaning in shown
    assert "500 few-shot images were inverted to step 500 (ddim, 50 steps)" in shown
    assert "120 of them come back with a PSNR of 31.2 dB" in shown
    assert "The first 50 of 60." in shown
    assert "stored before" in shown
    assert "60.1" in reader.texts
    images = [attributes for tag, attributes in reader.tags if tag == "img"]
    # 50 samples, 25 pairs, 8 held-out images, 4 in-domain samples, 3 pairs, 6 plots.
    assert len(images) == 50 + 2 * 25 + 8 + 4 + 2 * 3 + 6
    assert all(image["alt"] for image in images)
    anchors = {attributes["id"] for _, attributes in reader.tags if "id" in attributes}
    links = {str(attributes["href"]) for tag, attributes in reader.tags if tag == "a"}
    assert {link[1:] for link in links if link.startswith("#")} == anchors


def test_intervals_are_shown_beside_the_figures(results: dict[str, Any]) -> None:
    results["rows"][0] |= {"recall_low": 0.7512, "recall_high": 0.8488}
    shown = Reader(page(judged(results), {})).texts
    assert shown[shown.index("[0.751, 0.849]") - 1] == "0.800"
    assert sum(text.startswith("[") for text in shown) == 1


def test_near_copies_are_framed_and_counted(results: dict[str, Any], pictures: Draw) -> None:
    shown = {kind: pictures(40) for kind in ("samples", "nearest", "held_out")}
    reader = Reader(page(judged(results), shown))
    framed = [attributes for _, attributes in reader.tags if "copy" in str(attributes.get("class"))]
    # numbers 4 and 36 of all 40, of which 25 stand beside their nearest
    assert [tag.get("alt") for tag in framed] == [
        "sample 4 (near-copy)",
        "sample 36 (near-copy)",
        None,
    ]
    assert framed[2]["class"] == "pair copy"
    captions = [text for text in reader.texts if "13 of all 400 samples" in text]
    assert len(captions) == 2
    del results["distributions"]["near_copies"]
    assert "(near-copy)" not in page(judged(results), shown)


def test_the_story_goes_from_the_few_shot_pictures_to_the_conclusion(
    results: dict[str, Any], pictures: Draw
) -> None:
    kinds = ("samples", "nearest", "held_out", "in_domain", "originals", "reconstructions")
    shown = Reader(page(judged(results), {kind: pictures(2) for kind in kinds})).texts
    numbered = [text for text in shown if text[:3] in {f"{n}. " for n in range(1, 6)}]
    assert numbered == [
        "1. Few-shot images, inverted and decoded again",
        "2. Samples",
        "3. Held-out images",
        "4. Samples beside their nearest few-shot image",
        "5. The model's own samples",
    ]
    assert shown.index("In short:") < shown.index("What was done", shown.index("In short:"))
    assert any("as far as step 500" in text for text in shown)


def test_needs_no_other_file(results: dict[str, Any], pictures: Draw) -> None:
    results["warnings"] = ["one"]
    text = page(judged(results), {"samples": pictures(2, 200), "held_out": pictures(1)})
    reader = Reader(text)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in reader.tags}
    for tag, attributes in reader.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name == "src":
                assert str(value).startswith("data:image/")
            if name == "href" and not str(value).startswith("#"):
                assert tag == "a"
                assert re.match(r"https://(arxiv\.org|doi\.org)/", str(value))
    assert "url(" not in text
    assert "@import" not in text


def test_every_string_is_escaped(results: dict[str, Any], pictures: Draw) -> None:
    evil = "<b>&\"'$x^2$"
    results["run"] = dict.fromkeys(results["run"], evil) | {"note": evil}
    results["protocol"] = {evil: evil}
    for row in results["rows"][::2]:
        row["name"] = evil
    for stage in results["stages"]:
        stage["name"] = evil
    results["skipped"] = [[evil, evil]]
    results["warnings"] = [evil, evil]
    text = page(judged(results), {"samples": pictures(1)})
    reader = Reader(text)
    assert "<b>&" not in text
    assert reader.texts.count(evil) > 15
    assert any("gave 2 " in part for part in reader.texts)


def test_verdicts_flip_with_the_figures(results: dict[str, Any]) -> None:
    assert "By this measure the frozen model adds something" in page(judged(results), {})
    results["rows"][0]["kid"] = 0.01
    text = page(judged(results), {})
    assert "adds something" not in text
    assert "serve better without the frozen model" in text


def test_little_is_enough(results: dict[str, Any]) -> None:
    empty = {key: None for key in results["rows"][0] if key not in ("name", "role", "samples")}
    text = page(judged({"run": results["run"], "rows": [results["rows"][0] | empty]}), {})
    reader = Reader(text)
    assert reader.texts.count("–") == len(columns_of([results["rows"][0]])) - 1
    headings = {part for part in reader.texts if part in ("Plots", "Costs", "Warnings", "Protocol")}
    assert headings == {"Protocol"}


def test_equal_results_give_equal_bytes(
    tmp_path: Path, results: dict[str, Any], pictures: Draw
) -> None:
    for name in ("a.html", "b.html"):
        write_page(tmp_path / "run" / name, judged(results), {"samples": pictures(2)})
    first, second = ((tmp_path / "run" / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second
    assert len(list((tmp_path / "run").iterdir())) == 2


def test_plots_need_figures(results: dict[str, Any]) -> None:
    assert len(run_figures(results)) == 6
    assert histogram("a", "b", {"samples": [], "held-out": [float("nan")]}) is None
    constant = histogram("a", "b", {"samples": [1.0, 1.0], "held-out": [1.0]})
    assert constant is not None
    assert svg(constant).startswith(b"<?xml")


@pytest.mark.parametrize("kids", [[-0.001, 0.0, 0.3], [0.0, 0.0, 0.0], [0.2, 0.25, 0.3]])
def test_kid_axis_of_any_range(results: dict[str, Any], kids: list[float]) -> None:
    results["rows"] = [
        row | {"kid": kid, "kid_standard_error": None}
        for row, kid in zip(results["rows"], kids, strict=False)
    ]
    assert svg(run_figures(results)[0][1])


def test_bars_reach_as_far_as_the_intervals(results: dict[str, Any]) -> None:
    results["rows"][0] |= {"precision_low": 0.65, "precision_high": 0.77}
    figure = share_figure(results["rows"], ("precision", "recall"))
    assert figure is not None
    lines = [c for c in figure.axes[0].containers if hasattr(c, "has_xerr")]
    assert len(lines) == 1
    ends = lines[0].lines[2][0].get_segments()[0][:, 0]
    assert ends.tolist() == pytest.approx([0.65, 0.77])

    points = [(step, results["rows"][0]) for step in (100.0, 500.0)]
    kid, precision, *_ = curves("step", {"cog": points}).axes
    for axes, reach in ((kid, [0.6, 1.4]), (precision, [0.65, 0.77])):
        ends = axes.containers[0].lines[2][0].get_segments()[0][:, 1]
        assert ends.tolist() == pytest.approx(reach)


def test_level_lines_of_one_role_are_told_apart(results: dict[str, Any]) -> None:
    controls = [{**results["rows"][3], "name": str(k)} for k in range(6)]
    kid, *_ = curves("step", {"cog": [(1.0, results["rows"][0])]}, controls).axes
    levels = [line for line in kid.lines if str(line.get_label()).isdecimal()]
    assert len({str(getattr(line, "_dash_pattern")) for line in levels}) == 6  # noqa: B009 private


def test_each_line_of_the_table_is_explained_and_no_other(results: dict[str, Any]) -> None:
    for row in results["rows"]:
        row |= {"second/kid": 0.2, "mean_colour": 0.5}
    reader = Reader(page(judged(results), {}))
    explained = reader.texts[reader.texts.index("What the lines mean") :]
    assert "mean colour" in explained
    assert "FID" in explained
    # once, whoever judges
    assert "KID × 10³, second" not in explained
    assert "Intra-LPIPS" not in explained
    results["rows"][0]["intra_lpips"] = 0.4
    assert "Intra-LPIPS" in Reader(page(judged(results), {})).texts
