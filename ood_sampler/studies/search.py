"""The automatic choice of step and strategy against the whole grid it is chosen from."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ood_sampler.metrics.opinions import as_judged
from ood_sampler.pipeline.estimate import Work
from ood_sampler.pipeline.keys import label
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.pipeline.search import Search
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
from ood_sampler.studies.rows import by_domain, by_each_judge, kid, point, quoted_kid, too_few
from ood_sampler.studies.sweep import SweepStudy, few_shot_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WITHIN, _COST = 1.15, 0.25
"""Goals: KID of the choice over the best of the grid, and its cost over the grid's."""


class SearchStudy(SweepStudy):
    """The choice of `inversion.step=auto sampler=auto` against the best of a full grid.

    The grid is measured on held-out images, which the search does not see. Its settings are ranked
    as in the search (`ood_sampler.statistics.band`).

    Args:
        search: the search; its steps are those of the grid.
        samplers: candidates.
    """

    name = "search"
    title = "Automatic choice of step and strategy, against the full grid"
    needs = ("kid", "authenticity", "near_copies", "captured")
    headings = (
        Column("strategy", "strategy"),
        Column("step", "step t", digits=0),
        Column("images", "images", digits=0),
        Column("kid", "KID × 10³", 1, 1e3, meaning="To held-out pictures."),
        Column("authenticity", "authenticity", 2),
        Column("near_copies", "near-copies", 2),
        Column("captured", "captured", 2),
        Column("usable", "usable", meaning="Retention, novelty, near-copies suffice, held-out."),
        Column("validation_kid", "KID × 10³, validation", 1, 1e3, meaning="As the search saw it."),
        Column("samples", "samples of the search", digits=0),
        Column("chosen", "chosen"),
    )

    def __init__(self, *, search: Search, samplers: Mapping[str, Sampler]) -> None:
        super().__init__(samplers=samplers, steps=search.steps)
        self.search = search

    def runs(self, pipeline: Pipeline) -> list[Pipeline]:
        """All combinations, step by step."""
        return sorted(super().runs(pipeline), key=lambda run: self.steps.index(run.settings.step))

    def check(self, pipeline: Pipeline) -> None:
        self.search.check(pipeline, steps=self.steps, samplers=self.samplers)
        super().check(pipeline)

    def targets(self, pipeline: Pipeline) -> list[Node]:
        searched = self.search.targets(pipeline, steps=self.steps, samplers=self.samplers)
        return [*super().targets(pipeline), *searched]

    def unstored(self, pipeline: Pipeline) -> list[Work]:
        return self.search.work(pipeline, steps=self.steps, samplers=self.samplers)

    def derive(self, pipeline: Pipeline, rows: Sequence[Row]) -> Sequence[Row]:
        choice = self.search.choose(pipeline, steps=self.steps, samplers=self.samplers)
        few_shot, real = few_shot_row(pipeline).figures, pipeline.measure.real().figures
        last = {(trial.step, trial.sampler): trial for trial in choice.trials}
        chosen = choice.step, label(choice.sampler)
        grid = sum(row["evaluations"] for row in rows) * pipeline.settings.num_samples
        found = []
        for row in rows:
            setting = row["step"], row["strategy"]
            trial = last[setting]
            seen = {"validation_kid": trial.point.distance, "samples": trial.samples}
            found.append({**row, **seen, "chosen": setting == chosen})

        def usable(judge: str | None) -> list[dict[str, Any]]:
            captured, reached = (as_judged(row, judge) for row in (few_shot, real))
            relative = self.search.thresholds.relative_to(
                retention=1 - float(captured["captured"] or 0),
                novelty=float(reached["authenticity"] or 0),
            )
            points = [point(as_judged(row, judge), reached) for row in rows]
            return [{"usable": relative.passed(p), "real_kid": reached["kid"]} for p in points]

        share = choice.evaluations / grid
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
                + ("" if chosen["usable"] else " On held-out pictures the choice is not usable.")
            )
        if len(domains) > 1:
            met, missed = outcomes.count("shown"), outcomes.count("refuted")
            sentences.append(
                f"Both goals are met on {met} of {len(domains)} domains, missed on {missed}; on "
                f"{len(domains) - met - missed} there are {TOO_FEW}."
            )
        return sentences

    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        from ood_sampler.studies.figures.search import draw

        return draw(rows)


def _best(rows: Sequence[Row]) -> Row:
    points = [point(row) for row in rows]
    return rows[ranked(points, floor=rows[0]["real_kid"])[0]]


def _words(row: Row) -> str:
    return (
        f"{row['strategy']} at t = {row['step']} ({quoted_kid(row)}, authenticity "
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
