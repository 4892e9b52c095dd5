"""Mode interference: samples that the model's own domain captures while they are decoded."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ood_sampler.metrics.opinions import as_judged
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.annotate import add_legend, entitle, tick_values
from ood_sampler.report.columns import Column, Row
from ood_sampler.report.plots import LINES, MARKERS, panel_figure, styled
from ood_sampler.statistics.decision import decide, order, separation
from ood_sampler.statistics.intervals import interval
from ood_sampler.statistics.ranks import rank_correlation
from ood_sampler.statistics.resampling import Interval
from ood_sampler.store.node import Node
from ood_sampler.studies.base import (
    Measured,
    Study,
    by_each_judge,
    decoding,
    strategy_row,
    too_few,
)
from ood_sampler.studies.curves import by_domain, error_bars
from ood_sampler.studies.strips import draw_strips, first_samples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 6
"""Samples of each setting in the figure."""

_STRIPS = 3
"""Steps of which the figure shows samples."""

_LITTLE = 0.05
"""Difference of the captured share that counts as none."""


class InterferenceStudy(Study):
    r"""Captured fraction over the noise $\eta$ of decoding, at several inversion steps.

    (Zhu et al., 2023.) The run's solver must decode with $\eta > 0$.

    Args:
        steps: inversion steps, increasing.
        etas: values of $\eta$, increasing from 0.
    """

    name = "interference"
    title = "Mode interference: samples captured by the model's own domain"
    needs = ("captured",)
    headings = (
        Column("strategy", "strategy"),
        Column("step", "step t", digits=0),
        Column("eta", "η", digits=1),
        Column("images", "images", digits=0),
        Column(
            "captured",
            "captured",
            2,
            meaning="Share of samples nearer to the model's own domain than to the target.",
        ),
        Column("real_captured", "real pictures captured", 2, meaning="The same of few-shot ones."),
        Column("kid", "KID × 10³", 1, 1e3, meaning="To held-out pictures."),
        Column("precision", "precision", 2),
        Column("authenticity", "authenticity", 2),
        Column("near_copies", "near-copies", 2),
    )

    def __init__(self, *, steps: Sequence[int], etas: Sequence[float]) -> None:
        for name, values in (("steps", steps), ("etas", etas)):
            if not values or list(values) != sorted(set(values)):
                raise ValueError(f"study.{name} must increase, got {list(values)}")
        self._steps = list(steps)
        self.etas = list(etas)

    @property
    def steps(self) -> Sequence[int]:
        return self._steps

    def check(self, pipeline: Pipeline) -> None:
        for run in self._runs(pipeline):
            run.check()

    def targets(self, pipeline: Pipeline) -> list[Node]:
        return decoding(pipeline, self._runs(pipeline))

    def measure(self, pipeline: Pipeline) -> Measured:
        pipeline.session.obtain(pipeline.inversion)
        measure = pipeline.measure
        real = measure.row("few-shot", "reference", measure.few_shot).figures
        rows: list[Row] = []
        pictures: dict[str, Tensor] = {}
        for run in self._runs(pipeline):
            rows.append(strategy_row(run))
            name = f"{run.domain.name}/t = {run.settings.step}/η = {run.settings.eta:g}"
            pictures[name] = first_samples(run, _SHOWN)

        def captured(judge: str | None) -> list[dict[str, Any]]:
            return [{"real_captured": as_judged(real, judge)["captured"]}] * len(rows)

        return Measured(by_each_judge(rows, captured), pictures)

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        sentences = []
        for domain, own in by_domain(rows).items():
            still = [row for row in own if row["eta"] == own[0]["eta"]]
            low, high = (min(still, key=_step), max(still, key=_step))
            noisy = max(own, key=lambda row: (row["eta"], row["step"]))
            told = f"{domain}: at η = {own[0]['eta']:g} the captured share "
            if low is high:
                told += f"is {_share(low)} at t = {low['step']}"
            else:
                told += (
                    f"goes from {_share(low)} at t = {low['step']} to {_share(high)} at "
                    f"t = {high['step']}"
                )
            if noisy is not high:
                told += f"; at η = {noisy['eta']:g} and t = {noisy['step']} it is {_share(noisy)}"
            real = own[0]["real_captured"]
            sentences.append(f"{told} ({real:.2f} of real pictures of the domain).")
            for step in sorted({row["step"] for row in own}):
                sentences += _with_noise(domain, [row for row in own if row["step"] == step])
        return sentences

    @styled
    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        domains = by_domain(rows)
        columns = 1 + min(_STRIPS, len({row["step"] for row in rows}))
        figure, panels = panel_figure(
            width=3.5 * columns, height=3.4 * len(domains) + 0.6, rows=len(domains), columns=columns
        )
        legend: dict[str, Any] = {}
        for i, (domain, own) in enumerate(domains.items()):
            curve, *strips = panels[columns * i : columns * (i + 1)]
            steps = sorted({row["step"] for row in own})
            for k, step in enumerate(steps):
                line = [row for row in own if row["step"] == step]
                curve.errorbar(
                    [row["eta"] for row in line],
                    [row["captured"] for row in line],
                    yerr=error_bars(line, "captured"),
                    color=LINES[k % len(LINES)],
                    marker=MARKERS[k % len(MARKERS)],
                    capsize=3,
                    label=f"t = {step}",
                )
            real = own[0]["real_captured"]
            curve.axhline(real, color="#77808c", linestyle="--", label="real pictures")
            curve.set_ylim(-0.03, 1.03)
            entitle(curve, f"{domain}: captured share")
            tick_values(curve, [row["eta"] for row in own])
            curve.set_xlabel("noise of decoding η")
            curve.grid()
            handles, labels = curve.get_legend_handles_labels()
            legend |= dict(zip(labels, handles, strict=True))
            shown = steps if len(steps) <= len(strips) else [steps[0], steps[-2], steps[-1]]
            for axes in strips:
                axes.set_axis_off()
            for axes, step in zip(strips, shown, strict=False):
                prefix = f"{domain}/t = {step}/"
                strip = {k: x for k, x in pictures.items() if k.startswith(prefix)}
                draw_strips(axes, strip, title=f"t = {step}")
        add_legend(figure, list(legend.values()), list(legend), columns=5)
        return figure

    def _runs(self, pipeline: Pipeline) -> list[Pipeline]:
        return [
            pipeline.variant(step=step, eta=eta) for step, eta in product(self._steps, self.etas)
        ]


def _more(apart: Interval, row: Row) -> str:
    """How many samples would show an effect, or that there is little."""
    decisions = [decide(apart, **limits) for limits in ({"least": 0.0}, {"most": 0.0})]
    decisions.append(decide(apart, least=-_LITTLE, most=_LITTLE))
    factors = [each.factor for each in decisions if each.factor is not None]
    return too_few(min(factors, default=None), row)


def _step(row: Row) -> int:
    return int(row["step"])


def _share(row: Row) -> str:
    return f"{row['captured']:.2f} [{row['captured_low']:.2f}, {row['captured_high']:.2f}]"


def _with_noise(domain: str, line: Sequence[Row]) -> list[str]:
    """Whether the captured share rises with the noise at one step."""
    if len(line) < 3:
        return []
    first, last = line[0], line[-1]
    rho, _ = rank_correlation(
        torch.tensor([row["eta"] for row in line]), torch.tensor([row["captured"] for row in line])
    )
    # samples of the same latents are not independent
    apart = separation(interval(last, "captured"), interval(first, "captured"))
    found = order(apart, margin=_LITTLE)
    verdict = {
        "higher": "noise pulls samples to the model's own domain",
        "lower": "noise frees samples from the model's own domain",
        "alike": f"noise changes the captured share by less than {_LITTLE}",
        "unclear": f"no effect of noise beyond the intervals ({_more(apart, last)})",
    }[found]
    return [
        f"{domain}, t = {first['step']}: {verdict} ({_share(first)} at η = {first['eta']:g}, "
        f"{_share(last)} at η = {last['eta']:g}, rank correlation with η {rho:.2f})."
    ]
