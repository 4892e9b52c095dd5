"""Rows of images inside a figure."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ood_sampler.report.annotate import entitle
from ood_sampler.report.grid import to_uint8

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def under(pictures: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Images whose label begins with a prefix and a slash."""
    return {label: x for label, x in pictures.items() if label.startswith(f"{prefix}/")}


def draw_strips(axes: "Axes", strips: Mapping[str, Tensor], *, title: str) -> None:
    """Show one row of images for each label.

    Args:
        axes: where to.
        strips: in [-1, 1], shape $(N, 3, R, R)$; what follows the last slash of a label is shown.
        title: above the rows.
    """
    # the names take up some of the width
    entitle(axes, title, room=0.65)
    axes.set_axis_off()
    if not strips:
        return
    side = next(iter(strips.values())).shape[-1]
    lines = [torch.cat(list(to_uint8(x)), dim=2) for x in strips.values()]
    picture = torch.cat(lines, dim=1)
    axes.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
    for i, name in enumerate(strips):
        axes.text(
            -0.02 * picture.shape[2],
            (i + 0.5) * side,
            name.rpartition("/")[2],
            ha="right",
            va="center",
            fontsize=8.5,
        )
