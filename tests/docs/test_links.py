"""Links between files lead somewhere, and headings that they name exist."""

import re
from itertools import pairwise

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
        sources = re.findall(r"<!-- source: ([\w/.-]+)", row)
        assert sources
        for source in sources:
            assert (ROOT / source).is_file()
