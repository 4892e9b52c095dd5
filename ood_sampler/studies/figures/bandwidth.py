"""Retention, novelty and KID over the step, one line per domain, beside the samples."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ood_sampler.report.annotate import tick_values
from ood_sampler.report.columns import Row
from ood_sampler.report.plots import LINES, scale_kid, styled
from ood_sampler.studies.bandwidth import BandwidthStudy
from ood_sampler.studies.figures.curves import (
    GREY,
    error_bars,
    legend_of,
    lines_figure,
    look,
    share_axis,
)
from ood_sampler.studies.figures.strips import draw_strips, under
from ood_sampler.studies.rows import by_column, by_domain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDEST = 4.0
"""Inches of the images in the figure."""

_PANELS = (
    ("retention", "retention", 1.0, "retention_asked"),
    ("authenticity", "novelty", 1.0, "novelty_asked"),
    ("kid", "KID × 10³", 1e3, None),
)
"""Column, title, scale and the column of what was asked."""


@styled
def draw(rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
    """Draw a line of panels for each domain, in the order of their gaps."""
    own_of = by_domain(rows)
    by_gap = sorted({(row["gap"], row["domain"]) for row in rows})
    domains = {domain: own_of[domain] for _, domain in by_gap}
    strategies = list(by_column(rows, "strategy"))
    steps = len({row["step"] for row in rows})
    height = max(2.5, 0.34 * steps + 0.7)
    # images as tall as the panels beside them, and their names
    widths = [0.8 + min(BandwidthStudy.shown * (height - 0.7) / steps, _WIDEST), 3.5, 3.5, 3.5]
    figure, lines = lines_figure(
        domains,
        width=sum(widths),
        height=height * len(domains) + 0.8,
        columns=4,
        widths=widths,
    )
    for domain, own, (strips, *line) in lines:
        gap = f"{domain}\ngap {1e3 * own[0]['gap']:.0f}"
        draw_strips(strips, under(pictures, domain), title=gap)
        for axes, (key, _, scale, asked) in zip(line, _PANELS, strict=True):
            for k, strategy in enumerate(strategies):
                curve = [row for row in own if row["strategy"] == strategy]
                _draw_curve(axes, curve, key, k, strategy, scale=scale)
            if asked is None:
                scale_kid(axes, "y", [row["kid"] for row in own])
            else:
                name = "least share asked"
                axes.axhline(own[0][asked], color=GREY, linestyle="--", linewidth=1, label=name)
                share_axis(axes)
            tick_values(axes, [row["step"] for row in own])
            axes.grid()
    for k, (_, title, _, _) in enumerate(_PANELS, 1):
        lines[0][2][k].set_title(title)
        lines[-1][2][k].set_xlabel("inversion step t")
    legend_of(figure, (axes for _, _, line in lines for axes in line), columns=5)
    return figure


def _draw_curve(
    axes: "Axes", curve: Sequence[Row], key: str, k: int, strategy: str, *, scale: float
) -> None:
    """Draw the curve of a strategy, and of the first one its band and the chosen step."""
    axes.errorbar(
        [row["step"] for row in curve],
        [scale * row[key] for row in curve],
        yerr=error_bars(curve, key, scale=scale),
        markersize=4,
        capsize=2,
        label=strategy,
        **look(k),
    )
    if k == 0 and len(curve) > 1 and curve[0]["band_low"] is not None:
        low, high = curve[0]["band_low"], curve[0]["band_high"]
        axes.axvspan(low, high, color=LINES[0], alpha=0.1, label=f"band of {strategy}")
        chosen = next(row["step"] for row in curve if row["chosen"])
        axes.axvline(chosen, color=LINES[0], linestyle=":", label="its chosen step")
