"""Figures of the metrics of a run and of a sweep."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ood_sampler.report.annotate import add_legend, tick_values
from ood_sampler.report.columns import Column, Row, number, stored_interval
from ood_sampler.report.plots import (
    COLOURS,
    INK,
    LINES,
    MARKERS,
    panel_figure,
    scale_kid,
    styled,
)
from ood_sampler.report.run_columns import BY_KEY
from ood_sampler.report.tables import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SAMPLES, _HELD_OUT = COLOURS["strategy"], COLOURS["reference"]
_BINS = 30
_CURVES = ("kid", "precision", "recall", "authenticity", "captured", "blend_pair")
_DASHES: Sequence[Any] = ("--", ":", "-.", (0, (8, 2)), (0, (6, 2, 1, 2, 1, 2)), (0, (1, 4)))
"""Dash patterns of level lines, several of which share a colour."""


@styled
def kid_figure(rows: Sequence[Row]) -> "Figure | None":
    """Draw the KID of each row with its interval; None if no row has one."""
    shown = [row for row in rows if number(row.get("kid")) is not None]
    if not shown:
        return None
    figure, (axes,) = panel_figure(width=6.4, height=0.9 + 0.52 * len(shown))
    column = BY_KEY["kid"]
    for y, row in enumerate(shown):
        axes.errorbar(
            row["kid"] * column.scale,
            y,
            xerr=[[reach] for reach in _reach(column, row)],
            fmt="o",
            color=COLOURS[row["role"]],
            markersize=7,
            capsize=4,
            linewidth=2,
        )
    scale_kid(axes, "x", [row["kid"] for row in shown])
    axes.set_title("KID × 10³ with 95% interval (lower is better)")
    _name_rows(axes, shown)
    axes.grid(axis="x")
    return figure


@styled
def share_figure(rows: Sequence[Row], keys: Sequence[str]) -> "Figure | None":
    """Draw shares between 0 and 1 as bars side by side per row; None if no row has any."""
    shown = [row for row in rows if any(number(row.get(key)) is not None for key in keys)]
    if not shown:
        return None
    figure, (axes,) = panel_figure(width=6.4, height=0.9 + 0.52 * len(shown))
    thickness = 0.76 / len(keys)
    for k, key in enumerate(keys):
        for y, row in enumerate(shown):
            value = number(row.get(key))
            if value is None:
                continue
            middle = y + (k - (len(keys) - 1) / 2) * thickness
            axes.barh(
                middle,
                value,
                height=0.9 * thickness,
                color=COLOURS[row["role"]],
                alpha=1 if k == 0 else 0.5,
            )
            below, above = _reach(BY_KEY[key], row)
            if below or above:
                axes.errorbar(
                    value, middle, xerr=[[below], [above]], color=INK, linewidth=1, capsize=2
                )
            axes.text(value + above + 0.012, middle, f"{value:.2f}", va="center", fontsize=8.5)
    names = " (dark), ".join(BY_KEY[key].heading for key in keys) + (
        " (light)" if len(keys) > 1 else ""
    )
    axes.set_title(names[0].upper() + names[1:])
    axes.set_xlim(0, 1.12)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    _name_rows(axes, shown)
    axes.grid(axis="x")
    return figure


@styled
def histogram(title: str, label: str, values: Mapping[str, Sequence[float]]) -> "Figure | None":
    """Draw the distributions of samples and of held-out images; None without values.

    Args:
        title: above the plot.
        label: below it: the quantity and its unit.
        values: by name; the second is drawn as an outline.
    """
    finite = {
        name: kept
        for name, numbers in values.items()
        if (kept := [v for x in numbers if (v := number(x)) is not None])
    }
    if not finite:
        return None
    figure, (axes,) = panel_figure(width=6.4, height=3.5)
    low = min(min(numbers) for numbers in finite.values())
    high = max(max(numbers) for numbers in finite.values())
    spread = high - low or 1.0
    for (name, numbers), colour, filled in zip(
        finite.items(), (_SAMPLES, _HELD_OUT), (True, False), strict=False
    ):
        median = sorted(numbers)[len(numbers) // 2]
        axes.hist(
            numbers,
            bins=_BINS,
            range=(low, low + spread),
            weights=[1 / len(numbers)] * len(numbers),
            histtype="stepfilled" if filled else "step",
            color=colour,
            alpha=0.55 if filled else 1,
            linewidth=2,
            label=f"{name} (median {median:.3g})",
        )
        axes.axvline(median, ymax=0.84, color=colour, linewidth=1.6, linestyle="--")
    axes.set_title(title)
    axes.set_xlabel(label)
    axes.set_ylabel("share of images")
    axes.grid(axis="y")
    # Room for the legend above the bars.
    axes.margins(y=0.22)
    axes.legend(loc="upper left", ncols=len(finite))
    return figure


@styled
def curves(
    label: str, lines: Mapping[str, Sequence[tuple[float, Row]]], floors: Sequence[Row] = ()
) -> "Figure":
    """Draw how the metrics of a sweep change with one number.

    Args:
        label: name of the number.
        lines: by name, points of the number and a row.
        floors: rows that hold for the whole sweep, drawn as level lines.
    """
    figure, panels = panel_figure(width=11, height=6.4, rows=2, columns=3)
    for key, axes in zip(_CURVES, panels, strict=True):
        column = BY_KEY[key]
        level_rows = [row for row in floors if number(row.get(key)) is not None]
        for k, row in enumerate(level_rows):
            axes.axhline(
                row[key] * column.scale,
                color=COLOURS[row["role"]],
                linestyle=_DASHES[k % len(_DASHES)],
                linewidth=1.4,
                label=str(row["name"]),
            )
        drawn = list(level_rows)
        for k, (name, points) in enumerate(lines.items()):
            kept = [(x, row) for x, row in points if number(row.get(key)) is not None]
            drawn += [row for _, row in kept]
            style = {"color": LINES[k % len(LINES)], "marker": MARKERS[k % len(MARKERS)]}
            _draw_curve(axes, column, kept, label=name, **style)
        if key == "kid":
            if drawn:
                scale_kid(axes, "y", [row["kid"] for row in drawn])
        else:
            axes.set_ylim(-0.03, 1.03)
        axes.set_title(column.title)
        tick_values(axes, [x for points in lines.values() for x, _ in points])
        axes.set_xlabel(label)
        axes.grid()
    handles, labels = panels[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    if len(unique) > 1:
        add_legend(figure, list(unique.values()), list(unique), columns=4)
    return figure


def _draw_curve(
    axes: "Axes",
    column: Column,
    points: Sequence[tuple[float, Row]],
    **style: Any,  # noqa: ANN401 matplotlib's own
) -> None:
    """Draw a metric over a number, with its intervals."""
    ordered = sorted(points, key=lambda point: point[0])
    errors = [_reach(column, row) for _, row in ordered]
    axes.errorbar(
        [x for x, _ in ordered],
        [row[column.key] * column.scale for _, row in ordered],
        yerr=list(zip(*errors, strict=True)) if any(map(any, errors)) else None,
        markersize=5,
        capsize=3,
        **style,
    )


def _reach(column: Column, row: Row) -> tuple[float, float]:
    """How far the 95% interval of a metric, as shown, reaches below and above it."""
    value = number(row.get(column.key)) or 0
    error = 2 * (number(row.get(column.error)) or 0) if column.error else 0
    found = stored_interval(row, column.key)
    _, low, high = found or (value, value - error, value + error)
    return column.scale * max(value - low, 0), column.scale * max(high - value, 0)


def _name_rows(axes: "Axes", rows: Sequence[Row]) -> None:
    names = [textwrap.fill(str(row["name"]), 22) for row in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def run_figures(results: Results) -> "list[tuple[str, Figure]]":
    """Draw all plots of a run, each with a sentence that says what it shows."""
    rows = results["rows"]
    spread = results.get("distributions", {})

    def pair(key: str) -> dict[str, Sequence[float]]:
        values = spread.get(key) or {}
        return {
            "samples": values.get("samples") or (),
            "held-out": values.get("held_out") or (),
        }

    drawn = [
        ("KID of each set against the held-out images.", kid_figure(rows)),
        (
            "Precision (realistic) and recall (complete) of each set.",
            share_figure(rows, ("precision", "recall")),
        ),
        (
            "Authenticity (about 0.5 for new images of the domain) and captured share (0 where "
            "none fell to the model's own domain).",
            share_figure(rows, ("authenticity", "captured")),
        ),
        (
            "Distance to the nearest few-shot image: copies would pile up at 0, to the left of "
            "the held-out images.",
            histogram(
                "Nearest few-shot image", "distance in feature space", pair("nearest_distance")
            ),
        ),
        (
            "How much of an image its best two few-shot images explain: blends pile up to the "
            "right of the held-out images.",
            histogram("Blend of two", "explained variance R²", pair("blend_pair")),
        ),
        (
            "How well the inverted few-shot images are decoded again.",
            histogram("Reconstruction", "PSNR in dB", {"few-shot": spread.get("psnr") or ()}),
        ),
    ]
    return [(caption, figure) for caption, figure in drawn if figure is not None]
