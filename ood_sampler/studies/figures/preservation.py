"""Original domain against target, the curve of the fine-tuning, and samples, for each run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ood_sampler.report.annotate import entitle
from ood_sampler.report.columns import Row
from ood_sampler.report.plots import COLOURS, scale_kid, styled
from ood_sampler.studies.figures.curves import error_bars, legend_of, lines_figure
from ood_sampler.studies.figures.strips import draw_strips
from ood_sampler.studies.preservation import (
    ADAPTED,
    AFTER,
    BEFORE,
    STRIPS,
    TUNED,
    runs_of,
    strips_of,
)
from ood_sampler.studies.rows import RunRows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOOKS = {
    BEFORE: (COLOURS["reference"], "o"),
    AFTER: (COLOURS["strategy"], "s"),
    TUNED: (COLOURS["control"], "D"),
    ADAPTED: (COLOURS["control"], "^"),
}
"""Colour and marker of each method."""


@styled
def draw(rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
    """Draw a line of panels for each run."""
    groups = runs_of(rows)
    figure, lines = lines_figure(groups, width=13.5, height=0.4 + 3.9 * len(groups), columns=3)
    for title, group, (trade, loss, images) in lines:
        _draw_trade(trade, group)
        _draw_loss(loss, group[TUNED])
        names = [f"{strips_of(group)}/{name}" for name in STRIPS]
        strips = {name: pictures[name] for name in names if name in pictures}
        draw_strips(images, strips, title="Samples")
        # the names beside the images take up some of the width
        entitle(trade, f"{title}: before and after", room=0.75)
    legend_of(figure, (trade for _, _, (trade, *_) in lines), columns=3)
    return figure


def _draw_trade(axes: "Axes", group: RunRows) -> None:
    for method, row in group.items():
        colour, marker = _LOOKS[method]
        axes.errorbar(
            row["in_domain_fid"],
            1e3 * row["kid"],
            xerr=error_bars([row], "in_domain_fid"),
            yerr=error_bars([row], "kid", scale=1e3),
            fmt=marker,
            color=colour,
            markersize=8,
            capsize=3,
            label=f"{method} (target by {row['made_by']})",
        )
    # methods are orders of magnitude apart, and a KID may be below 0
    scale_kid(axes, "y", [row["kid"] for row in group.values()])
    axes.margins(0.12)
    axes.set_xlabel("FID to the original domain, 95% (left is better)")
    axes.set_ylabel("KID × 10³ to the target, 95% (down is better)")
    axes.grid()


def _draw_loss(axes: "Axes", row: Row) -> None:
    looks = row["curve"]
    colour, _ = _LOOKS[TUNED]
    axes.plot(
        [step for step, _, _ in looks],
        [validation for _, _, validation in looks],
        color=colour,
        marker="o",
        markersize=4,
        label="held-out images, averaged weights",
    )
    axes.plot(
        [step for step, training, _ in looks if training is not None],
        [training for _, training, _ in looks if training is not None],
        color=COLOURS["reference"],
        linewidth=1.4,
        label="training images",
    )
    axes.axvline(
        row["best_step"],
        ymax=0.78,
        color=colour,
        linestyle="--",
        linewidth=1.4,
        label="weights kept",
    )
    axes.set_title("Fine-tuning")
    axes.set_xlabel("step of the optimizer")
    axes.set_ylabel("mean square error of the prediction")
    # room for the legend above the curve
    axes.margins(y=0.4)
    axes.grid()
    axes.legend(
        loc="upper right", fontsize=9, frameon=True, framealpha=1, edgecolor="white", borderpad=0.1
    )
