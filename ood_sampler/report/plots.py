"""Plots of a run and of a sweep, drawn without pyplot: no display, no state between them."""

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from ood_sampler.report.annotate import add_legend, tick_values
from ood_sampler.report.tables import COLUMNS, Column, Results, Row, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"strategy": "#1a5fb4", "reference": "#77808c", "control": "#c4650c"}
"""A colour for each role of a row; they differ in lightness too."""

_SAMPLES, _HELD_OUT = COLOURS["strategy"], COLOURS["reference"]
LINES = ("#1a5fb4", "#2a8a57", "#9141ac", "#b3261e", "#0e8f9c", "#6b5b00", "#d0539b", "#1c2026")
MARKERS = "osD^vP*X"
_DASHES: Sequence[Any] = ("--", ":", "-.", (0, (8, 2)), (0, (6, 2, 1, 2, 1, 2)), (0, (1, 4)))
"""Of level lines, of which several have one colour."""
_INK = "#1c2026"
_GRID = "#dfe3e8"
_BINS = 30

_DWARFED = 20
"""Times as large, beside which a KID is not seen on a linear axis."""

_STYLE: dict[str, Any] = {
    "font.size": 10.5,
    "axes.edgecolor": "#9aa2ad",
    "axes.labelcolor": _INK,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "legend.frameon": False,
    "figure.facecolor": "white",
    # Names are data: a dollar sign in one is no formula.
    "text.parse_math": False,
    # Equal results give equal bytes.
    "svg.hashsalt": "ood_sampler",
}


_P = ParamSpec("_P")
_R = TypeVar("_R")


def styled(draw: Callable[_P, _R]) -> Callable[_P, _R]:
    """Draw in the style of this file, and leave matplotlib's own as it was."""

    @wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        # Takes seconds to import, which --help and errors need not wait for.
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawn


@styled
def svg(figure: "Figure") -> bytes:
    """Write a figure as SVG, text as outlines; equal figures give equal bytes."""
    data = io.BytesIO()
    figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None})
    return data.getvalue()


@styled
def bitmap(figure: "Figure", *, dots_per_inch: int = 144) -> bytes:
    """Write a figure as PNG."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return data.getvalue()


@styled
def kid_figure(rows: Sequence[Row]) -> "Figure | None":
    """Draw the KID of each row with its interval; none without figures."""
    shown = [row for row in rows if number(row.get("kid")) is not None]
    if not shown:
        return None
    figure, (axes,) = panel_figure(width=6.4, height=0.9 + 0.52 * len(shown))
    column = next(column for column in COLUMNS if column.key == "kid")
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


def scale_kid(axes: "Axes", direction: Literal["x", "y"], values: Sequence[float]) -> None:
    """Use a logarithmic axis for KID × 10³, linear around 0, where some would dwarf the others.

    Args:
        axes: where.
        direction: of the axis.
        values: KIDs that are shown, unscaled.
    """
    from matplotlib.ticker import SymmetricalLogLocator

    sizes = sorted(1e3 * abs(float(value)) for value in values)
    if not sizes or sizes[-1] <= _DWARFED * max(sizes[0], sizes[-1] / 1e3):
        return
    linear = 10.0 if sizes[-1] > 100 else 1.0
    getattr(axes, f"set_{direction}scale")("symlog", linthresh=linear)
    axis: Any = getattr(axes, f"{direction}axis")
    # numbers beside each other take more room than numbers above each other
    room = 20 if direction == "x" else 100
    subs = [1.0] if sizes[-1] > room * linear else [1.0, 2.0, 5.0]
    axis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=linear, subs=subs))
    axis.set_major_formatter("{x:g}")


@styled
def share_figure(rows: Sequence[Row], keys: Sequence[str]) -> "Figure | None":
    """Draw shares between 0 and 1 side by side as bars for each row; none without figures."""
    shown = [row for row in rows if any(number(row.get(key)) is not None for key in keys)]
    if not shown:
        return None
    figure, (axes,) = panel_figure(width=6.4, height=0.9 + 0.52 * len(shown))
    columns = {column.key: column for column in COLUMNS}
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
            below, above = _reach(columns[key], row)
            if below or above:
                axes.errorbar(
                    value, middle, xerr=[[below], [above]], color=_INK, linewidth=1, capsize=2
                )
            axes.text(value + above + 0.012, middle, f"{value:.2f}", va="center", fontsize=8.5)
    names = " (dark), ".join(columns[key].heading for key in keys) + (
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
    """Draw the distributions of samples and of held-out pictures; none without figures.

    Args:
        title: Above the plot.
        label: Below it: the quantity and its unit.
        values: By name; the second is drawn as an outline.
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
    axes.set_ylabel("share of pictures")
    axes.grid(axis="y")
    # Room for the legend above the bars.
    axes.margins(y=0.22)
    axes.legend(loc="upper left", ncols=len(finite))
    return figure


