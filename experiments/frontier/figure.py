"""KID against authenticity on every domain: the frozen model, pixels, models without a network.

python -m experiments.frontier.figure experiments/frontier/rows.csv frontier.png [features32]
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.frontier.goals import Domain, read, trade
from experiments.frontier.rows import JUDGES
from ood_sampler.statistics.frontier import pareto

GROUPS = {
    "pixels mixed": ("pixels", "tab:orange", "s"),
    "models without a network": ("without_network", "tab:green", "^"),
    "frozen model": ("plain", "tab:blue", "o"),
    "frozen model, corrected flow": ("corrected", "tab:purple", "D"),
}
"""Colour and marker of each kind of setting."""


def rows_of(domain: Domain, kind: str) -> Mapping[str, Mapping[str, Any]]:
    """Usable settings of one kind."""
    if kind in ("plain", "corrected"):
        return {k: r for k, r in domain.of(f"base/{kind}/").items() if domain.is_usable(r)}
    rows: Mapping[str, Mapping[str, Any]] = getattr(domain, kind)
    return {k: r for k, r in rows.items() if domain.is_usable(r)}


def panel(axes: Axes, domain: Domain) -> None:
    """Draw one domain."""
    for name, (kind, colour, marker) in GROUPS.items():
        rows = list(rows_of(domain, kind).values())
        if not rows:
            continue
        axes.errorbar(
            [row["authenticity"] for row in rows],
            [1e3 * row["kid"] for row in rows],
            yerr=[1e3 * row["kid_standard_error"] for row in rows],
            fmt=marker, color=colour, ms=4, lw=0.8, alpha=0.8, label=name,
        )  # fmt: skip
        edge = pareto([trade(row) for row in rows])
        axes.plot([t.gain for t in edge], [1e3 * t.cost for t in edge], color=colour, lw=1)
    real = domain.rows["real"]
    axes.axvline(real["authenticity"], color="0.6", lw=0.8, ls=":")
    axes.set_title(domain.name, fontsize=10)
    axes.set_yscale("log")
    axes.set_ylim(60, 4000)
    axes.set_xlim(0, 1.02)
    axes.grid(alpha=0.3)


def draw(domains: list[Domain], judge: str) -> Figure:
    """One panel a domain."""
    figure = Figure(figsize=(11, 3 * -(-len(domains) // 3) + 0.6), layout="constrained")
    axes = figure.subplots(-(-len(domains) // 3), 3, squeeze=False)
    for place, domain in zip(axes.flat, domains, strict=False):
        panel(place, domain)
    for place in list(axes.flat)[len(domains) :]:
        place.set_axis_off()
    for row in axes:
        row[0].set_ylabel(f"KID × 10³, {judge}")
    for place in axes[-1]:
        place.set_xlabel("authenticity (dotted: real images)")
    found: dict[str, Any] = {}
    for place in axes.flat:
        handles, labels = place.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.legend(
        found.values(), found.keys(), loc="outside lower center", ncols=4, fontsize=9, frameon=False
    )
    return figure


def main() -> None:
    """Draw the rows of a folder or a file."""
    judge = sys.argv[3] if len(sys.argv) > 3 else JUDGES[0]
    draw(read(Path(sys.argv[1]), 200)[judge], judge).savefig(sys.argv[2], dpi=90)


if __name__ == "__main__":
    main()
