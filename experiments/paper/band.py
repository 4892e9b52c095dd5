"""The band of usable steps against the domain gap: many domains, by each judge.

    python -m experiments.paper.band outputs/paper/embedded/bandwidth/dog32_* band.png

Takes folders of `experiment=bandwidth`, prints a table and the rank correlation for each judge, and
draws the share that stays in the target domain over the step.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.frontier.rows import JUDGES
from ood_sampler.metrics.opinions import as_judged
from ood_sampler.report.columns import Row
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.statistics.ranks import rank_correlation
from ood_sampler.studies.bandwidth import BandwidthStudy
from ood_sampler.studies.files import read_studies
from ood_sampler.studies.rows import by_domain

Curves = Mapping[str, Sequence[Row]]
"""Rows of each domain by increasing step, the domain of the largest gap first."""


def curves_of(rows: Sequence[Row], judge: str) -> Curves:
    """Rows of all domains, as one judge sees them.

    Raises:
        ValueError: they are of several strategies.
    """
    strategies = {row["strategy"] for row in rows}
    if len(strategies) > 1:
        raise ValueError(f"rows must be of one strategy, got {', '.join(sorted(strategies))}")
    judged = [as_judged(row, None if judge == JUDGES[0] else judge) for row in rows]
    domains = by_domain(judged)
    return {name: domains[name] for name in sorted(domains, key=lambda d: -domains[d][0]["gap"])}


def upper_end(curve: Sequence[Row]) -> float | None:
    """Where the band ends; None if no step is usable."""
    end: float | None = curve[0]["band_high"]
    return end


def table(curves: Curves) -> str:
    """A line a domain: gap, end of the band, and of each step the share that stays and KID."""
    steps = [row["step"] for row in next(iter(curves.values()))]
    heads = ["", "gap", "band ends at t =", *(f"t = {step}" for step in steps)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, curve in curves.items():
        end = upper_end(curve)
        cells = [f"{row['retention']:.2f}; {1e3 * row['kid']:.0f}" for row in curve]
        beyond = "at least " if curve[0]["open_high"] else ""
        ends = "no step is usable" if end is None else f"{beyond}{end:.0f}"
        gap = f"{1e3 * curve[0]['gap']:.0f}"
        lines.append(f"| {' | '.join([name, gap, ends, *cells])} |")
    return "\n".join(lines)


def correlation(curves: Curves) -> str:
    """The sentence of the study on width and gap."""
    first = next(iter(curves.values()))
    steps = [row["step"] for row in first]
    study = BandwidthStudy(
        steps=steps,
        samplers={"cog": CogSampler(references=3)},
        retention=0.9,
        novelty=0.5,
        near_copies=0.01,
    )
    said = study.conclude([row for curve in curves.values() for row in curve])
    return said[-1] if len(said) > len(curves) else "Too few domains for a rank correlation."


def crossed(gaps: Curves, bands: Curves) -> str:
    """Ends of the bands that one judge sees against the gaps that the other sees.

    A gap and a band by one judge share its features, and so its errors.
    """
    pairs = [(gaps[name][0]["gap"], upper_end(bands[name]) or 0) for name in gaps]
    rho, p = rank_correlation(*torch.tensor(pairs).T)
    return (
        f"Ends of the bands by {JUDGES[1]} against gaps by {JUDGES[0]}, over {len(pairs)} domains: "
        f"Spearman's rank correlation {rho:.2f} (permutation p = {p:.4f})."
    )


def panels(curves: Curves, judge: str, over_steps: Axes, over_gaps: Axes) -> None:
    """Draw one judge: retention over steps, and ends of bands over gaps."""
    colours = colormaps["viridis"].resampled(len(curves))
    for k, (name, curve) in enumerate(curves.items()):
        colour = colours(k)
        steps = [row["step"] for row in curve]
        stays = [row["retention"] for row in curve]
        over_steps.plot(steps, stays, marker="o", ms=3, color=colour, label=name)
        end = upper_end(curve) or 0
        over_gaps.plot(1e3 * curve[0]["gap"], end, marker="o", color=colour)
        over_gaps.annotate(name, (1e3 * curve[0]["gap"], end), fontsize=8, xytext=(4, 4),
                           textcoords="offset points")  # fmt: skip
    over_gaps.margins(x=0.12)
    over_steps.set(ylabel=f"share that stays, {judge}", ylim=(0, 1.03))
    over_gaps.set(ylabel="end of the band, t (0: none)", ylim=(-40, 960))
    for axes in (over_steps, over_gaps):
        axes.grid(alpha=0.3)
    over_steps.legend(fontsize=7, ncols=2, loc="lower left", title="by decreasing gap")


def draw(rows: Sequence[Row]) -> Figure:
    """A line of panels for each judge."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    lines = figure.subplots(len(JUDGES), 2, squeeze=False)
    for judge, (over_steps, over_gaps) in zip(JUDGES, lines, strict=True):
        panels(curves_of(rows, judge), judge, over_steps, over_gaps)
    lines[-1][0].set_xlabel("inversion step t")
    lines[-1][1].set_xlabel("domain gap: KID × 10³ to the model's own images")
    return figure


def main(write: Callable[[str], object] = sys.stdout.write) -> None:
    """Print and draw what some folders hold."""
    *folders, image = (Path(text) for text in sys.argv[1:])
    rows = read_studies("bandwidth", folders)[0].rows
    found = {judge: curves_of(rows, judge) for judge in JUDGES}
    for judge, curves in found.items():
        write(f"\n## {judge}\n\n{table(curves)}\n\n{correlation(curves)}\n")
    write(f"\n{crossed(*found.values())}\n")
    draw(rows).savefig(image, dpi=90)


if __name__ == "__main__":
    main()
