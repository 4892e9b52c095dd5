"""Titles, legends, ticks and point labels that do not overlap."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LETTER = 0.092
"""Width of a letter in a title, in inches."""

_LEGEND_LETTER, _LEGEND_MARK, _LEGEND_LINE = 0.076, 0.6, 0.22
"""Width of a letter and a mark in a legend, and height of a line, in inches."""

_MOST_TICKS = 8

_LABEL_SIZE = 7.5
_RADII, _ANGLES = (8, 13, 19, 26, 35, 46, 60, 78), 16
"""Places tried for a label: distances from its point in 1/72 inch, and directions."""

_FAR = 14
"""Distance from which a line joins a label to its point."""

_POINT = 4.0
"""Half the size of a marker, with a margin."""


_Box: TypeAlias = tuple[float, float, float, float]
"""Left, bottom, right and top, in pixels."""


@dataclass(frozen=True)
class Label:
    """A text beside a point, both in the colour of its set; without text an obstacle."""

    text: str
    x: float
    y: float
    colour: str


def entitle(axes: "Axes", text: str, *, room: float = 0.9) -> None:
    """Write a title, wrapped to a share of its column's width."""
    place: Any = axes.get_subplotspec()
    grid = place.get_gridspec()
    ratios = grid.get_width_ratios() or [1] * grid.ncols
    share = sum(ratios[place.colspan.start : place.colspan.stop]) / sum(ratios)
    figure: Any = axes.get_figure()
    if place.colspan.stop == grid.ncols:
        # there is no gap to reach into
        room -= 0.1
    letters = max(12, int(room * share * figure.get_figwidth() / _LETTER))
    axes.set_title("\n".join(textwrap.fill(line, letters) for line in text.split("\n")))


def add_legend(
    figure: "Figure", handles: Sequence[Any], labels: Sequence[str], *, columns: int
) -> None:
    """Write a legend below all panels, in at most `columns` columns, and make the figure taller."""
    if not labels:
        return
    width = _LEGEND_MARK + _LEGEND_LETTER * max(map(len, labels))
    columns = max(1, min(columns, len(labels), int(figure.get_figwidth() / width)))
    lines = -(-len(labels) // columns)
    figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * (lines - 1))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def tick_values(axes: "Axes", values: Sequence[float]) -> None:
    """Mark the given values of the horizontal axis, if they are few."""
    shown = sorted(set(values))
    if len(shown) <= _MOST_TICKS:
        axes.set_xticks(shown, [f"{value:g}" for value in shown])
    if len(shown) == 1:
        axes.set_xlim(shown[0] - 1, shown[0] + 1)


def columns_for(count: int, *, most: int) -> int:
    """Columns of panels that leave the fewest places empty; of equals the most."""
    return min(range(min(count, 2), min(count, most) + 1), key=lambda n: (-count % n, -n))


def place_labels(figure: "Figure", labels: Sequence[tuple["Axes", Sequence[Label]]]) -> None:
    """Write labels beside their points, at the nearest free place.

    This freezes the layout.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes, own in labels:
        _place(axes, own, pixels=figure.dpi / 72)


def _place(axes: "Axes", labels: Sequence[Label], *, pixels: float) -> None:
    inside: Any = axes.get_window_extent()
    points = [tuple(axes.transData.transform((label.x, label.y))) for label in labels]
    reach = _POINT * pixels
    taken: list[_Box] = [(x - reach, y - reach, x + reach, y + reach) for x, y in points]
    for label, point in zip(labels, points, strict=True):
        if not label.text:
            continue
        radius, box = _free_place(label, point, taken, tuple(inside.extents), pixels=pixels)
        taken.append(box)
        centre = [((box[i] + box[i + 2]) / 2 - point[i]) / pixels for i in range(2)]
        _write(axes, label, centre, leads=radius >= _FAR)


def _free_place(
    label: Label, point: Sequence[float], taken: Sequence[_Box], inside: _Box, *, pixels: float
) -> tuple[float, _Box]:
    """The nearest box without overlap, or the one with least overlap; and its distance."""
    half_width = 0.33 * _LABEL_SIZE * len(label.text) * pixels
    half_height = 0.6 * _LABEL_SIZE * pixels
    x, y = point
    found: list[tuple[float, float, _Box]] = []
    for radius in _RADII:
        for k in range(_ANGLES):
            angle = math.pi / 4 + 2 * math.pi * k / _ANGLES
            across = x + math.cos(angle) * (radius * pixels + half_width)
            up = y + math.sin(angle) * radius * pixels
            box = (across - half_width, up - half_height, across + half_width, up + half_height)
            whole = 4 * half_width * half_height
            cost = sum(_overlap(box, other) for other in taken)
            cost += 10 * (whole - _overlap(box, inside))
            found.append((cost, radius, box))
        best = min(found)
        if best[0] < 1e-6:
            break
    return best[1], best[2]


def _write(axes: "Axes", label: Label, centre: Sequence[float], *, leads: bool) -> None:
    line = {"arrowstyle": "-", "color": label.colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
    axes.annotate(
        label.text,
        (label.x, label.y),
        textcoords="offset points",
        xytext=(centre[0], centre[1]),
        ha="center",
        va="center",
        fontsize=_LABEL_SIZE,
        color=label.colour,
        arrowprops=line if leads else None,
    )


def _overlap(a: _Box, b: _Box) -> float:
    """Area that two boxes share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0
