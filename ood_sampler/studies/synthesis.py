"""All strategies side by side, with the paper's recipes, both references and pixel controls."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ood_sampler.pipeline.keys import label
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Column, Row
from ood_sampler.samplers.base import Sampler
from ood_sampler.samplers.rejection import AS_IN_CODE, AS_IN_TEXT
from ood_sampler.statistics.decision import (
    Decision,
    Outcome,
    all_of,
    any_of,
    counted,
    decide,
    order,
)
from ood_sampler.statistics.intervals import difference_interval, interval
from ood_sampler.statistics.resampling import Interval
from ood_sampler.studies.rows import by_domain, kid, place, quoted_kid, too_few, units
from ood_sampler.studies.sweep import SweepStudy, compared, pixel_controls

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRATEGY, CONTROL, REFERENCE = "strategy", "control", "reference"
_NOISED = "noised"
_GOAL = 0.3

_LESS_NEW = 0.1
"""Lower authenticity by which a strategy still counts as new as the paper's recipe."""


class SynthesisStudy(SweepStudy):
    """Every strategy at the run's step, measured alike.

    Args:
        samplers: strategies; those that mix have a pixel control.
    """

    name = "synthesis"
    title = "Synthesis: strategies, references and controls"
    needs = ("kid", "authenticity")
    shown = 8
    tolerant = True
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
        super().__init__(samplers=samplers)

    def strip(self, run: Pipeline) -> str | None:
        return label(run.sampler)

    def derive(self, pipeline: Pipeline, rows: Sequence[Row]) -> Sequence[Row]:
        others = [(REFERENCE, row) for row in pipeline.references()]
        others += [(CONTROL, row) for row in pixel_controls(pipeline, self.samplers).values()]
        about = self.about(pipeline)
        return [
            *({**row, "role": STRATEGY} for row in rows),
            *({**about, **compared(row), "role": role} for role, row in others),
        ]

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        sentences = [_best_of(domain, own) for domain, own in by_domain(_strategies(rows)).items()]
        outcomes = list(self.claims(rows).values())
        if len(outcomes) > 1:
            sentences.append(
                f"A strategy with at least {_GOAL:.0%} lower KID than the paper's recipe, at "
                f"authenticity lower by less than {_LESS_NEW} (the best of several, picked on "
                f"these figures), by {units(rows)[:-1]}: {counted(outcomes)}."
            )
        return sentences

    def claims(self, rows: Sequence[Row]) -> Mapping[str, Outcome]:
        found: dict[str, Outcome] = {}
        for domain, own in by_domain(_strategies(rows)).items():
            paper = _recipe(own, AS_IN_TEXT)
            if paper is not None:
                goals = [_goal(row, paper) for row in own if row is not paper]
                found[f"better than the paper's recipe, on {domain}"] = any_of(goals)
        return found

    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        from ood_sampler.studies.figures.synthesis import draw

        return draw(rows, pictures)


def _strategies(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["role"] == STRATEGY]


def _best_of(domain: str, own: Sequence[Row]) -> str:
    """The best strategy of a domain, beside both of the paper's recipes and `noised`."""
    paper, code = _recipe(own, AS_IN_TEXT), _recipe(own, AS_IN_CODE)
    noised = next((row for row in own if row["strategy"].startswith(_NOISED)), None)
    as_new = [row for row in own if paper is None or _as_new(row, paper) == "shown"]
    best = min(as_new, key=lambda row: row["kid"])
    said = [f"{domain}, {place(best)}: best is {best['strategy']}, {_words(best)}"]
    if best is paper:
        said[0] += (
            f", the paper's recipe {AS_IN_TEXT}: no other that is shown as new has a lower KID"
        )
    elif paper is not None:
        said.append(
            f"the paper's recipe {AS_IN_TEXT} (slerp of two latents, criteria measured here), "
            f"newer by less than {_LESS_NEW}, has {_words(paper)}: {_lower(best, paper)}, "
            f"{_told(best, paper)}"
        )
    if code is not None and code is not best:
        said.append(
            f"{AS_IN_CODE} (slerp with a draw of the model's own domain) it has {_words(code)}, "
            f"{_told(best, code)}"
        )
    if noised is not None and noised is not best:
        said.append(f"{_NOISED} has {_words(noised)}, {_told(best, noised)}")
    return "; ".join(said) + "."


def _recipe(rows: Sequence[Row], kind: str) -> Row | None:
    """The paper's recipe, of which there are two."""
    return next((row for row in rows if f"({kind}: " in row["strategy"]), None)


def _as_new(row: Row, paper: Row) -> Outcome:
    """Whether a strategy is as authentic as the paper's recipe, less a margin."""
    if row is paper:
        return "shown"
    apart = difference_interval(*(interval(r, "authenticity") for r in (row, paper)))
    return decide(apart, least=-_LESS_NEW).outcome


def _goal(row: Row, paper: Row) -> Outcome:
    """Whether a strategy is as new as the paper's recipe, and its KID lower by the goal."""
    asked = Interval(*((1 - _GOAL) * end for end in kid(paper)))
    lower = decide(difference_interval(kid(row), asked), most=0)
    return all_of([Decision(_as_new(row, paper)), lower]).outcome


def _lower(best: Row, paper: Row) -> str:
    if paper["kid"] <= 0:
        return "both about 0"
    # below 0 is not farther from the paper's than 0 is
    return f"{1 - max(best['kid'], 0) / paper['kid']:.0%} lower"


def _words(row: Row) -> str:
    return f"{quoted_kid(row)} at authenticity {row['authenticity']:.2f}"


def _told(row: Row, other: Row) -> str:
    apart = difference_interval(kid(row), kid(other))
    found = order(apart)
    if found == "lower":
        return "told apart by two standard errors"
    if found == "higher":
        return "which is lower by more than two standard errors"
    return f"not told apart by two standard errors ({too_few(decide(apart, most=0).factor, row)})"