@styled
def curves(
    label: str, lines: Mapping[str, Sequence[tuple[float, Row]]], floors: Sequence[Row] = ()
) -> "Figure":
    """Draw how the figures of a sweep change with one number.

    Args:
        label: The number's name.
        lines: By name, points of the number and a row.
        floors: Rows that hold for the whole sweep, drawn as level lines.
    """
    keys = ("kid", "precision", "recall", "authenticity", "captured", "blend_pair")
    columns = [column for key in keys for column in COLUMNS if column.key == key]
    figure, panels = panel_figure(width=11, height=6.4, rows=2, columns=3)
    for column, axes in zip(columns, panels, strict=True):
        level_rows = [row for row in floors if number(row.get(column.key)) is not None]
        for k, row in enumerate(level_rows):
            axes.axhline(
                row[column.key] * column.scale,
                color=COLOURS[row["role"]],
                linestyle=_DASHES[k % len(_DASHES)],
                linewidth=1.4,
                label=str(row["name"]),
            )
        drawn = list(level_rows)
        for k, (name, points) in enumerate(lines.items()):
            kept = sorted(
                ((x, row) for x, row in points if number(row.get(column.key)) is not None),
                key=lambda point: point[0],
            )
            drawn += [row for _, row in kept]
            errors = [_reach(column, row) for _, row in kept]
            axes.errorbar(
                [x for x, _ in kept],
                [row[column.key] * column.scale for _, row in kept],
                yerr=list(zip(*errors, strict=True)) if any(map(any, errors)) else None,
                color=LINES[k % len(LINES)],
                marker=MARKERS[k % len(MARKERS)],
                markersize=5,
                capsize=3,
                label=name,
            )
        if column.key == "kid":
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


def _reach(column: Column, row: Row) -> tuple[float, float]:
    """How far the 95% interval of a figure, as shown, reaches below and above it."""
    value = number(row.get(column.key)) or 0
    low, high = (number(row.get(f"{column.key}_{end}")) for end in ("low", "high"))
    if low is None or high is None:
        error = 2 * (number(row.get(column.error)) or 0) if column.error else 0
        low, high = value - error, value + error
    return column.scale * max(value - low, 0), column.scale * max(high - value, 0)


def panel_figure(
    *,
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
    widths: Sequence[float] | None = None,
) -> "tuple[Figure, list[Axes]]":
    """Make a figure of so many inches with panels, row by row; columns are `widths` or equal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, width_ratios=widths)
    return figure, list(panels.flat)


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
        ("KID of each set against the held-out pictures.", kid_figure(rows)),
        (
            "Precision (realistic) and recall (complete) of each set.",
            share_figure(rows, ("precision", "recall")),
        ),
        (
            "Authenticity (about 0.5 for new pictures of the domain) and captured share (0 where "
            "none fell to the model's own domain).",
            share_figure(rows, ("authenticity", "captured")),
        ),
        (
            "Distance to the nearest few-shot picture: copies would pile up at 0, to the left of "
            "the held-out pictures.",
            histogram(
                "Nearest few-shot picture", "distance in feature space", pair("nearest_distance")
            ),
        ),
        (
            "How much of a picture its best two few-shot pictures explain: blends pile up to the "
            "right of the held-out pictures.",
            histogram("Blend of two", "explained variance R²", pair("blend_pair")),
        ),
        (
            "How well the inverted few-shot pictures are decoded again.",
            histogram("Reconstruction", "PSNR in dB", {"few-shot": spread.get("psnr") or ()}),
        ),
    ]
    return [(caption, figure) for caption, figure in drawn if figure is not None]
