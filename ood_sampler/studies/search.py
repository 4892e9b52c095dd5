"""The automatic choice of step, strategy and flow against the whole grid it is chosen from."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ood_sampler.metrics.opinions import as_judged
from ood_sampler.pipeline.estimate import Work
from ood_sampler.pipeline.keys import label
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.pipeline.search import Correction, Flows, Search, asked_flows, fitting_flows
from ood_sampler.pipeline.settings import Settings
from ood_sampler.report.columns import Column, Row
from ood_sampler.samplers.base import Sampler
from ood_sampler.statistics.band import ranked
from ood_sampler.statistics.decision import (
    TOO_FEW,
    Decision,
    Outcome,
    all_of,
    decide,
    estimated,
    order,
)
from ood_sampler.statistics.intervals import difference_interval
from ood_sampler.store.node import Node
from ood_sampler.studies.base import Measured, schedule_of
from ood_sampler.studies.rows import (
    by_domain,
    by_each_judge,
    flow_of,
    kid,
    point,
    quoted_kid,
    too_few,
    units,
)
from ood_sampler.studies.sweep import SweepStudy, few_shot_row, strategy_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WITHIN, _COST = 1.15, 0.25
"""Goals: KID of the choice over the best of the grid, and its cost over the grid's."""


class SearchStudy(SweepStudy):
    """The choice of `inversion.step=auto sampler=auto` against the best of a full grid.

    The grid is measured on held-out images, which the search does not see. Its settings are ranked
    as in the search (`ood_sampler.statistics.band`), but by the errors of their own KIDs. A choice
    with another noise of decoding, temperature or shift than the grid's is measured as one setting
    more.

    Args:
        search: the search; its steps are those of the grid.
        samplers: candidates.
        corrections: of the flow, candidates too.
    """

    name = "search"
    title = "Automatic choice of step and strategy, against the full grid"
    needs = ("kid", "authenticity", "near_copies", "captured")
    chooses = True
    tolerant = True
    headings = (
        Column("strategy", "strategy"),
        Column("step", "step t", digits=0),
        Column("correction", "correction w", digits=1, meaning="Weight; 0: the model's flow."),
        Column("images", "images", digits=0),
        Column("kid", "KID × 10³", 1, 1e3, meaning="To held-out images."),
        Column("authenticity", "authenticity", 2),
        Column("near_copies", "near-copies", 2),
        Column("captured", "captured", 2),
        Column("usable", "usable", meaning="Retention, novelty, near-copies suffice, held-out."),
        Column("validation_kid", "KID × 10³, validation", 1, 1e3, meaning="As the search saw it."),
        Column("samples", "samples of the search", digits=0),
        Column("chosen", "chosen"),
    )

    def __init__(
        self,
        *,
        search: Search,
        samplers: Mapping[str, Sampler],
        corrections: Flows | Correction = None,
    ) -> None:
        super().__init__(samplers=samplers, steps=search.steps)
        self.search = search
        self.corrections = asked_flows(corrections)

    def _flows(self, pipeline: Pipeline) -> list[Pipeline]:
        """The run along each flow, with latents at all steps."""
        found = fitting_flows(pipeline.codec, self.corrections)
        return [replace(pipeline, correction=flow) for flow in found]

    def _options(self, pipeline: Pipeline) -> dict[str, Any]:
        """What the search chooses from."""
        flows = [flow.correction for flow in self._flows(pipeline)]
        return {"steps": self.steps, "samplers": self.samplers, "corrections": flows}

    def runs(self, pipeline: Pipeline) -> list[Pipeline]:
        """All combinations, step by step."""
        runs = super().runs
        found = [run for flow in self._flows(pipeline) for run in runs(flow)]
        return sorted(found, key=lambda run: self.steps.index(run.settings.step))

    def check(self, pipeline: Pipeline) -> None:
        schedule_of(pipeline)
        self.search.check(pipeline, **self._options(pipeline))
        super().check(pipeline)

    def targets(self, pipeline: Pipeline) -> list[Node]:
        searched = self.search.targets(pipeline, **self._options(pipeline))
        inverted = [flow.inversion for flow in self._flows(pipeline)]
        return [*inverted, *super().targets(pipeline), *searched]

    def unstored(self, pipeline: Pipeline) -> list[Work]:
        work = self.search.work(pipeline, **self._options(pipeline))
        varied = [self.search.variants(run) for run in self.runs(pipeline)]
        if any(varied):
            each = max(_evaluations(run) for variants in varied for run in variants)
            work.append(Work("decode the choice", pipeline.settings.num_samples, each))
        return work

    def measure(self, pipeline: Pipeline) -> Measured:
        for flow in self._flows(pipeline):
            pipeline.session.obtain(flow.inversion)
        return super().measure(pipeline)

    def derive(self, pipeline: Pipeline, rows: Sequence[Row]) -> Sequence[Row]:
        choice = self.search.choose(pipeline, **self._options(pipeline))
        few_shot, real = few_shot_row(pipeline).figures, pipeline.measure.real().figures
        last = {trial.setting: trial for trial in choice.trials}
        grid = sum(row["evaluations"] for row in rows) * pipeline.settings.num_samples
        run = choice.of(pipeline)
        chosen, settings = _setting(run), [_of_row(row, pipeline.settings) for row in rows]
        if chosen not in settings:
            made = strategy_row(run)
            varied = {"strategy": f"{made['strategy']}{run.settings.about_decoding}"}
            rows = [*rows, {**self.about(pipeline), **made, **varied}]
            settings.append(chosen)
        found = []
        for row, setting in zip(rows, settings, strict=True):
            # one that gave up in the search has no trial
            trial = last.get(setting)
            seen = {
                "validation_kid": None if trial is None else trial.point.distance,
                "samples": 0 if trial is None else trial.samples,
            }
            found.append({**row, **seen, "chosen": setting == chosen})

        def usable(judge: str | None) -> list[dict[str, Any]]:
            captured, reached = (as_judged(row, judge) for row in (few_shot, real))
            relative = self.search.thresholds.relative_to(
                retention=1 - float(captured["captured"] or 0),
                novelty=float(reached["authenticity"] or 0),
            )
            points = [point(as_judged(row, judge), reached) for row in rows]
            return [{"usable": relative.passed(p), "real_kid": reached["kid"]} for p in points]

        share = (choice.evaluations + choice.inverting) / grid
        return [{**row, "cost": share} for row in by_each_judge(found, usable)]

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        sentences = []
        outcomes: list[Outcome] = []
        domains = by_domain(rows)
        for domain, own in domains.items():
            chosen = next(row for row in own if row["chosen"])
            usable = [row for row in own if row["usable"]] or own
            best = _best(usable)
            within = _within(chosen, best)
            cheap = Decision("shown" if chosen["cost"] < _COST else "refuted")
            outcomes.append(all_of([within, cheap]).outcome)
            sentences.append(
                f"{domain}: auto chose {_words(chosen)}; the best usable of {len(own)} settings, "
                f"{len(usable)} of them usable, is {_words(best)}. The choice is "
                f"{_apart(chosen, best)}; it took {chosen['cost']:.0%} of the evaluations of the "
                f"grid. Goals (within 15%, below a quarter): {_met(within, chosen)}, "
                f"{_met(cheap, chosen)}."
                + ("" if chosen["usable"] else " On held-out images the choice is not usable.")
            )
        if len(domains) > 1:
            met, missed = outcomes.count("shown"), outcomes.count("refuted")
            sentences.append(
                f"Both goals are met on {met} of {len(domains)} {units(rows)}, missed on {missed}; "
                f"on {len(domains) - met - missed} there are {TOO_FEW}."
            )
        return sentences

    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        from ood_sampler.studies.figures.search import draw

        return draw(rows)


