"""Docstrings as the site shows them: formulas between dollars, as in the source."""

import re
from typing import Any

from sphinx.application import Sphinx

_BLOCK = re.compile(r"^(?P<indent> *)\$\$(?P<formula>.+?)\$\$$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"(?<![\\$\w])\$(?P<formula>[^$]+)\$(?P<letter>\w?)")


def with_formulas(text: str) -> str:
    """Write formulas between dollars as reStructuredText does."""

    def block(found: re.Match[str]) -> str:
        formula = " ".join(found["formula"].split())
        return f"{found['indent']}.. math:: {formula}"

    def inline(found: re.Match[str]) -> str:
        formula = " ".join(found["formula"].split())
        # a role must not touch a letter
        after = f"\\ {found['letter']}" if found["letter"] else ""
        return f":math:`{formula}`{after}"

    return _INLINE.sub(inline, _BLOCK.sub(block, text))


def process(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Change a docstring in place."""
    lines[:] = with_formulas("\n".join(lines)).split("\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Have each docstring processed, before Napoleon reads its sections."""
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
