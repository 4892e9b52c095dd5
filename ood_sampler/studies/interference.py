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
from ood_sampler.studies.rows import by_column, by_domain, by_each_judge, by_step, quoted, too_few
from ood_sampler.studies.sweep import SweepStudy, check_increasing, few_shot_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LITTLE = 0.05
"""Difference in the captured share that counts as none."""


class InterferenceStudy(SweepStudy):
    r"""Captured fraction over the noise $\eta$ of decoding, at several inversion steps.

    (Zhu et al., 2023.) The run's solver must decode with $\eta > 0$.

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
        check_increasing(steps=steps, etas=etas)
        super().__init__(steps=steps, etas=etas)

    def strip(self, run: Pipeline) -> str | None:
        return f"t = {run.settings.step}/η = {run.settings.eta:g}"

    def derive(self, pipeline: Pipeline, rows: Sequence[Row]) -> Sequence[Row]:
        real = few_shot_row(pipeline).figures

        def captured(judge: str | None) -> list[dict[str, Any]]:
            return [{"real_captured": as_judged(real, judge)["captured"]}] * len(rows)

        return by_each_judge(rows, captured)

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        sentences = []
        for domain, own in by_domain(rows).items():
            still = by_step(row for row in own if row["eta"] == own[0]["eta"])
            low, high = still[0], still[-1]
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
            for line in by_column(by_step(own), "step").values():
                sentences += _with_noise(domain, line)
        return sentences

    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        from ood_sampler.studies.figures.interference import draw

        return draw(rows, pictures)


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
