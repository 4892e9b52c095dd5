"""The automatic choice of step and strategy against the whole grid it is chosen from."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ood_sampler.metrics.opinions import as_judged
from ood_sampler.pipeline.estimate import Work
from ood_sampler.pipeline.nodes import label
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.pipeline.search import Search
from ood_sampler.report.annotate import add_legend, columns_for, entitle
from ood_sampler.report.columns import Column, Row
from ood_sampler.report.plots import LINES, MARKERS, panel_figure, scale_kid, styled
from ood_sampler.samplers.base import Sampler
from ood_sampler.statistics.band import Point, ranked
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
from ood_sampler.statistics.resampling import Interval
from ood_sampler.store.node import Node
from ood_sampler.studies.base import (
    Measured,
    Study,
    by_each_judge,
    decoding,
    point,
    strategy_row,
    too_few,
)
from ood_sampler.studies.curves import by_domain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WITHIN, _COST = 1.15, 0.25
"""Goals: KID of the choice over the best of the grid, and its cost over the grid's."""


class SearchStudy(Study):
    """What `inversion.step=auto sampler=auto` chooses, and what a full grid would have found.

    The grid is measured on held-out pictures, which the search does not see. Which of its settings
    are usable, and which is best, is decided as in the search (`ood_sampler.statistics.band`).

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
        self.search = search
        self.samplers = list(samplers.values())

    @property
    def steps(self) -> Sequence[int]:
        return self.search.steps

    def check(self, pipeline: Pipeline) -> None:
        self.search.check(pipeline, steps=self.search.steps, samplers=self.samplers)
        for run in self._runs(pipeline):
            run.check()

    def targets(self, pipeline: Pipeline) -> list[Node]:
        return [
            *decoding(pipeline, self._runs(pipeline)),
            *self.search.targets(pipeline, steps=self.search.steps, samplers=self.samplers),
        ]

    def unstored(self, pipeline: Pipeline) -> list[Work]:
        return self.search.work(pipeline, steps=self.search.steps, samplers=self.samplers)

    def measure(self, pipeline: Pipeline) -> Measured:
        pipeline.session.obtain(pipeline.inversion)
        measure = pipeline.measure
        choice = self.search.choose(pipeline, steps=self.search.steps, samplers=self.samplers)
        few_shot = measure.row("few-shot", "reference", measure.few_shot).figures
        real = measure.real().figures
        last = {(trial.step, trial.sampler): trial for trial in choice.trials}
        rows: list[dict[str, Any]] = []
        cost = 0
        for run in self._runs(pipeline):
            row = strategy_row(run)
            trial = last[row["step"], row["strategy"]]
            rows.append(
                {
                    **row,
                    "validation_kid": trial.point.distance,
                    "samples": trial.samples,
                    "chosen": (row["step"], row["strategy"])
                    == (choice.step, label(choice.sampler)),
                }
            )
            cost += row["evaluations"] * run.settings.num_samples

        def usable(judge: str | None) -> list[dict[str, Any]]:
            captured, reached = (as_judged(row, judge) for row in (few_shot, real))
            relative = self.search.thresholds.relative_to(
                retention=1 - float(captured["captured"] or 0),
                novelty=float(reached["authenticity"] or 0),
            )
            points = [point(as_judged(row, judge), reached) for row in rows]
            return [
                {"usable": relative.passed(found), "real_kid": reached["kid"]} for found in points
            ]

        share = choice.evaluations / cost
        return Measured([{**row, "cost": share} for row in by_each_judge(rows, usable)])

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

    @styled
    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        domains = by_domain(rows)
        columns = columns_for(len(domains), most=4)
        lines = -(-len(domains) // columns)
        figure, panels = panel_figure(
            width=1.5 + 4 * columns, height=0.8 + 3.6 * lines, rows=lines, columns=columns
        )
        strategies = list(dict.fromkeys(row["strategy"] for row in rows))
        for axes in panels[len(domains) :]:
            axes.set_axis_off()
        for axes, (domain, own) in zip(panels, domains.items(), strict=False):
            for k, strategy in enumerate(strategies):
                points = [row for row in own if row["strategy"] == strategy]
                axes.scatter(
                    [1e3 * row["validation_kid"] for row in points],
                    [1e3 * row["kid"] for row in points],
                    color=LINES[k % len(LINES)],
                    marker=MARKERS[k % len(MARKERS)],
                    s=[12 + row["samples"] / 6 for row in points],
                    label=strategy,
                )
            chosen = next(row for row in own if row["chosen"])
            axes.scatter(
                [1e3 * chosen["validation_kid"]],
                [1e3 * chosen["kid"]],
                s=220,
                facecolors="none",
                edgecolors="#1c2026",
                label="chosen",
            )
            scale_kid(axes, "x", [row["validation_kid"] for row in own])
            scale_kid(axes, "y", [row["kid"] for row in own])
            entitle(axes, domain)
            axes.set_xlabel("KID × 10³ to the validation part")
            axes.set_ylabel("KID × 10³ to held-out pictures")
            axes.grid()
        add_legend(figure, *panels[0].get_legend_handles_labels(), columns=3)
        return figure

    def _runs(self, pipeline: Pipeline) -> list[Pipeline]:
        return [
            pipeline.variant(sampler=sampler, step=step)
            for step, sampler in product(self.search.steps, self.samplers)
        ]


def _best(rows: Sequence[Row]) -> Row:
    points = [
        Point(
            step=row["step"],
            retention=1 - row["captured"],
            novelty=row["authenticity"],
            distance=row["kid"],
            error=row["kid_standard_error"],
            near_copies=row["near_copies"],
        )
        for row in rows
    ]
    return rows[ranked(points, floor=rows[0]["real_kid"])[0]]


def _words(row: Row) -> str:
    return (
        f"{row['strategy']} at t = {row['step']} (KID {1e3 * row['kid']:.1f} ± "
        f"{1e3 * row['kid_standard_error']:.1f} × 10⁻³, authenticity {row['authenticity']:.2f}, "
        f"near-copies {row['near_copies']:.2f})"
    )


def _within(chosen: Row, best: Row) -> Decision:
    """Whether the KID of the choice is at most so many times the least, or no higher."""
    if chosen is best:
        return Decision("shown")
    floor = max(best["real_kid"], 0.0)
    kid, least = (max(row["kid"], floor) for row in (chosen, best))
    times = _WITHIN if least > 0 else 1.0
    asked = estimated(times * least, times * best["kid_standard_error"])
    return decide(difference_interval(estimated(kid, chosen["kid_standard_error"]), asked), most=0)


def _met(decision: Decision, row: Row) -> str:
    words = {"shown": "met", "refuted": "missed"}
    return words.get(decision.outcome) or too_few(decision.factor, row)


def _kid(row: Row) -> Interval:
    return estimated(row["kid"], row["kid_standard_error"])


def _apart(chosen: Row, best: Row) -> str:
    if chosen is best:
        return "the best one"
    above = chosen["kid"] - best["kid"]
    if above < 0:
        reason = "less new" if chosen["usable"] else "not usable by the held-out figures"
        return f"lower in KID, but {reason}"
    interval = difference_interval(_kid(chosen), _kid(best))
    apart = "told apart"
    if order(interval) == "unclear":
        more = too_few(decide(interval, most=0).factor, chosen)
        apart = f"not told apart by two standard errors: {more}"
    if best["kid"] <= 2 * best["kid_standard_error"]:
        return f"{1e3 * above:.1f} × 10⁻³ above it, where a ratio means little ({apart})"
    return f"{above / best['kid']:.0%} above it ({apart})"
