"""Mode interference: samples that the model's own domain captures while they are decoded."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ood_sampler.metrics.opinions import as_judged
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Column, Row
from ood_sampler.statistics.decision import decide, order, separation
from ood_sampler.statistics.intervals import interval
from ood_sampler.statistics.ranks import rank_correlation
from ood_sampler.statistics.resampling import Interval
from ood_sampler.store.node import Node
from ood_sampler.studies.base import Measured
from ood_sampler.studies.rows import (
    by_column,
    by_domain,
    by_each_judge,
    by_flow,
    by_step,
    flow_of,
    quoted,
    too_few,
)
from ood_sampler.studies.sweep import SweepStudy, check_increasing, few_shot_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LITTLE = 0.05
"""Difference in the captured share that counts as none."""


class InterferenceStudy(SweepStudy):
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
    shown = 6
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
        Column("real_captured", "real images captured", 2, meaning="The same of few-shot ones."),
        Column("kid", "KID × 10³", 1, 1e3, meaning="To held-out images."),
        Column("precision", "precision", 2),
        Column("authenticity", "authenticity", 2),
        Column("near_copies", "near-copies", 2),
    )

    def __init__(self, *, steps: Sequence[int], etas: Sequence[float]) -> None:
        check_increasing(steps=steps, etas=etas)
        super().__init__(steps=steps, etas=etas)

    def strip(self, run: Pipeline) -> str | None:
        flow = flow_of({"correction": run.correction_weight})
        return f"t = {run.settings.step}/η = {run.settings.eta:g}{flow}"

    def runs(self, pipeline: Pipeline) -> list[Pipeline]:
        runs = super().runs
        return [run for flow in _flows(pipeline) for run in runs(flow)]

    def targets(self, pipeline: Pipeline) -> list[Node]:
        return [*(flow.inversion for flow in _flows(pipeline)), *super().targets(pipeline)]

    def measure(self, pipeline: Pipeline) -> Measured:
        for flow in _flows(pipeline):
            pipeline.session.obtain(flow.inversion)
        return super().measure(pipeline)

    def derive(self, pipeline: Pipeline, rows: Sequence[Row]) -> Sequence[Row]:
        real = few_shot_row(pipeline).figures

        def captured(judge: str | None) -> list[dict[str, Any]]:
            return [{"real_captured": as_judged(real, judge)["captured"]}] * len(rows)

        return by_each_judge(rows, captured)

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        sentences = []
        for domain, every in by_domain(rows).items():
            flows = by_flow(every)
            for flow, own in flows.items():
                sentences += _of_flow(domain + flow, own)
            plain, *others = flows.values()
            for corrected in others:
                sentences += _compared(domain, plain, corrected)
        return sentences

    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        from ood_sampler.studies.figures.interference import draw

        return draw(rows, pictures)


def _flows(pipeline: Pipeline) -> list[Pipeline]:
    """The run along the flow of the model and, if there is one, along the corrected one."""
    return [pipeline.plain, pipeline] if pipeline.is_corrected else [pipeline]


def _of_flow(name: str, own: Sequence[Row]) -> list[str]:
    """The captured share along one flow, over step and noise."""
    still = by_step(row for row in own if row["eta"] == own[0]["eta"])
    low, high = still[0], still[-1]
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
    sentences = [f"{told} ({real:.2f} of real images of the domain)."]
    for line in by_column(by_step(own), "step").values():
        sentences += _with_noise(name, line)
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
    """Samples that would show an effect, or that there is little of one."""
    decisions = [decide(apart, **limits) for limits in ({"least": 0.0}, {"most": 0.0})]
    decisions.append(decide(apart, least=-_LITTLE, most=_LITTLE))
    factors = [each.factor for each in decisions if each.factor is not None]
    return too_few(min(factors, default=None), row)


def _share(row: Row) -> str:
    return quoted(row, "captured")


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
