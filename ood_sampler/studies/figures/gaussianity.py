"""How far latents are from white noise, over the step."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

from ood_sampler.report.columns import Row
from ood_sampler.report.plots import panel_figure, styled
from ood_sampler.studies.figures.curves import (
    GREY,
    beside,
    draw_curve,
    draw_decades,
    draw_level,
    legend_of,
    look,
    over_steps,
)
from ood_sampler.studies.gaussianity import WHITE, curve_of
from ood_sampler.studies.in_domain import FEW_SHOT, IN_DOMAIN
from ood_sampler.studies.rows import by_domain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = (
    ("coordinate_distance", "Single coordinates", "Kolmogorov distance to normal", "linear"),
    ("projection_distance", "Random directions", "Kolmogorov distance to normal", "linear"),
    ("mean", "Mean latent", "root mean square of a coordinate", "linear"),
    ("neighbours", "Neighbouring pixels", "correlation", "linear"),
    ("low_band", "Power below 1/8 cycle a pixel", "over that at all frequencies", "log"),
    ("radius_spread", "Radius about the mean", "spread, over that of the chi law", "log"),
)
"""Column, title, label and scale."""


@styled
def draw(rows: Sequence[Row]) -> "Figure":
    """Draw six panels, with a curve for each domain and each model's own."""
    figure, panels = panel_figure(width=12, height=7, rows=2, columns=3)
    domains = by_domain(rows)
    for axes, (key, title, label, scale) in zip(panels, _PANELS, strict=True):
        _draw_panel(axes, domains, key)
        axes.set_title(title)
        axes.set_ylabel(label)
        if scale == "log":
            draw_decades(axes)
        elif key != "neighbours":
            top = axes.get_ylim()[1]
            axes.set_ylim(-0.04 * top, 1.04 * top)
        over_steps(axes, rows)
    legend_of(figure, panels[:1], columns=4)
    return figure


def _draw_panel(axes: "Axes", domains: Mapping[str, Sequence[Row]], key: str) -> None:
    # one model's are the same for all domains
    of_models = {rows[0]["model"]: rows for rows in reversed(list(domains.values()))}
    count = len(domains) + len(of_models)
    for k, (domain, own) in enumerate(domains.items()):
        curve = curve_of(own, FEW_SHOT)
        draw_curve(axes, curve, key, aside=beside(k, count), label=domain, **look(k))
    models = zip(sorted(of_models.items()), cycle("x+1234|"), strict=False)
    for k, ((model, own), marker) in enumerate(models, len(domains)):
        draw_curve(
            axes,
            curve_of(own, IN_DOMAIN),
            key,
            aside=beside(k, count),
            color=GREY,
            marker=marker,
            linestyle="--",
            label=f"{model}'s own domain",
        )
    white = next(row for rows in domains.values() for row in rows if row["set"] == WHITE)
    draw_level(axes, white[key], label=WHITE)
