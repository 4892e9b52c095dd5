"""Links between files lead somewhere, and headings that they name exist."""

import csv
import re
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.docs.pages import ROOT, pages

PAGES = pages(
    "*.md",
    "docs/*.md",
    "docs/*/*.md",
    "experiments/*.md",
    "experiments/*/*.md",
    "ood_sampler/assets/*/CARD.md",
)


def tokens(text: str) -> list[Token]:
    found: list[Token] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        found += [token, *(token.children or [])]
    return found


def slug(heading: str) -> str:
    """The anchor of a heading, as both GitHub and the site make it."""
    text = re.sub(r"[^\w\- ]", "", heading.lower())
    return text.replace(" ", "-")


def anchors(text: str) -> set[str]:
    every = tokens(text)
    return {
        slug("".join(part.content for part in content.children or []))
        for heading, content in pairwise(every)
        if heading.type == "heading_open"
    }


def targets(text: str) -> list[str]:
    links = [
        token.attrGet("href" if token.type == "link_open" else "src") for token in tokens(text)
    ]
    return [str(link) for link in links if link is not None]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in targets((ROOT / page).read_text()):
        if link.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        file = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert file.exists(), f"{page} links to {link}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file.read_text()), f"{page} links to {link}"


def test_the_first_page_is_short_and_names_its_numbers() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 180
    rows = [line for line in text.splitlines() if line.startswith(("| **Yes", "| **No"))]
    assert len(rows) == 5
    for row in rows:
        told = re.findall(r"\|([^|]*?)<!-- source: ([\w/.-]+), ([^|]*?) -->", row)
        assert len(told) == 2
        for shown, path, where in told:
            assert numbers(shown) == read_from(ROOT / path, where, shown)


def numbers(text: str) -> list[str]:
    """Numbers of a text as they are written, with errors and percent signs."""
    return re.findall(r"[−-]?\d+(?:\.\d+)?(?: ± \d+|%)?", text)


def read_from(path: Path, where: str, like: str) -> list[str]:
    """Numbers that a text tells, from the file that it names: of a table or of a page."""
    if path.suffix != ".csv":
        section = path.read_text().partition(f"## {where}")[2].partition("\n## ")[0]
        return [number for number in numbers(like) if number in numbers(section)]
    with path.open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    found = []
    for place in where.split("; "):
        name, key = place.split(": ")
        value = float(rows[name][key])
        if key == "kid":
            error = float(rows[name]["kid_standard_error"])
            found.append(f"{1e3 * value:.0f} ± {1e3 * error:.0f}".replace("-", "−"))
        else:
            digits = len(re.search(r"\d+\.?(\d*)%", like)[1])  # type: ignore[index]
            found.append(f"{100 * value:.{digits}f}%")
    return found
