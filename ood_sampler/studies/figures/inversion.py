"""PSNR and radius of each method, above images and what comes back of them."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ood_sampler.report.columns import Row
from ood_sampler.report.plots import panel_figure, styled
from ood_sampler.studies.figures.curves import draw_level, error_bars, legend_of, look
from ood_sampler.studies.figures.strips import draw_strips
from ood_sampler.studies.in_domain import FEW_SHOT, IN_DOMAIN
from ood_sampler.studies.rows import by_domain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def draw(rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
    """Draw a line of two panels and a line of two strips for each domain."""
    domains = by_domain(rows)
    strips = {domain: _strips(pictures, domain) for domain in domains}
    shown = {domain: found for domain, found in strips.items() if any(found.values())}
    height = 0.45 * max(
        (len(strip) for found in shown.values() for strip in found.values()), default=0
    )
    lines = len(domains) + len(shown)
    figure, panels = panel_figure(width=11.5, height=4, rows=lines, columns=2)
    heights: list[float] = []
    upper: list[Axes] = []
    for domain, own in domains.items():
        left, right = panels[2 * len(heights) : 2 * len(heights) + 2]
        heights.append(3.4)
        upper.append(left)
        _draw_panel(left, own, "psnr", title=f"{domain}: PSNR in dB")
        _draw_panel(right, own, "ratio", title=f"{domain}: radius over that of the prior")
        draw_level(right, 1.0)
        for axes, (name, strip) in zip(
            panels[2 * len(heights) : 2 * len(heights) + 2],
            shown.get(domain, {}).items(),
            strict=False,
        ):
            draw_strips(axes, strip, title=f"{domain}, {name}")
        if domain in shown:
            heights.append(height)
    grid = panels[0].get_gridspec()
    if grid is not None:
        grid.set_height_ratios(heights)
    figure.set_figheight(sum(heights) + 0.8)
    legend_of(figure, upper[:1], columns=2)
    return figure


def _draw_panel(axes: "Axes", rows: Sequence[Row], key: str, *, title: str) -> None:
    """Draw a number of each method, for both sets."""
    names = list(dict.fromkeys(_label(row) for row in rows))
    for k, set_name in enumerate((FEW_SHOT, IN_DOMAIN)):
        own = [row for row in rows if row["set"] == set_name and row.get(key) is not None]
        if not own:
            continue
        places = [names.index(_label(row)) + 0.16 * (k - 0.5) for row in own]
        axes.errorbar(
            places,
            [row[key] for row in own],
            yerr=error_bars(own, key),
            linestyle="none",
            capsize=2.5,
            markersize=5,
            label=set_name,
            **look(k),
        )
    axes.set_xticks(range(len(names)), [textwrap.fill(name, 11) for name in names], fontsize=7.5)
    axes.set_title(title)
    axes.grid(True, axis="y")


def _label(row: Row) -> str:
    return f"{row['method']}, {row['budget']}" if row["budget"] else str(row["method"])


def _strips(pictures: Mapping[str, Tensor], domain: str) -> dict[str, dict[str, Tensor]]:
    """Images of each set of a domain, by names that leave room beside them."""
    found: dict[str, dict[str, Tensor]] = {FEW_SHOT: {}, IN_DOMAIN: {}}
    for label, images in pictures.items():
        prefix, _, name = label.partition(": ")
        of_domain, _, set_name = prefix.rpartition("/")
        if of_domain == domain and set_name in found:
            found[set_name][textwrap.fill(name, 22)] = images
    return found
