"""Distance of the means and scores of each detector over the step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ood_sampler.report.columns import Row
from ood_sampler.report.plots import panel_figure, styled
from ood_sampler.studies.figures.curves import (
    beside,
    draw_curve,
    draw_level,
    legend_of,
    look,
    over_steps,
    share_axis,
)
from ood_sampler.studies.rows import by_domain, by_step

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES = {
    "linear": "Linear classifier of latents",
    "typicality": "Distance to the in-domain shell",
    "reconstruction": "Baseline: reconstruction error",
    "denoising": "Baseline: denoising loss",
}


@styled
def draw(rows: Sequence[Row]) -> "Figure":
    """Draw six panels, with a curve for each domain."""
    domains = by_domain(rows)
    figure, panels = panel_figure(width=12, height=7, rows=2, columns=3)
    shown = [
        ("distance", "Distance of the means", "over σ d^(1/4)"),
        *((f"{name}_auroc", title, "AUROC") for name, title in _TITLES.items()),
        ("linear_fpr95", _TITLES["linear"], "false positives where 95% are found"),
    ]
    for axes, (key, title, label) in zip(panels, shown, strict=True):
        for k, (domain, own) in enumerate(domains.items()):
            aside = beside(k, len(domains))
            draw_curve(axes, by_step(own), key, aside=aside, label=domain, **look(k))
        if key == "distance":
            draw_level(axes, 1.0, label="separable above (distance), chance (AUROC)")
            axes.set_ylim(0, 1.06 * max(1.0, axes.get_ylim()[1]))
        else:
            share_axis(axes)
            if key.endswith("auroc"):
                draw_level(axes, 0.5)
        axes.set_title(title)
        axes.set_ylabel(label)
        over_steps(axes, rows)
    legend_of(figure, panels[:1], columns=4)
    return figure
