"""Smoothness of paths and their middle frames as points with intervals, beside strips of frames."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ood_sampler.report.annotate import entitle
from ood_sampler.report.columns import Row
from ood_sampler.report.plots import styled
from ood_sampler.studies.figures.curves import error_bars, lines_figure, look
from ood_sampler.studies.figures.strips import draw_strips, under
from ood_sampler.studies.rows import place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STRIPS = 2
"""Pairs whose frames are shown."""


@styled
def draw(runs: Mapping[str, Mapping[str, Row]], pictures: Mapping[str, Tensor]) -> "Figure":
    """Draw a line of panels for each run."""
    figure, lines = lines_figure(
        runs,
        width=16.0,
        height=2.4 * len(runs) + 0.4,
        columns=2 + _STRIPS,
        widths=[1.0, 1.0, *[1.7] * _STRIPS],
    )
    for name, paths, (smooth, middle, *strips) in lines:
        _draw_points(smooth, paths, "smoothness", names=list(paths))
        entitle(smooth, f"{name}: largest over mean step")
        _draw_points(middle, paths, "kid", scale=1e3, names=[""] * (len(paths) - 1) + ["real"])
        entitle(middle, "half way: KID × 10³")
        first = next(iter(paths.values()))
        prefix = f"{first['domain']}/{place(first)}"
        pairs = list(dict.fromkeys(key.rsplit("/", 1)[0] for key in under(pictures, prefix)))
        for axes in strips:
            axes.set_axis_off()
        for axes, pair in zip(strips, pairs, strict=False):
            draw_strips(axes, under(pictures, pair), title=pair.rpartition("/")[2])
    return figure


def _draw_points(
    axes: "Axes",
    paths: Mapping[str, Row],
    key: str,
    *,
    names: Sequence[str],
    scale: float = 1.0,
) -> None:
    """A point for each path that has the number, from top to bottom."""
    shown = [(k, row) for k, row in enumerate(paths.values()) if row.get(key) is not None]
    for k, row in shown:
        bars = error_bars([row], key, scale=scale)
        axes.errorbar([scale * row[key]], [k], xerr=bars, capsize=3, **look(k))
    axes.set_ylim(len(paths) - 0.4, -0.6)
    axes.set_yticks([k for k, _ in shown], [names[k] for k, _ in shown])
    axes.grid(axis="x")
