"""The captured share over the noise of decoding, beside samples of some steps."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

from torch import Tensor

from ood_sampler.report.annotate import entitle, tick_values
from ood_sampler.report.columns import Row
from ood_sampler.report.plots import styled
from ood_sampler.studies.figures.curves import (
    GREY,
    error_bars,
    legend_of,
    lines_figure,
    look,
    share_axis,
)
from ood_sampler.studies.figures.strips import draw_strips, under
from ood_sampler.studies.rows import by_domain, by_flow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STRIPS = 3
"""Steps of which the figure shows samples."""


@styled
def draw(rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
    """Draw a line of panels for each domain."""
    domains = by_domain(rows)
    columns = 1 + min(_STRIPS, len({row["step"] for row in rows}))
    figure, lines = lines_figure(
        domains, width=3.5 * columns, height=3.4 * len(domains) + 0.6, columns=columns
    )
    for domain, own, (curve, *strips) in lines:
        steps = sorted({row["step"] for row in own})
        _draw_captured(curve, own, steps)
        entitle(curve, f"{domain}: captured share")
        shown = steps if len(steps) <= len(strips) else [steps[0], steps[-2], steps[-1]]
        for axes in strips:
            axes.set_axis_off()
        for axes, step in zip(strips, shown, strict=False):
            draw_strips(axes, under(pictures, f"{domain}/t = {step}"), title=f"t = {step}")
    legend_of(figure, (curve for _, _, (curve, *_) in lines), columns=5)
    return figure


def _draw_captured(axes: "Axes", rows: Sequence[Row], steps: Sequence[int]) -> None:
    flows = by_flow(rows)
    for (flow, own), (k, step) in product(flows.items(), enumerate(steps)):
        line = [row for row in own if row["step"] == step]
        if not line:
            continue
        corrected = {"linestyle": "--", "markerfacecolor": "none"} if flow else {}
        axes.errorbar(
            [row["eta"] for row in line],
            [row["captured"] for row in line],
            yerr=error_bars(line, "captured"),
            capsize=3,
            label=f"t = {step}{flow}",
            **{**look(k), **corrected},
        )
    axes.axhline(rows[0]["real_captured"], color=GREY, linestyle="--", label="real images")
    share_axis(axes)
    tick_values(axes, [row["eta"] for row in rows])
    weights = "; w: weight of the correction" if len(flows) > 1 else ""
    axes.set_xlabel(f"noise of decoding η{weights}")
    axes.grid()