def _setting(run: Pipeline) -> tuple[int, str, float, float, float, int]:
    """What tells settings apart, as `Trial.setting` does."""
    told, step = run.settings, run.settings.step
    flow = run.correction_weight
    return step, label(run.sampler), flow, told.eta, told.temperature, told.shift


def _of_row(row: Row, told: Settings) -> tuple[int, str, float, float, float, int]:
    """The setting of a row of the grid, whose draws and first move are those of the run."""
    decoding = (row["eta"], told.temperature, told.shift)
    return row["step"], row["strategy"], row["correction"], *decoding


def _evaluations(run: Pipeline) -> int:
    return run.codec.decoding_evaluations(run.settings.decoding_step)


def _best(rows: Sequence[Row]) -> Row:
    points = [point(row) for row in rows]
    return rows[ranked(points, floor=rows[0]["real_kid"])[0]]


def _words(row: Row) -> str:
    return (
        f"{row['strategy']} at t = {row['step']}{flow_of(row)} ({quoted_kid(row)}, authenticity "
        f"{row['authenticity']:.2f}, near-copies {row['near_copies']:.2f})"
    )


def _within(chosen: Row, best: Row) -> Decision:
    """Whether the KID of the choice is at most `_WITHIN` times the least."""
    if chosen is best:
        return Decision("shown")
    floor = max(best["real_kid"], 0.0)
    own, least = (max(row["kid"], floor) for row in (chosen, best))
    times = _WITHIN if least > 0 else 1.0
    asked = estimated(times * least, times * best["kid_standard_error"])
    return decide(difference_interval(estimated(own, chosen["kid_standard_error"]), asked), most=0)


def _met(decision: Decision, row: Row) -> str:
    words = {"shown": "met", "refuted": "missed"}
    return words.get(decision.outcome) or too_few(decision.factor, row)


def _apart(chosen: Row, best: Row) -> str:
    if chosen is best:
        return "the best one"
    above = chosen["kid"] - best["kid"]
    if above < 0:
        reason = "less new" if chosen["usable"] else "not usable by the held-out figures"
        return f"lower in KID, but {reason}"
    interval = difference_interval(kid(chosen), kid(best))
    apart = "told apart"
    if order(interval) == "unclear":
        more = too_few(decide(interval, most=0).factor, chosen)
        apart = f"not told apart by two standard errors: {more}"
    if best["kid"] <= 2 * best["kid_standard_error"]:
        return f"{1e3 * above:.1f} × 10⁻³ above it, where a ratio means little ({apart})"
    return f"{above / best['kid']:.0%} above it ({apart})"
