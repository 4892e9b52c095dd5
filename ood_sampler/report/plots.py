"""What all figures share, drawn without pyplot: no display, no state between them."""

import io
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"strategy": "#1a5fb4", "reference": "#77808c", "control": "#c4650c"}
"""Colours by the role of a row; they differ in lightness too."""

LINES = ("#1a5fb4", "#2a8a57", "#9141ac", "#b3261e", "#0e8f9c", "#6b5b00", "#d0539b", "#1c2026")
MARKERS = "osD^vP*X"
INK = "#1c2026"
_GRID = "#dfe3e8"

_DWARFED = 20
"""Ratio above which a linear axis hides the smaller KID."""

_STYLE: dict[str, Any] = {
    "font.size": 10.5,
    "axes.edgecolor": "#9aa2ad",
    "axes.labelcolor": INK,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
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
    """Draw in the style of this file, and restore matplotlib's own."""

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


def scale_kid(axes: "Axes", direction: Literal["x", "y"], values: Sequence[float]) -> None:
    """Use a logarithmic axis for KID × 10³, linear around 0, if some would dwarf others.

    Args:
        axes: where to.
        direction: of the axis.
        values: KIDs shown, unscaled.
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


def panel_figure(
    *,
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
    widths: Sequence[float] | None = None,
) -> "tuple[Figure, list[Axes]]":
    """Make a figure with panels, row by row; sizes in inches, columns of `widths` or equal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, width_ratios=widths)
    return figure, list(panels.flat)
