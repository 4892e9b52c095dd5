"""The site builds without a warning and asks nothing of the network."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import ood_sampler
from ood_sampler.config import CONF
from tests.docs.pages import ROOT, blocks

pytest.importorskip("sphinx")
pytest.importorskip("furo")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    options = ("-b", "html", "-W", "--keep-going", "-n", "-q", "-c", "docs")
    places = ("-d", str(out / "doctrees"), ".", str(out / "html"))
    ended = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, *places],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return out / "html"


class Loaded(HTMLParser):
    """Addresses that a browser loads with a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found.append(given.get("src") or "")
        if tag == "link":
            self.found.append(given.get("href") or "")


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    every = sorted(site.rglob("*.html"))
    assert len(every) > 40
    for page in every:
        loaded = Loaded()
        loaded.feed(page.read_text())
        away = [address for address in loaded.found if re.match(r"(https?:)?//", address)]
        assert not away, f"{page.relative_to(site)} loads {away}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", sheet.read_text())


@pytest.mark.slow
def test_every_option_has_its_place(site: Path) -> None:
    folder = site / "docs" / "reference" / "options"
    for file in CONF.glob("*/*.yaml"):
        page = (folder / f"{file.parent.name}.html").read_text()
        assert f">{file.stem}</span>" in page, file
    text = (folder / "sampler.html").read_text()
    assert "sampler.references" in text
    assert "a whole number" in text
    assert "model.architecture.model.num_head_channels" in (folder / "model.html").read_text()


@pytest.mark.slow
def test_formulas_are_mathml(site: Path) -> None:
    text = (site / "docs" / "explanation" / "method.html").read_text()
    assert text.count('display="block"') >= 5
    assert "$" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


@pytest.mark.slow
def test_formulas_of_docstrings_are_mathml_too(site: Path) -> None:
    text = (site / "docs" / "reference" / "python.html").read_text()
    assert text.count('display="block"') >= 2
    assert "\\mathcal" not in text


def test_every_name_of_the_package_is_in_the_reference() -> None:
    page = (ROOT / "docs/reference/python.md").read_text()
    told = set(re.findall(r":: ood_sampler\.(\w+)", page))
    assert set(ood_sampler.__all__) <= told
    # which is run
    assert blocks("docs/reference/python.md", "python")[:1] == blocks("README.md", "python")
