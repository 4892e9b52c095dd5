"""What each judge notices, degradation by degradation, for each domain."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ood_sampler.report.columns import Row
from ood_sampler.report.grid import to_uint8
from ood_sampler.report.plots import styled
from ood_sampler.studies.figures.curves import INK, beside, legend_of, lines_figure, look
from ood_sampler.studies.judges import DETECTED, REAL, SHOWN
from ood_sampler.studies.rows import by_column, by_domain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLE = 34
"""Letters of a domain's name that fit above the names of degradations and their images."""

_TICKS = (-10, -3, 0, 3, 10, 30, 100, 300)


@styled
def draw(rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
    """Draw a line of panels for each domain."""
    domains = by_domain(rows)
    judges = list(by_column(rows, "judge"))
    most = max(len(by_column(own, "degradation")) for own in domains.values())
    figure, lines = lines_figure(
        domains,
        width=8.6,
        height=(0.26 * most + 0.9) * len(domains) + 0.3,
        columns=3,
        widths=[1.0, 1.7, 1.3],
    )
    for domain, own, (strips, kid, precision) in lines:
        names = list(by_column(own, "degradation"))
        _draw_pictures(strips, [pictures.get(f"{domain}/{name}") for name in names])
        strips.set_yticks(range(len(names)), names, fontsize=8.5)
        # to the left there is room above the names
        strips.set_title(textwrap.fill(domain, _TITLE), loc="right", x=0.93)
        for axes, end in ((kid, ""), (precision, "_precision")):
            _draw_multiples(axes, own, names, judges, end)
        kid.set_title("KID above real")
        precision.set_title("precision below real")
    legend_of(figure, lines[0][2][1:2], columns=4)
    return figure


def _draw_pictures(axes: "Axes", strips: Sequence[Tensor | None]) -> None:
    """One strip of images in each line of the panels beside it."""
    for y, strip in enumerate(strips):
        if strip is not None:
            picture = torch.cat(list(to_uint8(strip)), dim=2).permute(1, 2, 0).numpy()
            place = (0.0, float(len(strip)), y + 0.46, y - 0.46)
            axes.imshow(picture, extent=place, aspect="auto", interpolation="nearest")
    axes.set_xlim(0, SHOWN)
    axes.set_ylim(len(strips) - 0.5, -0.5)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _draw_multiples(
    axes: "Axes", rows: Sequence[Row], names: Sequence[str], judges: Sequence[str], end: str
) -> None:
    """Dots in standard errors, filled where noticed; a band as wide as what chance does."""
    by_judge = by_column(rows, "judge")
    noise = max((abs(row[f"multiple{end}"]) for row in rows if row["kind"] == REAL), default=0.0)
    axes.axvspan(-noise, noise, color="#eef0f3", label="real against real")
    axes.axvline(DETECTED, color=INK, linestyle=":", linewidth=1.4, label="noticed from here")
    for (k, judge), noticed in product(enumerate(judges), (True, False)):
        own = [row for row in by_judge.get(judge, ()) if row[f"detected{end}"] is noticed]
        axes.plot(
            [row[f"multiple{end}"] for row in own],
            [names.index(row["degradation"]) + 0.36 * beside(k, len(judges)) for row in own],
            markersize=5,
            linestyle="none",
            **look(k),
            markerfacecolor=None if noticed else "white",
            label=judge if noticed else None,
        )
    values = [row[f"multiple{end}"] for row in rows]
    axes.set_xscale("symlog", linthresh=DETECTED)
    low, high = min(-DETECTED, *values), max(2 * DETECTED, *values)
    axes.set_xlim(1.3 * low, 1.3 * high)
    ticks = [tick for tick in _TICKS if low <= tick <= 1.3 * high]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), [""] * len(names))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("standard errors")
    axes.grid()
