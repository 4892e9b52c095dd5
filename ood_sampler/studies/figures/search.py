"""KID as the search saw it against that of the full grid, a panel for each domain."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ood_sampler.report.annotate import columns_for, entitle
from ood_sampler.report.columns import Row
from ood_sampler.report.plots import panel_figure, scale_kid, styled
from ood_sampler.studies.figures.curves import INK, legend_of, look
from ood_sampler.studies.rows import by_column, by_domain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def draw(rows: Sequence[Row]) -> "Figure":
    """Draw a panel for each domain."""
    domains = by_domain(rows)
    columns = columns_for(len(domains), most=4)
    lines = -(-len(domains) // columns)
    figure, panels = panel_figure(
        width=1.5 + 4 * columns, height=0.8 + 3.6 * lines, rows=lines, columns=columns
    )
    strategies = list(by_column(rows, "strategy"))
    for axes in panels[len(domains) :]:
        axes.set_axis_off()
    for axes, (domain, own) in zip(panels, domains.items(), strict=False):
        _draw_settings(axes, own, strategies)
        entitle(axes, domain)
    legend_of(figure, panels[:1], columns=3)
    return figure


def _draw_settings(axes: "Axes", rows: Sequence[Row], strategies: Sequence[str]) -> None:
    rows = [row for row in rows if row["validation_kid"] is not None]
    for k, strategy in enumerate(strategies):
        points = [row for row in rows if row["strategy"] == strategy]
        axes.scatter(
            [1e3 * row["validation_kid"] for row in points],
            [1e3 * row["kid"] for row in points],
            s=[12 + row["samples"] / 6 for row in points],
            label=strategy,
            **look(k),
        )
    chosen = next(row for row in rows if row["chosen"])
    axes.scatter(
        [1e3 * chosen["validation_kid"]],
        [1e3 * chosen["kid"]],
        s=220,
        facecolors="none",
        edgecolors=INK,
        label="chosen",
    )
    scale_kid(axes, "x", [row["validation_kid"] for row in rows])
    scale_kid(axes, "y", [row["kid"] for row in rows])
    axes.set_xlabel("KID × 10³ to the validation part")
    axes.set_ylabel("KID × 10³ to held-out images")
    axes.grid()
