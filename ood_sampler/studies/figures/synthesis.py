"""KID and authenticity of every set, beside samples of the strategies."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ood_sampler.report.columns import Row
from ood_sampler.report.plots import COLOURS, scale_kid, styled
from ood_sampler.studies.figures.curves import error_bars, lines_figure
from ood_sampler.studies.figures.strips import draw_strips, under
from ood_sampler.studies.rows import by_domain
from ood_sampler.studies.synthesis import STRATEGY, SynthesisStudy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDEST = 6.0
"""Inches of the images in the figure."""


@styled
def draw(rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
    """Draw a line of panels for each domain."""
    domains = by_domain(rows)
    height = 0.31 * max(map(len, domains.values()))
    made = max(sum(row["role"] == STRATEGY for row in own) for own in domains.values())
    # images as tall as the panels beside them, and their names
    strips_width = 1.6 + min(SynthesisStudy.shown * height / max(made, 1), _WIDEST)
    widths = [strips_width, 5.4, 3.6]
    figure, lines = lines_figure(
        domains,
        width=sum(widths),
        height=(height + 1.0) * len(domains),
        columns=3,
        widths=widths,
    )
    for domain, own, (strips, kid, authenticity) in lines:
        draw_strips(strips, under(pictures, domain), title=domain)
        _draw_dots(kid, own, "kid", scale=1e3)
        _draw_dots(authenticity, own, "authenticity")
        kid.set_yticks(range(len(own)), [row["strategy"] for row in own], fontsize=8.5)
        authenticity.set_yticks(range(len(own)), [""] * len(own))
        scale_kid(kid, "x", [row["kid"] for row in own])
        kid.set_title("KID × 10³, lower is better")
        authenticity.set_title("authenticity")
        authenticity.set_xlim(-0.03, 1.03)
    return figure


def _draw_dots(axes: "Axes", rows: Sequence[Row], key: str, *, scale: float = 1.0) -> None:
    """Draw a number of each row, one below the other."""
    for y, row in enumerate(rows):
        axes.errorbar(
            scale * row[key],
            y,
            xerr=error_bars([row], key, scale=scale),
            fmt="o",
            color=COLOURS[row["role"]],
            capsize=3,
        )
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x")
    axes.set_xlabel("with 95% interval")
