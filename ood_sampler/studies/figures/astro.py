"""Power spectra and shapes of each set, for each run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ood_sampler.report.annotate import entitle
from ood_sampler.report.columns import Row
from ood_sampler.report.plots import COLOURS, styled
from ood_sampler.studies.astro import NAMES, QUANTILES, known, runs_of
from ood_sampler.studies.figures.curves import INK, legend_of, lines_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROLE_COLOURS = {**COLOURS, "held-out": INK, "real": "#2a8a57"}


@styled
def draw(rows: Sequence[Row]) -> "Figure":
    """Draw a line of panels for each run."""
    runs = runs_of(rows)
    measured = {key: name for key, name in NAMES.items() if any(known(r, key) for r in rows)}
    columns = 2 + len(measured)
    figure, lines = lines_figure(
        runs, width=3.3 * columns, height=3.9 * len(runs) + 0.7, columns=columns
    )
    for name, run, (power, ratio, *shapes) in lines:
        own = list(run.values())
        _draw_spectra(power, own, "power")
        entitle(power, f"{name}: power")
        power.set_ylabel("mean log₁₀ of the power")
        _draw_spectra(ratio, own, "excess")
        ratio.set_title("power against held-out")
        ratio.set_ylabel("difference, decades")
        for axes, (key, shape) in zip(shapes, measured.items(), strict=True):
            _draw_boxes(axes, own, key)
            axes.set_title(shape)
    # strategies of several runs share a colour, and their panels tell them apart
    legend_of(figure, (ratio for _, _, (_, ratio, *_) in lines), columns=6)
    return figure


def _points(row: Row, key: str) -> dict[str, list[float]]:
    count = sum(name.startswith("wave_number_") for name in row)
    names = ("", "_low", "_high")
    points: dict[str, Any] = {end: [row[f"{key}_{k}{end}"] for k in range(count)] for end in names}
    return {**points, "x": [row[f"wave_number_{k}"] for k in range(count)]}


def _draw_spectra(axes: "Axes", rows: Sequence[Row], key: str) -> None:
    for row in rows:
        points, colour = _points(row, key), _ROLE_COLOURS[row["role"]]
        line = "--" if row["role"] == "held-out" else "-"
        axes.plot(points["x"], points[""], line, color=colour, label=str(row["set"]))
        axes.fill_between(
            points["x"], points["_low"], points["_high"], color=colour, alpha=0.2, linewidth=0
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("wave number, cycles a side")
    axes.grid()


def _draw_boxes(axes: "Axes", rows: Sequence[Row], key: str) -> None:
    shown = [row for row in rows if known(row, key)]
    boxes = [
        dict(
            zip(
                ("whislo", "q1", "med", "q3", "whishi"),
                (row[f"{key}_q{q}"] for q in QUANTILES),
                strict=True,
            )
        )
        for row in shown
    ]
    if not boxes:
        axes.set_axis_off()
        axes.text(0.0, 0.94, "not measured", transform=axes.transAxes, va="top")
        return
    drawn = axes.bxp(boxes, showfliers=False, patch_artist=True, widths=0.6)
    for row, box, middle in zip(shown, drawn["boxes"], drawn["medians"], strict=True):
        box.set(facecolor=_ROLE_COLOURS[row["role"]], alpha=0.75)
        middle.set(color="#ffffff", linewidth=2)
    axes.set_xticks([])
    axes.set_xlabel("median, half, nine tenths")
    axes.grid(axis="y")
