"""Samples and held-out images as physical fields beside a colour bar in their unit."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import fill
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ood_sampler.data.radiation import FieldScale
from ood_sampler.report.plots import panel_figure, styled
from ood_sampler.report.template import plot_source, render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 4
"""Fields of each kind in a figure."""

_TICKS = 5
_COLOURS = "viridis"


@dataclass(frozen=True)
class FieldPanel:
    """Physical fields as a page shows them."""

    samples: Tensor
    """In [-1, 1], shape $(N, 3, R, R)$; the first four are shown."""

    held_out: Tensor
    """Likewise."""

    scale: FieldScale
    unit: str | None
    """Unit of the values; None if unknown."""

    files: Sequence[str]
    """Names of the files beside the page with all samples as fields."""


def field_section(panel: FieldPanel) -> str:
    """Write the part of a page on physical fields as HTML."""
    plots = [(caption, plot_source(figure)) for caption, figure in field_figures(panel)]
    return render("fields.html.j2", panel=panel, plots=plots)


def field_figures(panel: FieldPanel) -> "list[tuple[str, Figure]]":
    """Draw a few samples above held-out fields: a figure with a colour bar per band."""
    bands = len(panel.scale.low)
    sets = [_bands(images[:_SHOWN], bands) for images in (panel.samples, panel.held_out)]
    unit = f" ({panel.unit})" if panel.unit else ""
    figures = []
    for band in range(bands):
        which = "Fields" if bands == 1 else f"Band {band + 1} of {bands}: fields"
        caption = f"{which}{unit}, samples above and held-out fields below."
        figures.append((caption, _band_figure(panel, [images[:, band] for images in sets], band)))
    return figures


def tick_labels(values: Sequence[float]) -> list[str]:
    """Write increasing values, each with at least three digits, all to a twentieth of a step."""
    steps = [b - a for a, b in pairwise(values)]
    allowed = [min(pair) / 20 for pair in zip([steps[0], *steps], [*steps, steps[-1]], strict=True)]
    for digits in range(3, 18):
        labels = [f"{value:.{digits}g}" for value in values]
        errors = [abs(float(text) - value) for text, value in zip(labels, values, strict=True)]
        if all(error <= most for error, most in zip(errors, allowed, strict=True)):
            break
    return labels


@styled
def _band_figure(panel: FieldPanel, sets: Sequence[Tensor], band: int) -> "Figure":
    figure, axes = panel_figure(width=6.4, height=3.2, rows=2, columns=_SHOWN)
    for place in axes:
        place.set_axis_off()
    for row, (title, fields) in enumerate(zip(("Samples", "Held-out"), sets, strict=True)):
        axes[row * _SHOWN].set_title(title)
        for place, field in zip(axes[row * _SHOWN :], fields, strict=False):
            # The colour is linear on the scale, so that the ticks carry the values.
            drawn = place.imshow(
                field.numpy(), cmap=_COLOURS, vmin=-1, vmax=1, interpolation="none"
            )
    positions = torch.linspace(-1, 1, _TICKS, dtype=torch.float64)
    bar = figure.colorbar(
        drawn, ax=axes, ticks=positions.tolist(), label=fill(panel.unit or "value", 40)
    )
    bar.ax.set_yticklabels(tick_labels(values_at(panel.scale, positions, band)))
    bar.outline.set_visible(False)
    return figure


def _bands(images: Tensor, bands: int) -> Tensor:
    """Return the bands of images, shape $(N, C, R, R)$."""
    return images.mean(dim=1, keepdim=True) if bands == 1 else images


def values_at(scale: FieldScale, colours: Tensor, band: int) -> list[float]:
    """Physical values of colours in [-1, 1] from end to end, in one band."""
    pictures = colours.view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    values: list[float] = scale.from_pictures(pictures)[:, band, 0, 0].double().tolist()
    # The ends are known exactly.
    return [scale.low[band], *values[1:-1], scale.high[band]]
