"""How well are pictures inverted and decoded again?"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ood_sampler.pipeline.pipeline import Pipeline, compare
from ood_sampler.report.annotate import add_legend, tick_values
from ood_sampler.report.columns import Column, Row
from ood_sampler.report.grid import gather
from ood_sampler.report.plots import LINES, MARKERS, panel_figure, styled
from ood_sampler.statistics.decision import decide, order, separation
from ood_sampler.statistics.intervals import interval
from ood_sampler.statistics.resampling import bootstrap
from ood_sampler.store.node import Node
from ood_sampler.studies.base import (
    Measured,
    Study,
    about,
    bounds,
    too_few,
)
from ood_sampler.studies.curves import beside, by_domain, draw_curve
from ood_sampler.studies.in_domain import (
    FEW_SHOT,
    IN_DOMAIN,
    SAMPLES,
    Sources,
    inversions,
    reconstructions,
)
from ood_sampler.studies.strips import draw_strips

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN = 10
"""Pictures of a row of the figure."""

_ORIGINALS = "pictures"

_AS_WELL = 1.0
"""Decibels that two sets may differ by to be reconstructed alike."""


class ReconstructionStudy(Study):
    """Compare pictures with what is decoded of their latents, for one solver.

    Pictures of both sets are the same for all solvers, also where samples of the model stand for
    its domain (`Sources`).

    Args:
        steps: inversion steps.
        count: pictures of each set, at most.
        in_domain_root: pictures of the model's own domain; None takes samples of the model.
    """

    name = "reconstruction"
    title = "Reconstruction: pictures inverted and decoded again"
    headings = (
        Column("set", "set"),
        Column("in_domain", "in-domain set", meaning="Samples of the model come back easily."),
        Column("solver", "solver"),
        Column("step", "step t", 0),
        Column("evaluations_in", "NFE in", 0, meaning="Network evaluations of the inversion."),
        Column("evaluations_out", "NFE out", 0, meaning="Network evaluations of the decoding."),
        Column("images", "images", 0),
        Column("mse", "MSE", meaning="Of images in [-1, 1]."),
        Column("psnr", "PSNR, dB", 2),
        Column("ssim", "SSIM", 4),
    )

    def __init__(self, *, steps: Sequence[int], count: int, in_domain_root: str | None) -> None:
        self.sources = Sources(list(steps), count, in_domain_root)

    def check(self, pipeline: Pipeline) -> None:
        super().check(pipeline)
        self.sources.check(pipeline, least=2)

    def targets(self, pipeline: Pipeline) -> list[Node]:
        return [
            *inversions(self.sources, pipeline),
            *reconstructions(self.sources, pipeline),
        ]

    def measure(self, pipeline: Pipeline) -> Measured:
        rows: list[Row] = []
        pictures: dict[str, Tensor] = {}
        few_shot = self.sources.few_shot(pipeline)
        for name, run in ((FEW_SHOT, few_shot), (IN_DOMAIN, self.sources.in_domain(pipeline))):
            run.latents()
            for step in sorted(set(self.sources.steps)):
                at = run.variant(step=step)
                originals, decoded = at.reconstructed()
                scores = compare(originals, decoded)
                rows.append(
                    {
                        **about(pipeline),
                        "set": name,
                        "in_domain": self.sources.kind,
                        "solver": run.codec.label,
                        "step": step,
                        "evaluations_in": run.codec.encoding_evaluations([step]),
                        "evaluations_out": run.codec.decoding_evaluations(step),
                        "images": len(originals),
                        **{
                            key: value
                            for score, values in scores.items()
                            for key, value in bounds(
                                score, bootstrap(torch.mean, torch.tensor(values).double())
                            ).items()
                        },
                    }
                )
                if name == FEW_SHOT and step == max(self.sources.steps):
                    shown = range(min(_SHOWN, len(originals)))
                    domain = pipeline.domain.name
                    pictures[f"{domain}/{_ORIGINALS}"] = gather(originals, shown)
                    name_of = f"{run.codec.label}: t = {step}"
                    pictures[f"{domain}/{name_of}"] = gather(decoded, shown)
        return Measured(rows, pictures)

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        sentences = []
        for domain, own in by_domain(rows).items():
            for solver in dict.fromkeys(row["solver"] for row in own):
                at = [row for row in own if row["solver"] == solver]
                last = max(row["step"] for row in at)
                by_set = {row["set"]: row for row in at if row["step"] == last}
                said = "; ".join(f"{name} {_score(row)}" for name, row in by_set.items())
                sentences.append(
                    f"{domain}, {solver}: at t = {last} with {_evaluations(at, last)}: {said}."
                )
                if len(by_set) == 2:
                    outside, inside = by_set[FEW_SHOT], by_set[IN_DOMAIN]
                    sentences.append(f"{domain}, {solver}: {_gap(outside, inside)}.")
        if any(row["in_domain"] == SAMPLES for row in rows):
            sentences.append(
                "The in-domain set is made of the model's own samples, the same for all solvers: "
                "they lie on its trajectories and come back better than real pictures of its "
                "domain would."
            )
        return sentences

    @styled
    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        domains = by_domain(rows)
        strips = {domain: found for domain in domains if (found := _strips(pictures, domain))}
        lines = -(-len(strips) // 2)
        # of pictures and of their reconstructions by each solver
        height = 0.6 + 0.4 * max(map(len, strips.values()), default=0)
        figure, panels = panel_figure(width=11.5, height=4, rows=1 + lines, columns=2)
        grid = panels[0].get_gridspec()
        if grid is not None:
            grid.set_height_ratios([3.6] + [height] * lines)
        for axes, key, title in (
            (panels[0], "psnr", "PSNR in dB (higher is better)"),
            (panels[1], "ssim", "SSIM (1: equal)"),
        ):
            _draw_panel(axes, domains, key)
            axes.set_title(title)
            axes.set_xlabel("inversion step t")
            tick_values(axes, [row["step"] for row in rows])
            axes.grid()
        if grid is not None and len(strips) % 2:
            # the last one has the line for itself
            figure.delaxes(panels.pop())
            panels[-1].set_subplotspec(grid[-1, :])
        for axes, (domain, strip) in zip(panels[2:], strips.items(), strict=True):
            draw_strips(axes, strip, title=domain)
        figure.set_figheight(4.2 + height * lines)
        # a sweep of solvers has a legend longer than the panels
        add_legend(figure, *panels[0].get_legend_handles_labels(), columns=2)
        return figure


def _draw_panel(axes: "Axes", domains: Mapping[str, Sequence[Row]], key: str) -> None:
    solvers = list(dict.fromkeys(row["solver"] for own in domains.values() for row in own))
    markers = {solver: MARKERS[n % len(MARKERS)] for n, solver in enumerate(solvers)}
    few_shot = [
        (k, name, curve)
        for k, own in enumerate(domains.values())
        for name, curve in _curves(own, FEW_SHOT, "domain").items()
    ]
    # one model's are the same for all domains
    of_models: dict[tuple[str, str], list[Row]] = {}
    for own in domains.values():
        of_models = _curves(own, IN_DOMAIN, "model") | of_models
    count = len(few_shot) + len(of_models)
    for j, (k, (domain, solver), curve) in enumerate(few_shot):
        draw_curve(
            axes,
            curve,
            key,
            aside=beside(j, count),
            color=LINES[k % len(LINES)],
            marker=markers[solver],
            label=f"{domain}, {solver}",
        )
    models = sorted({model for model, _ in of_models})
    for j, ((model, solver), curve) in enumerate(sorted(of_models.items()), len(few_shot)):
        draw_curve(
            axes,
            curve,
            key,
            aside=beside(j, count),
            color="#77808c",
            marker=markers[solver],
            linestyle=("--", ":", "-.")[models.index(model) % 3],
            label=f"{model}'s own domain, {solver}",
        )


def _strips(pictures: Mapping[str, Tensor], domain: str) -> dict[str, Tensor]:
    """Those of a domain, the originals on top, by names that leave room beside them."""
    prefix = f"{domain}/"
    own = {k.removeprefix(prefix): x for k, x in pictures.items() if k.startswith(prefix)}
    ordered = sorted(own, key=lambda name: name != _ORIGINALS)
    return {textwrap.fill(name, 26): own[name] for name in ordered}


def _curves(rows: Sequence[Row], name: str, key: str) -> dict[tuple[str, str], list[Row]]:
    """Rows of a set in the order of their steps, by a figure and the solver."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: int(row["step"])):
        if row["set"] == name:
            found.setdefault((row[key], row["solver"]), []).append(row)
    return found


def _evaluations(rows: Sequence[Row], step: int) -> str:
    row = next(row for row in rows if row["step"] == step)
    return f"{row['evaluations_in']} evaluations in and {row['evaluations_out']} out"


def _score(row: Row) -> str:
    return (
        f"{row['psnr']:.1f} dB [{row['psnr_low']:.1f}, {row['psnr_high']:.1f}], "
        f"SSIM {row['ssim']:.3f}"
    )


def _gap(outside: Row, inside: Row) -> str:
    difference = f"{abs(outside['psnr'] - inside['psnr']):.1f} dB"
    apart = separation(interval(outside, "psnr"), interval(inside, "psnr"))
    found = order(apart, margin=_AS_WELL)
    if found == "alike":
        return (
            f"the target domain is reconstructed as well as the model's own, to within "
            f"{_AS_WELL:g} dB"
        )
    if found == "unclear":
        factor = decide(apart, least=-_AS_WELL, most=_AS_WELL).factor
        said = too_few(factor, outside, name="pictures of each set", setting="study.count")
        return f"whether the target domain is reconstructed better, {said}"
    better = "better" if found == "higher" else "worse"
    return f"the target domain is reconstructed {better} than the model's own, by {difference}"
