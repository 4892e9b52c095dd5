"""PSNR and SSIM over the step, above images and their reconstructions by each solver."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ood_sampler.report.columns import Row
from ood_sampler.report.plots import panel_figure, styled
from ood_sampler.studies.figures.curves import (
    GREY,
    beside,
    draw_curve,
    legend_of,
    look,
    over_steps,
)
from ood_sampler.studies.figures.strips import draw_strips, under
from ood_sampler.studies.in_domain import FEW_SHOT, IN_DOMAIN
from ood_sampler.studies.reconstruction import ORIGINALS
from ood_sampler.studies.rows import by_column, by_domain, by_step

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def draw(rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
    """Draw two panels of all domains, and the images of each domain that has some."""
    domains = by_domain(rows)
    strips = {domain: found for domain in domains if (found := _strips(pictures, domain))}
    lines = -(-len(strips) // 2)
    # of images and of their reconstructions by each solver
    height = 0.6 + 0.4 * max(map(len, strips.values()), default=0)
    figure, panels = panel_figure(width=11.5, height=4, rows=1 + lines, columns=2)
    grid = panels[0].get_gridspec()
    if grid is not None:
        grid.set_height_ratios([3.6] + [height] * lines)
    titles = {"psnr": "PSNR in dB (higher is better)", "ssim": "SSIM (1: equal)"}
    for axes, (key, title) in zip(panels, titles.items(), strict=False):
        _draw_panel(axes, domains, key)
        axes.set_title(title)
        over_steps(axes, rows)
    if grid is not None and len(strips) % 2:
        # the last one has the line to itself
        figure.delaxes(panels.pop())
        panels[-1].set_subplotspec(grid[-1, :])
    for axes, (domain, strip) in zip(panels[2:], strips.items(), strict=True):
        draw_strips(axes, strip, title=domain)
    figure.set_figheight(4.2 + height * lines)
    # a sweep of solvers has a legend longer than the panels
    legend_of(figure, panels[:1], columns=2)
    return figure


def _draw_panel(axes: "Axes", domains: Mapping[str, Sequence[Row]], key: str) -> None:
    """Draw a curve for each domain and solver, and for each model's own domain and solver."""
    solvers = list(by_column([row for own in domains.values() for row in own], "solver"))
    markers = {solver: look(n)["marker"] for n, solver in enumerate(solvers)}
    few_shot = [
        (k, name, curve)
        for k, own in enumerate(domains.values())
        for name, curve in _curves(own, FEW_SHOT, "domain").items()
    ]
    # one model's are the same for all domains
    of_models: dict[tuple[str, str], list[Row]] = {}
    for own in domains.values():
        of_models = _curves(own, IN_DOMAIN, "model") | of_models
    count = len(few_shot) + len(of_models)
    for j, (k, (domain, solver), curve) in enumerate(few_shot):
        style = {**look(k), "marker": markers[solver], "label": f"{domain}, {solver}"}
        draw_curve(axes, curve, key, aside=beside(j, count), **style)
    models = sorted({model for model, _ in of_models})
    for j, ((model, solver), curve) in enumerate(sorted(of_models.items()), len(few_shot)):
        draw_curve(
            axes,
            curve,
            key,
            aside=beside(j, count),
            color=GREY,
            marker=markers[solver],
            linestyle=("--", ":", "-.")[models.index(model) % 3],
            label=f"{model}'s own domain, {solver}",
        )


def _strips(pictures: Mapping[str, Tensor], domain: str) -> dict[str, Tensor]:
    """Strips of a domain, the originals first, by names wrapped to fit beside them."""
    own = {k.removeprefix(f"{domain}/"): x for k, x in under(pictures, domain).items()}
    ordered = sorted(own, key=lambda name: name != ORIGINALS)
    return {textwrap.fill(name, 26): own[name] for name in ordered}


def _curves(rows: Sequence[Row], name: str, key: str) -> dict[tuple[str, str], list[Row]]:
    """Rows of a set in the order of their steps, by a column and the solver."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in by_step(row for row in rows if row["set"] == name):
        found.setdefault((row[key], row["solver"]), []).append(row)
    return found
