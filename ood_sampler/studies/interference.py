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

    (Zhu et al., 2023.) The run's solver must decode with $\eta > 0$. A run along the corrected flow
    is shown beside that along the flow of the model.

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
        Column("correction", "correction w", digits=1, meaning="Weight; 0: the model's flow."),
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
        inversions = [flow.inversion for flow in _flows(pipeline)]
        return [*inversions, *decoding(pipeline, self._runs(pipeline))]

    def measure(self, pipeline: Pipeline) -> Measured:
        for flow in _flows(pipeline):
            pipeline.session.obtain(flow.inversion)
        measure = pipeline.measure
        real = measure.row("few-shot", "reference", measure.few_shot).figures
        rows: list[Row] = []
        pictures: dict[str, Tensor] = {}
        for run in self._runs(pipeline):
            row = {**strategy_row(run), "correction": run.correction_weight}
            rows.append(row)
            name = f"{run.domain.name}/t = {run.settings.step}/η = {run.settings.eta:g}"
            pictures[name + _flow(row)] = first_samples(run, _SHOWN)

        def captured(judge: str | None) -> list[dict[str, Any]]:
            return [{"real_captured": as_judged(real, judge)["captured"]}] * len(rows)

        return Measured(by_each_judge(rows, captured), pictures)

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        sentences = []
        for domain, every in by_domain(rows).items():
            flows = _by_flow(every)
            for flow, own in flows.items():
                sentences += _of_flow(domain + flow, own)
            plain, *others = flows.values()
            for corrected in others:
                sentences += _compared(domain, plain, corrected)
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
            for (flow, rows_of_flow), k in product(_by_flow(own).items(), range(len(steps))):
                line = [row for row in rows_of_flow if row["step"] == steps[k]]
                if not line:
                    continue
                curve.errorbar(
                    [row["eta"] for row in line],
                    [row["captured"] for row in line],
                    yerr=error_bars(line, "captured"),
                    color=LINES[k % len(LINES)],
                    marker=MARKERS[k % len(MARKERS)],
                    linestyle="--" if flow else "-",
                    markerfacecolor="none" if flow else None,
                    capsize=3,
                    label=f"t = {steps[k]}{flow}",
                )
            real = own[0]["real_captured"]
            curve.axhline(real, color="#77808c", linestyle="--", label="real pictures")
            curve.set_ylim(-0.03, 1.03)
            entitle(curve, f"{domain}: captured share")
            tick_values(curve, [row["eta"] for row in own])
            weights = "; w: weight of the correction" if len(_by_flow(own)) > 1 else ""
            curve.set_xlabel(f"noise of decoding η{weights}")
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
            flow.variant(step=step, eta=eta)
            for flow, step, eta in product(_flows(pipeline), self._steps, self.etas)
        ]


def _flows(pipeline: Pipeline) -> list[Pipeline]:
    """The run along the flow of the model and, if there is one, along the corrected one."""
    return [pipeline.plain, pipeline] if pipeline.is_corrected else [pipeline]


def _flow(row: Row) -> str:
    """What tells a row along the corrected flow from the others."""
    weight = row.get("correction", 0)
    return f", w = {weight:g}" if weight else ""


def _by_flow(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(_flow(row), []).append(row)
    return found


def _of_flow(name: str, own: Sequence[Row]) -> list[str]:
    """What the captured share is along one flow, over step and noise."""
    still = [row for row in own if row["eta"] == own[0]["eta"]]
    low, high = (min(still, key=_step), max(still, key=_step))
    noisy = max(own, key=lambda row: (row["eta"], row["step"]))
    told = f"{name}: at η = {own[0]['eta']:g} the captured share "
    if low is high:
        told += f"is {_share(low)} at t = {low['step']}"
    else:
        told += (
            f"goes from {_share(low)} at t = {low['step']} to {_share(high)} at t = {high['step']}"
        )
    if noisy is not high:
        told += f"; at η = {noisy['eta']:g} and t = {noisy['step']} it is {_share(noisy)}"
    real = own[0]["real_captured"]
    sentences = [f"{told} ({real:.2f} of real pictures of the domain)."]
    for step in sorted({row["step"] for row in own}):
        sentences += _with_noise(name, [row for row in own if row["step"] == step])
    return sentences


def _compared(domain: str, plain: Sequence[Row], corrected: Sequence[Row]) -> list[str]:
    """What the correction changes at the setting that loses most samples without it."""
    found = {(row["step"], row["eta"]): row for row in corrected}
    both = [row for row in plain if (row["step"], row["eta"]) in found]
    if not both:
        return []
    worst = max(both, key=lambda row: float(row["captured"]))
    other = found[worst["step"], worst["eta"]]
    apart = separation(interval(other, "captured"), interval(worst, "captured"))
    verdict = {
        "higher": "the correction has more samples captured",
        "lower": "the correction frees samples from the model's own domain",
        "alike": f"the correction changes the captured share by less than {_LITTLE}",
        "unclear": f"no effect of the correction beyond the intervals ({_more(apart, other)})",
    }[order(apart, margin=_LITTLE)]
    return [
        f"{domain}, t = {worst['step']}, η = {worst['eta']:g}: {verdict} ({_share(other)} with "
        f"weight {other['correction']:g}, {_share(worst)} without)."
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
