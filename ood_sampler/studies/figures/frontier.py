"""Settings of the latents beyond the frontiers of the pixel controls, three planes per domain."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from ood_sampler.report.annotate import Label, entitle, place_labels
from ood_sampler.report.columns import Row
from ood_sampler.report.plots import COLOURS, scale_kid, styled
from ood_sampler.statistics.frontier import pareto
from ood_sampler.studies.figures.curves import error_bars, legend_of, lines_figure, look
from ood_sampler.studies.frontier import LATENTS, PIXELS, PLANES, REAL, SCALES, Plane
from ood_sampler.studies.rows import by_column, by_domain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABELS = {
    "kid": "KID × 10³, lower is better",
    "authenticity": "authenticity, higher is newer",
    "precision": "precision, higher is more realistic",
    "blend_five": "blend of five, lower is newer",
}


@styled
def draw(rows: Sequence[Row]) -> "Figure":
    """Draw a line of panels for each domain."""
    domains = by_domain(rows)
    figure, lines = lines_figure(domains, width=15, height=3.8 * len(domains) + 0.8, columns=3)
    strategies = list(by_column([row for row in rows if row["space"] == LATENTS], "strategy"))
    labels: list[tuple[Axes, Sequence[Label]]] = []
    for domain, own, line in lines:
        for axes, plane in zip(line, PLANES, strict=True):
            labels.append((axes, _scatter(axes, own, strategies, plane)))
            entitle(axes, f"{domain}: {_LABELS[plane.cost]}")
            axes.set_xlabel(_LABELS[plane.gain])
    legend_of(figure, lines[0][2][:1], columns=4)
    place_labels(figure, labels)
    return figure


def _scatter(
    axes: "Axes", rows: Sequence[Row], strategies: Sequence[str], plane: Plane
) -> list[Label]:
    """Draw all settings, and give their points, labelled those of the latents."""
    across, up = (SCALES.get(key, 1.0) for key in (plane.gain, plane.cost))
    spaces = {space: [row for row in rows if row["space"] == space] for space in (REAL, PIXELS)}
    line = pareto([plane.trade(row) for row in spaces[PIXELS]])
    axes.plot(
        [across * plane.better * point.gain for point in line],
        [up * point.cost for point in line],
        color=COLOURS["control"],
        linewidth=2,
        label="frontier of pixel controls",
    )
    control, reference = (COLOURS[role] for role in ("control", "reference"))
    shown: list[tuple[str, dict[str, Any], list[Row]]] = [
        ("pixel controls", {"color": control, "marker": "x"}, spaces[PIXELS])
    ]
    for k, strategy in enumerate(strategies):
        own = [r for r in rows if r["space"] == LATENTS and r["strategy"] == strategy]
        shown.append((f"{strategy}, latents at step t", look(k), own))
    shown.append(("real images", {"color": reference, "marker": "*"}, spaces[REAL]))
    labels = []
    for name, style, points in shown:
        axes.errorbar(
            [across * row[plane.gain] for row in points],
            [up * row[plane.cost] for row in points],
            yerr=error_bars(points, plane.cost, scale=up),
            linestyle="",
            markersize=6,
            capsize=2,
            elinewidth=0.8,
            label=name,
            **style,
        )
        for row in points:
            place = across * row[plane.gain], up * row[plane.cost]
            labels.append(Label(_setting(row), *place, style["color"]))
    directions: tuple[tuple[Literal["x", "y"], str], ...] = (("x", plane.gain), ("y", plane.cost))
    for direction, key in directions:
        if key == "kid":
            scale_kid(axes, direction, [row["kid"] for row in rows])
    axes.grid()
    return labels


def _setting(row: Row) -> str:
    """Step and noise of latents; other points have no name."""
    if row["space"] != LATENTS:
        return ""
    return f"{row['step']}" + (f", η = {row['eta']:g}" if row["eta"] else "")
