"""Figures of rows over the inversion step, and which rows belong together."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ood_sampler.report.columns import Row, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Run = Mapping[str, Row]
"""Rows of one run, by the figure that tells them apart."""


def by_domain(rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    """Rows of each domain, in the order in which the domains come."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["domain"], []).append(row)
    return found


def by_run(
    rows: Sequence[Row], key: str, settings: Callable[[Run], Mapping[str, object]]
) -> Mapping[str, Run]:
    """Rows of each run, by its domain and, where a sweep has several, what they differ in.

    Args:
        rows: of one run after the other.
        key: of a figure that no two rows of a run share.
        settings: of a run, by name.
    """
    runs: dict[str, list[dict[str, Row]]] = {}
    about = None
    for row in rows:
        own = runs.setdefault(row["domain"], [])
        if not own or row[key] in own[-1] or about != (row.get("model"), row["domain"]):
            own.append({})
        about = row.get("model"), row["domain"]
        own[-1][row[key]] = row
    return {
        name: run
        for domain, own in runs.items()
        for name, run in zip(_names(domain, own, settings), own, strict=True)
    }


def _names(
    domain: str, runs: Sequence[Run], settings: Callable[[Run], Mapping[str, object]]
) -> list[str]:
    if len(runs) == 1:
        return [domain]
    found = [settings(run) for run in runs]
    keys = [key for key in found[0] if any(each[key] != found[0][key] for each in found)]
    names = [", ".join([domain, *(f"{key} {each[key]}" for key in keys)]) for each in found]
    if len(set(names)) == len(names):
        return names
    return [f"{name}, run {k}" for k, name in enumerate(names, 1)]


def error_bars(rows: Sequence[Row], key: str, *, scale: float = 1.0) -> list[list[float]]:
    """Lengths of the bars below and above a figure of each row, from its interval."""
    return [
        [max(0.0, scale * (row[key] - row[f"{key}_low"])) for row in rows],
        [max(0.0, scale * (row[f"{key}_high"] - row[key])) for row in rows],
    ]


def draw_curve(
    axes: "Axes",
    rows: Sequence[Row],
    key: str,
    *,
    aside: float = 0.0,
    **style: Any,  # noqa: ANN401 matplotlib's own
) -> None:
    """Draw a figure over the step, with its interval where it has one.

    Args:
        axes: where to.
        rows: in the order of their steps; those without the figure are left out.
        key: the figure.
        aside: steps by which a curve of one step alone stands beside it, as others may too.
        style: of the line.
    """
    shown = [row for row in rows if number(row.get(key)) is not None]
    if not shown:
        return
    bars = None
    if all(number(row.get(f"{key}_{end}")) is not None for row in shown for end in ("low", "high")):
        bars = error_bars(shown, key)
    style = {"markersize": 4.5, "capsize": 2.5, "linewidth": 1.6, **style}
    across = [row["step"] + (aside if len(shown) == 1 else 0) for row in shown]
    axes.errorbar(across, [row[key] for row in shown], yerr=bars, **style)


def beside(k: int, count: int) -> float:
    """Where the figure of one of several curves stands, within half a step of the only one."""
    return (k + 0.5) / count - 0.5


def draw_level(axes: "Axes", value: float, *, label: str | None = None) -> None:
    """Draw a level line that others are compared with."""
    axes.axhline(value, color="#1c2026", linestyle=":", linewidth=1.4, label=label)


def draw_decades(axes: "Axes") -> None:
    """Make the vertical axis logarithmic, with plain numbers wherever there is room for them."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
