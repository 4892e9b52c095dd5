"""The pages, used: opened, clicked, sorted, slid, brushed, by mouse and by keyboard."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ood_sampler.data.radiation import FluxScale
from ood_sampler.report.page import page, write_page
from ood_sampler.report.sweep import Sweep, SweptRun
from ood_sampler.report.sweep_page import write_sweep_page
from ood_sampler.report.verdicts import judged
from tests.report.browser import Browser, Tab, find_browser
from tests.report.exploring import make_explorer, photographs

BROWSER = find_browser()
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium or google-chrome is installed to open pages in"
)

SHOWN = "[...document.querySelectorAll('#sheet .thumb')].map(t => t.getAttribute('aria-label'))"
OPEN = "document.getElementById('detail').open"
TITLE = "document.getElementById('detail-title').textContent"
FOCUSED = "document.activeElement.getAttribute('aria-label')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(str(BROWSER), tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def tab(browser: Browser, tmp_path: Path) -> Iterator[Tab]:
    """A tab that must end without a message in its console and without a request."""
    with browser.tab(tmp_path) as opened:
        opened.resize(1200)
        yield opened
        assert opened.errors == []
        assert opened.requests == []


PAGES: dict[str, str] = {}


@pytest.fixture
def run_page(tmp_path: Path, results: dict[str, Any]) -> Path:
    """The page of a run, made once."""
    if "run" not in PAGES:
        kinds = ("samples", "nearest", "held_out", "in_domain", "originals", "reconstructions")
        pictures = {kind: photographs(6, 16, seed) for seed, kind in enumerate(kinds)}
        PAGES["run"] = page(judged(results), pictures, None, make_explorer())
    path = tmp_path / "report.html"
    path.write_text(PAGES["run"])
    return path


def choose(tab: Tab, name: str, value: str | int) -> None:
    """Set a control as a user does who types or drags."""
    tab.run(
        f"(() => {{ const e = document.getElementById('{name}'); e.value = {value!r};"
        "for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind)); })()"
    )


def numbers(tab: Tab) -> list[int]:
    return [int(label.split()[1]) for label in tab.run(SHOWN)]


def test_samples_are_sorted_and_filtered(tab: Tab, run_page: Path) -> None:
    tab.open(run_page)
    assert numbers(tab) == list(range(20))
    choose(tab, "order", "worst")
    assert numbers(tab) == list(reversed(range(20)))
    choose(tab, "order", "copy")
    assert numbers(tab)[:4] == [0, 7, 14, 1]
    tab.click("#only-copies")
    assert numbers(tab) == [0, 15, 9, 3, 18, 12, 6]
    tab.click("#only-captured")
    assert numbers(tab) == [0, 15]
    assert "2 of 20" in tab.run("document.getElementById('count').textContent")
    tab.click("#reset")
    assert numbers(tab) == list(range(20))


def test_a_click_opens_a_sample_with_its_numbers_and_neighbours(tab: Tab, run_page: Path) -> None:
    tab.open(run_page)
    tab.click("#sheet .thumb:nth-child(4)")
    assert tab.run(OPEN)
    assert tab.run(TITLE) == "Sample 3 (near-copy)"
    facts = tab.run("document.getElementById('detail-numbers').textContent")
    assert "realism0.5" in facts
    assert "samples/00003.png" in facts
    told = "[...document.querySelectorAll('#%s .named')].map(e => e.children[1].textContent)"
    assert tab.run(told % "detail-nearest") == [f"distance {4.5 + k:g}" for k in range(5)]
    assert tab.run(told % "detail-parts") == ["50.0%", "25.0%", "12.5%", "6.3%", "3.1%"]
    assert tab.run("document.getElementById('detail-marks').textContent") == "near-copy"
    other = "document.getElementById('detail-other-name').textContent"
    assert tab.run(other) == "few-shot image <few> & 3"
    tab.click("#detail-nearest .named:nth-child(2) .thumb")
    assert tab.run(other) == "few-shot image <few> & 4"
    tab.click("#detail-close")
    assert not tab.run(OPEN)


def test_everything_can_be_done_by_keyboard(tab: Tab, run_page: Path) -> None:
    tab.open(run_page)
    tab.run("document.querySelector('#sheet .thumb').focus()")
    tab.press("ArrowRight")
    assert tab.run(FOCUSED) == "Sample 1"
    tab.press("ArrowDown")
    across = tab.run(FOCUSED)
    assert int(across.split()[1]) > 3
    tab.press("ArrowUp")
    tab.press("Enter")
    assert tab.run(OPEN)
    tab.press("ArrowRight")
    assert tab.run(TITLE) == "Sample 2"
    tab.press("Escape")
    assert not tab.run(OPEN)
    # the browser gives the focus back to where it was, the page moves it on afterwards
    tab.wait(f"({FOCUSED}) === 'Sample 2'")
    ring = "getComputedStyle(document.activeElement).outlineStyle"
    assert tab.run(ring) == "solid"
    # one stop for the whole sheet
    assert tab.run("document.querySelectorAll('#sheet [tabindex=\"0\"]').length") == 1
    tab.run("document.getElementById('map').focus()")
    tab.press("ArrowRight")
    some = len(numbers(tab))
    assert 0 < some < 20
    tab.press("Escape")
    assert len(numbers(tab)) == 20


def test_a_rectangle_on_the_map_selects_what_is_in_it(tab: Tab, run_page: Path) -> None:
    tab.open(run_page)
    x, y = tab.centre("#map")
    half = tab.run("document.getElementById('map').clientWidth") / 2 - 2
    # the lower left quarter holds the first half of the samples
    tab.drag((x - half, y + half), (x, y))
    assert numbers(tab) == list(range(10))
    assert "few-shot images" in tab.run("document.getElementById('company').textContent")
    tab.click("#map-zoom")
    assert not tab.run("document.getElementById('map-all').disabled")
    tab.click("#map-all")
    tab.click("#reset")
    assert len(numbers(tab)) == 20
    tab.drag((0.0, 0.0), (0.0, 0.0))
    # a click on a sample opens it: the last one lies in the upper right corner
    x, y = tab.centre("#map")
    place = tab.run("document.getElementById('map').clientWidth") / 2 - 14
    place -= 2 * place * 0.03 / 1.06
    tab.drag(*[(x + place, y - place)] * 2)
    assert tab.run(OPEN)
    assert tab.run(TITLE) == "Sample 19"


def test_a_film_is_played_and_slid(tab: Tab, run_page: Path) -> None:
    tab.open(run_page)
    step = "document.getElementById('film-step').textContent"
    assert tab.run(step) == "down: the image"
    choose(tab, "film-frame", 0)
    assert tab.run(step) == "up: step 0"
    choose(tab, "film-frame", 8)
    assert tab.run(step) == "down: step 280"
    pixels = "document.getElementById('film-down').toDataURL()"
    before = tab.run(pixels)
    choose(tab, "film-choice", 1)
    assert tab.run(pixels) != before
    tab.click("#film-play")
    tab.wait(f"{step} === 'down: the image'")
    assert tab.run("document.getElementById('film-play').textContent") == "Play"


def test_what_is_shown_can_be_saved(tab: Tab, run_page: Path) -> None:
    tab.open(run_page)
    choose(tab, "order", "worst")
    tab.click("#only-copies")
    tab.click("#save-csv")
    lines = tab.downloaded("samples-shown.csv").decode().splitlines()
    assert lines[0].startswith("number,file,near_copy")
    assert [int(line.split(",")[0]) for line in lines[1:]] == [18, 15, 12, 9, 6, 3, 0]
    tab.click("#save-npy")
    array = np.load(io.BytesIO(tab.downloaded("samples-uint8.npy")))
    assert array.shape == (7, 16, 16, 3)
    samples = make_explorer().images["samples"]
    expected = ((samples[18] + 1) * 127.5).round().permute(1, 2, 0)
    np.testing.assert_array_equal(array[0], expected)
    tab.click("#save-png")
    with Image.open(io.BytesIO(tab.downloaded("samples.png"))) as picture:
        assert picture.size == (3 * 18 + 2, 3 * 18 + 2)


@pytest.mark.parametrize("width", [400, 1200, 1600])
def test_nothing_is_wider_than_the_window(tab: Tab, run_page: Path, width: int) -> None:
    tab.resize(width)
    tab.open(run_page)
    too_wide = "document.documentElement.scrollWidth - window.innerWidth"
    assert tab.run(too_wide) <= 0
    tab.click("#sheet .thumb")
    assert tab.run(OPEN)
    wide = "(d => d.scrollWidth - d.clientWidth)(document.getElementById('detail'))"
    assert tab.run(wide) <= 0
    assert tab.run(too_wide) <= 0


def test_the_page_is_dark_where_the_system_is_and_at_a_click(tab: Tab, run_page: Path) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    tab.prefer("dark")
    tab.open(run_page)
    assert tab.run(paper) == "rgb(20, 23, 28)"
    tab.click("#theme")
    assert tab.run(paper) == "rgb(255, 255, 255)"
    tab.click("#theme")
    assert tab.run(paper) == "rgb(20, 23, 28)"
    tab.prefer("light")


def test_everything_has_a_name_for_screen_readers(tab: Tab, run_page: Path) -> None:
    tab.open(run_page)
    tab.click("#sheet .thumb")
    nameless = (
        "[...document.querySelectorAll('button, input, select, canvas, [role=img], img')]"
        ".filter(e => !(e.getAttribute('aria-label') || e.alt || e.textContent.trim()"
        " || e.closest('label'))).map(e => e.outerHTML.slice(0, 80))"
    )
    assert tab.run(nameless) == []


def test_fields_have_a_colour_bar_and_values_under_the_pointer(
    tab: Tab, tmp_path: Path, results: dict[str, Any]
) -> None:
    scale = FluxScale([0.01], [100.0])
    explorer = make_explorer(scale=scale)
    write_page(tmp_path / "field.html", judged(results), {}, None, explorer)
    tab.open(tmp_path / "field.html")
    tab.click("#sheet .thumb")
    bar = tab.run("document.getElementById('colour-bar').textContent")
    assert bar.startswith("0.010.1110100K (log scale)")
    x, y = tab.centre("#detail-sample")
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + 1, y=y + 1)
    told = tab.run("document.getElementById('readout').textContent")
    assert told.startswith("row 8, column 8: ")
    level = ((explorer.images["samples"][0, :, 8, 8] + 1) * 127.5).round().mean().round()
    colour = (level / 127.5 - 1).double().expand(3).view(3, 1, 1)
    expected = float(scale.from_pictures(colour))
    assert float(told.split()[-2]) == pytest.approx(expected, rel=0.02)
    assert told.endswith(" K")


def test_sliders_change_the_samples_of_a_sweep(
    tab: Tab, tmp_path: Path, results: dict[str, Any]
) -> None:
    runs = [
        SweptRun(
            f"inversion.step={step},decode.eta={eta},sampler={sampler}",
            {**judged(results), "run": {**results["run"], "step": step}},
            torch.full((3, 3, 16, 16), -1 + k / 10),
        )
        for k, (step, eta, sampler) in enumerate(
            (step, eta, sampler)
            for step in (700, 300)
            for eta in (0, 0.5)
            for sampler in ("slerp", "cog")
        )
    ]
    links = [f"{k}/report.html" for k in range(8)]
    # the last combination was not run
    write_sweep_page(tmp_path / "report.html", Sweep(runs[:7]), links[:7])
    tab.open(tmp_path / "report.html")
    heading = "document.querySelector('#compared h3').textContent"
    link = "document.querySelector('#compared a')?.getAttribute('href')"
    assert tab.run(heading) == "t = 300, η = 0, strategy = slerp"
    assert tab.run(link) == "4/report.html"
    tab.run("document.querySelector('[data-axis=t]').focus()")
    tab.press("ArrowRight")
    assert tab.run(heading) == "t = 700, η = 0, strategy = slerp"
    assert tab.run(link) == "0/report.html"
    tab.click("#pin")
    tab.run("document.querySelector('[data-axis=strategy]').focus()")
    tab.press("ArrowRight")
    assert tab.run("document.querySelectorAll('#compared .panel').length") == 2
    assert tab.run(link) == "1/report.html"
    # greys rise from run to run
    tab.click("#save-png")
    with Image.open(io.BytesIO(tab.downloaded("samples.png"))) as picture:
        assert picture.getpixel((8, 8))[:3] == (13, 13, 13)
    for axis, key in (("t", "ArrowLeft"), ("η", "ArrowRight")):
        tab.run(f"document.querySelector('[data-axis=\"{axis}\"]').focus()")
        tab.press(key)
    assert "There is no run" in tab.run("document.getElementById('compared').textContent")
    for width in (400, 1600):
        tab.resize(width)
        assert tab.run("document.documentElement.scrollWidth - window.innerWidth") <= 0


def test_a_page_of_500_samples_opens(tab: Tab, tmp_path: Path, results: dict[str, Any]) -> None:
    path = tmp_path / "large.html"
    path.write_text(page(judged(results), {}, None, make_explorer(500, 500, 250, size=32)))
    tab.open(path)
    assert tab.run("document.querySelectorAll('#sheet .thumb').length") == 500
