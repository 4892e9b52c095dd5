"""All strategies side by side, with the paper's recipes, both references and pixel controls."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ood_sampler.pipeline.nodes import label
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Column, Row
from ood_sampler.report.plots import COLOURS, panel_figure, scale_kid, styled
from ood_sampler.samplers.base import Sampler
from ood_sampler.samplers.rejection import AS_IN_CODE, AS_IN_TEXT
from ood_sampler.statistics.decision import (
    Decision,
    Outcome,
    all_of,
    any_of,
    counted,
    decide,
    estimated,
    order,
)
from ood_sampler.statistics.intervals import difference_interval, interval
from ood_sampler.statistics.resampling import Interval
from ood_sampler.store.node import Node
from ood_sampler.studies.base import (
    Measured,
    Study,
    about,
    attempted,
    check_fitting,
    check_left,
    decoding,
    fitting,
    strategy_row,
    too_few,
)
from ood_sampler.studies.curves import by_domain, error_bars
from ood_sampler.studies.strips import draw_strips, first_samples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRATEGY, CONTROL, REFERENCE = "strategy", "control", "reference"
_NOISED = "noised"
_SHOWN = 8

_WIDEST = 6.0
"""Inches of the pictures in the figure."""

_GOAL = 0.3

_LESS_NEW = 0.1
"""Lower authenticity by which a strategy still counts as new as the paper's recipe."""


class SynthesisStudy(Study):
    """Every strategy at the run's step, measured alike.

    Args:
        samplers: strategies; those that mix have a pixel control.
    """

    name = "synthesis"
    title = "Synthesis: strategies, references and controls"
    needs = ("kid", "authenticity")
    headings = (
        Column("strategy", "set"),
        Column("step", "step t", digits=0),
        Column("images", "images", digits=0),
        Column("evaluations", "evaluations", digits=0, meaning="Of the network, a sample decoded."),
        Column("fid", "FID", 1),
        Column("kid", "KID × 10³", 1, 1e3),
        Column("precision", "precision", 2),
        Column("recall", "recall", 2),
        Column("density", "density", 2),
        Column("coverage", "coverage", 2),
        Column("authenticity", "authenticity", 2),
        Column("near_copies", "near-copies", 2),
        Column("captured", "captured", 2),
        Column("blend_pair", "blend of 2", 2),
        Column("blend_five", "blend of 5", 2),
    )

    def __init__(self, *, samplers: Mapping[str, Sampler]) -> None:
        if not samplers:
            raise ValueError("study.samplers must name at least one strategy, got none")
        self.samplers = list(samplers.values())

    def check(self, pipeline: Pipeline) -> None:
        check_fitting(pipeline, self.samplers)
        for run in self._runs(pipeline):
            run.check()

    def targets(self, pipeline: Pipeline) -> list[Node]:
        return decoding(pipeline, self._runs(pipeline))

    def measure(self, pipeline: Pipeline) -> Measured:
        pipeline.session.obtain(pipeline.inversion)
        others = [(REFERENCE, row) for row in pipeline.references()]
        rows: list[dict[str, Any]] = []
        pictures: dict[str, Tensor] = {}
        for run in self._runs(pipeline):
            row = attempted(label(run.sampler), partial(strategy_row, run))
            if row is None:
                continue
            rows.append({**row, "role": STRATEGY})
            pictures[f"{run.domain.name}/{row['strategy']}"] = first_samples(run, _SHOWN)
        check_left(rows, "strategy")
        for sampler in fitting(pipeline, self.samplers):
            if sampler.mixes:
                name = f"{label(sampler)} in pixels"
                control = attempted(name, pipeline.in_pixels(sampler).sample_row)
                others += [] if control is None else [(CONTROL, control)]
        rows += [
            {
                **about(pipeline),
                "strategy": row.name,
                "role": role,
                "images": row.samples,
                **row.figures,
            }
            for role, row in others
        ]
        return Measured(rows, pictures)

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        sentences = []
        outcomes: list[Outcome] = []
        for domain, of_domain in by_domain(rows).items():
            own = [row for row in of_domain if row["role"] == STRATEGY]
            paper = _recipe(own, AS_IN_TEXT)
            as_new = [row for row in own if paper is None or _as_new(row, paper) == "shown"]
            best = min(as_new, key=lambda row: row["kid"])
            sentence = f"{domain}, t = {best['step']}: best is {best['strategy']}, {_words(best)}"
            if best is paper:
                sentence += (
                    f", the paper's recipe {AS_IN_TEXT}: no other that is shown as new has a lower "
                    "KID"
                )
            elif paper is not None:
                sentence += (
                    f"; the paper's recipe {AS_IN_TEXT} (slerp of two latents, criteria measured "
                    f"here), newer by less than {_LESS_NEW}, has {_words(paper)}: "
                    f"{_lower(best, paper)}, {_told(best, paper)}"
                )
            code = _recipe(own, AS_IN_CODE)
            if code is not None and code is not best:
                sentence += (
                    f"; {AS_IN_CODE} (slerp with a draw of the model's own domain) it has "
                    f"{_words(code)}, {_told(best, code)}"
                )
            if paper is not None:
                outcomes.append(any_of([_goal(row, paper) for row in own if row is not paper]))
            noised = _named(own, _NOISED)
            if noised is not None and noised is not best:
                sentence += f"; {_NOISED} has {_words(noised)}, {_told(best, noised)}"
            sentences.append(sentence + ".")
        if len(outcomes) > 1:
            sentences.append(
                f"A strategy with at least {_GOAL:.0%} lower KID than the paper's recipe, at "
                f"authenticity lower by less than {_LESS_NEW} (the best of several, picked on "
                f"these figures), by domain: {counted(outcomes)}."
            )
        return sentences

    def claims(self, rows: Sequence[Row]) -> Mapping[str, Outcome]:
        found: dict[str, Outcome] = {}
        for domain, of_domain in by_domain(rows).items():
            own = [row for row in of_domain if row["role"] == STRATEGY]
            paper = _recipe(own, AS_IN_TEXT)
            if paper is not None:
                goals = [_goal(row, paper) for row in own if row is not paper]
                found[f"better than the paper's recipe, on {domain}"] = any_of(goals)
        return found

    @styled
    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        domains = by_domain(rows)
        height = 0.31 * max(map(len, domains.values()))
        made = max(sum(row["role"] == STRATEGY for row in own) for own in domains.values())
        # pictures as tall as the panels beside them, and their names
        strips_width = 1.6 + min(_SHOWN * height / max(made, 1), _WIDEST)
        widths = [strips_width, 5.4, 3.6]
        figure, panels = panel_figure(
            width=sum(widths),
            height=(height + 1.0) * len(domains),
            rows=len(domains),
            columns=3,
            widths=widths,
        )
        for i, (domain, own) in enumerate(domains.items()):
            strips, kid, authenticity = panels[3 * i : 3 * i + 3]
            prefix = f"{domain}/"
            draw_strips(
                strips, {k: x for k, x in pictures.items() if k.startswith(prefix)}, title=domain
            )
            for axes, key, scale in ((kid, "kid", 1e3), (authenticity, "authenticity", 1.0)):
                for y, row in enumerate(own):
                    axes.errorbar(
                        scale * row[key],
                        y,
                        xerr=error_bars([row], key, scale=scale),
                        fmt="o",
                        color=COLOURS[row["role"]],
                        capsize=3,
                    )
                axes.set_ylim(len(own) - 0.5, -0.5)
                axes.grid(axis="x")
            kid.set_yticks(range(len(own)), [row["strategy"] for row in own], fontsize=8.5)
            authenticity.set_yticks(range(len(own)), [""] * len(own))
            scale_kid(kid, "x", [row["kid"] for row in own])
            kid.set_title("KID × 10³, lower is better")
            authenticity.set_title("authenticity")
            authenticity.set_xlim(-0.03, 1.03)
            for axes in (kid, authenticity):
                axes.set_xlabel("with 95% interval")
        return figure

    def _runs(self, pipeline: Pipeline) -> list[Pipeline]:
        return [pipeline.variant(sampler=s) for s in fitting(pipeline, self.samplers)]


