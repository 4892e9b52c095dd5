"""Changes over strength, what stays, and agreement of pairs, beside images before and after."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ood_sampler.report.annotate import entitle
from ood_sampler.report.columns import Row
from ood_sampler.report.plots import styled
from ood_sampler.studies.figures.curves import (
    GREY,
    INK,
    error_bars,
    legend_of,
    lines_figure,
    look,
)
from ood_sampler.studies.figures.strips import draw_strips, under
from ood_sampler.studies.paths import SPHERE
from ood_sampler.studies.rows import by_column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OTHER = "to_"

_STILL: Row = {"strength": 0.0, "gain": 0.0, "gain_low": 0.0, "gain_high": 0.0}
"""Row of images that are not moved."""


@styled
def draw(attributes: Mapping[str, Sequence[Row]], pictures: Mapping[str, Tensor]) -> "Figure":
    """Draw a line of panels for each attribute."""
    figure, lines = lines_figure(
        attributes,
        width=15.0,
        height=3.1 * len(attributes) + 0.6,
        columns=4,
        widths=[1.1, 1.0, 0.8, 1.5],
    )
    for name, rows, (curve, stays, pairs, strips) in lines:
        _draw_changes(curve, rows)
        entitle(curve, f"{name}: change, SD")
        _draw_identity(stays, rows)
        entitle(stays, "change, SD, over feature distance to the original")
        _draw_alignment(pairs, rows)
        entitle(pairs, "mean cosine of pairs")
        prefix = f"{rows[0]['domain']}/{rows[0]['attribute']}"
        draw_strips(strips, under(pictures, prefix), title="original among moved images")
    legend_of(figure, (line[2][0] for line in lines), columns=4)
    return figure


def _draw_changes(axes: "Axes", rows: Sequence[Row]) -> None:
    for k, (method, own) in enumerate(by_column(rows, "method").items()):
        points = sorted([*own, _STILL], key=lambda row: float(row["strength"]))
        bars = error_bars(points, "gain")
        strengths, gains = ([row[key] for row in points] for key in ("strength", "gain"))
        axes.errorbar(strengths, gains, yerr=bars, capsize=3, label=method, **look(k))
        if method != SPHERE:
            continue
        others = [key for key in own[0] if key.startswith(_OTHER)]
        label: str | None = f"other labels, {SPHERE}"
        for key in others:
            if key == f"{_OTHER}{own[0]['attribute']}":
                continue
            changes = [row.get(key, 0.0) for row in points]
            axes.plot(strengths, changes, color=GREY, alpha=0.6, zorder=1, label=label)
            label = None
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xlabel("strength s")
    axes.grid()


def _draw_identity(axes: "Axes", rows: Sequence[Row]) -> None:
    for k, own in enumerate(by_column(rows, "method").values()):
        axes.plot([row["distance"] for row in own], [row["gain"] for row in own], **look(k))
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xlabel("distance, 1: of two images")
    axes.grid()


def _draw_alignment(axes: "Axes", rows: Sequence[Row]) -> None:
    spaces = by_column(rows, "space")
    for k, (space, own) in enumerate(spaces.items()):
        row = own[0]
        style = look(0 if space == "latents" else 2)
        axes.errorbar([k], [row["cosine"]], yerr=error_bars([row], "cosine"), capsize=4, **style)
        axes.errorbar(
            [k - 0.2], [row["null"]], yerr=error_bars([row], "null"), capsize=4, color=GREY, fmt="x"
        )
        level = row["null"] + row["explained"]
        axes.plot([k - 0.12, k + 0.12], [level] * 2, color=INK, linestyle=":")
    axes.set_xticks(range(len(spaces)), list(spaces))
    axes.set_xlim(-0.6, len(spaces) - 0.4)
    axes.set_xlabel("× labels permuted, ⋯ and means")
    axes.grid(axis="y")
