"""Curves with intervals, their looks, and what panels of several studies share."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ood_sampler.report.annotate import add_legend, tick_values
from ood_sampler.report.columns import Row, number
from ood_sampler.report.plots import LINES, MARKERS, panel_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

G = TypeVar("G")

INK, GREY = "#1c2026", "#77808c"


def look(k: int) -> dict[str, Any]:
    """Colour and marker of the curve number `k`; they come again after the last."""
    return {"color": LINES[k % len(LINES)], "marker": MARKERS[k % len(MARKERS)]}


def error_bars(rows: Sequence[Row], key: str, *, scale: float = 1.0) -> list[list[float]]:
    """Lengths of the bars below and above a number of each row, from its interval."""
    return [
        [max(0.0, scale * (row[key] - row[f"{key}_low"])) for row in rows],
        [max(0.0, scale * (row[f"{key}_high"] - row[key])) for row in rows],
    ]


def draw_curve(
    axes: "Axes",
    rows: Sequence[Row],
    key: str,
    *,
    aside: float = 0.0,
    **style: Any,  # noqa: ANN401 matplotlib's own
) -> None:
    """Draw a number over the step, with its interval where it has one.

    Args:
        axes: where to.
        rows: in the order of their steps; those without the number are left out.
        key: the number.
        aside: steps by which a curve of one step alone stands beside it, as others may too.
        style: of the line.
    """
    shown = [row for row in rows if number(row.get(key)) is not None]
    if not shown:
        return
    bars = None
    if all(number(row.get(f"{key}_{end}")) is not None for row in shown for end in ("low", "high")):
        bars = error_bars(shown, key)
    style = {"markersize": 4.5, "capsize": 2.5, "linewidth": 1.6, **style}
    across = [row["step"] + (aside if len(shown) == 1 else 0) for row in shown]
    axes.errorbar(across, [row[key] for row in shown], yerr=bars, **style)


def beside(k: int, count: int) -> float:
    """Where the number of one of several curves stands, within half a step of the only one."""
    return (k + 0.5) / count - 0.5


def over_steps(axes: "Axes", rows: Sequence[Row]) -> None:
    """Name the horizontal axis, the steps of all rows, and draw the grid."""
    axes.set_xlabel("inversion step t")
    tick_values(axes, [row["step"] for row in rows if row["step"] is not None])
    axes.grid()


def draw_level(axes: "Axes", value: float, *, label: str | None = None) -> None:
    """Draw a level line that others are compared with."""
    axes.axhline(value, color=INK, linestyle=":", linewidth=1.4, label=label)


def draw_decades(axes: "Axes") -> None:
    """Make the vertical axis logarithmic, with plain numbers wherever there is room for them."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def share_axis(axes: "Axes") -> None:
    """Show all of 0 to 1 on the vertical axis."""
    axes.set_ylim(-0.03, 1.03)


def legend_of(figure: "Figure", panels: Iterable["Axes"], *, columns: int) -> None:
    """Write one legend for some panels, in which each label comes once."""
    legend: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    add_legend(figure, list(legend.values()), list(legend), columns=columns)


def lines_figure(
    groups: Mapping[str, G],
    *,
    width: float,
    height: float,
    columns: int,
    widths: Sequence[float] | None = None,
) -> "tuple[Figure, list[tuple[str, G, Sequence[Axes]]]]":
    """Make a figure with a line of panels for each group, a domain or a run (`panel_figure`).

    Returns:
        The figure; name, rows and panels of each line.
    """
    figure, panels = panel_figure(
        width=width, height=height, rows=len(groups), columns=columns, widths=widths
    )
    lines = (panels[columns * i : columns * (i + 1)] for i in range(len(groups)))
    return figure, [(*group, line) for group, line in zip(groups.items(), lines, strict=True)]