def _named(rows: Sequence[Row], name: str) -> Row | None:
    return next((row for row in rows if row["strategy"].startswith(name)), None)


def _recipe(rows: Sequence[Row], kind: str) -> Row | None:
    """The paper's recipe, of which there are two."""
    return next((row for row in rows if f"({kind}: " in row["strategy"]), None)


def _as_new(row: Row, paper: Row) -> Outcome:
    """Whether the authenticity of a strategy is that of the paper's recipe, less a margin."""
    if row is paper:
        return "shown"
    apart = difference_interval(*(interval(r, "authenticity") for r in (row, paper)))
    return decide(apart, least=-_LESS_NEW).outcome


def _goal(row: Row, paper: Row) -> Outcome:
    """Whether a strategy is as new as the paper's recipe and its KID by the goal lower."""
    asked = Interval(*((1 - _GOAL) * end for end in _kid(paper)))
    lower = decide(difference_interval(_kid(row), asked), most=0)
    return all_of([Decision(_as_new(row, paper)), lower]).outcome


def _lower(best: Row, paper: Row) -> str:
    if paper["kid"] <= 0:
        return "both about 0"
    # below 0 is not farther from the paper's than 0 is
    return f"{1 - max(best['kid'], 0) / paper['kid']:.0%} lower"


def _words(row: Row) -> str:
    return (
        f"KID {1e3 * row['kid']:.1f} ± {1e3 * row['kid_standard_error']:.1f} × 10⁻³ at "
        f"authenticity {row['authenticity']:.2f}"
    )


def _kid(row: Row) -> Interval:
    return estimated(row["kid"], row["kid_standard_error"])


def _told(row: Row, other: Row) -> str:
    apart = difference_interval(_kid(row), _kid(other))
    found = order(apart)
    if found == "lower":
        return "told apart by two standard errors"
    if found == "higher":
        return "which is lower by more than two standard errors"
    return f"not told apart by two standard errors ({too_few(decide(apart, most=0).factor, row)})"
