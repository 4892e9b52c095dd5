"""HTML from the templates beside this file, every value escaped, and the scripts of pages."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ood_sampler.report.plots import svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SCRIPTS = Path(__file__).parent / "scripts"

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(name: str, **values: object) -> Markup:
    """Fill the template of a name."""
    return Markup(_TEMPLATES.get_template(name).render(values))  # noqa: S704 escaped by Jinja


def data_uri(kind: str, content: bytes) -> str:
    """A file of a media type as a source within a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def plot_source(figure: "Figure") -> str:
    """A plot as a source within a page."""
    return data_uri("image/svg+xml", svg(figure))


@dataclass(frozen=True)
class Script:
    """A script within a page, and the data that it reads.

    Attributes:
        code: the script.
        data: JSON that ends no element.
    """

    code: Markup
    data: Markup

    @property
    def digest(self) -> str:
        """What the page's security policy knows the script by, so that no other one runs."""
        found = hashlib.sha256(self.code.encode()).digest()
        return f"sha256-{base64.b64encode(found).decode()}"


def script(names: Sequence[str], data: Mapping[str, Any]) -> Script:
    """Put files of `scripts/` together, in one scope of their own."""
    parts = [(_SCRIPTS / f"{name}.js").read_text(encoding="utf-8") for name in names]
    body = "\n".join(parts)
    code = f'(() => {{\n"use strict";\n{body}}})();\n'
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    escaped = text.replace("<", "\\u003c").replace("\u2028", "\\u2028")
    return Script(Markup(code), Markup(escaped))  # noqa: S704 ours, and escaped above


def page_script() -> Script:
    """The script of a page with nothing to play with but light and dark."""
    return script(["base", "plain"], {})


@dataclass(frozen=True)
class File:
    """A file that a page offers.

    Attributes:
        name: of the file; where there is no source, beside the page.
        about: what is in it.
        source: the file within the page.
    """

    name: str
    about: str
    source: str = ""


def csv_file(name: str, text: str, about: str) -> File:
    """A table that is part of the page."""
    return File(name, about, data_uri("text/csv;charset=utf-8", text.encode()))
