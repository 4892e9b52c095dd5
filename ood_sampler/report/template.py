"""HTML from the templates beside this file; every value is escaped."""

import base64
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ood_sampler.report.plots import svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
