"""Blocks and links of the Markdown pages."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """A command of a page.

    Attributes:
        page: relative to the repository.
        words: without comments and variables of the environment.
    """

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"

    def follows(self, *words: str) -> bool:
        """Whether it begins with some words."""
        return self.words[: len(words)] == words


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    text = (ROOT / page).read_text()
    return [found["text"] for found in _FENCE.finditer(text) if found["language"] == language]


def commands(page: str) -> Iterator[Command]:
    """All shell commands of a page."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                del words[0]
            if words:
                yield Command(page, tuple(words))


def pages(*patterns: str) -> list[str]:
    """Paths of pages, relative to the repository, sorted."""
    found = {file for pattern in patterns for file in ROOT.glob(pattern)}
    return sorted(file.relative_to(ROOT).as_posix() for file in found)
