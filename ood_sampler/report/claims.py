"""A question about a run, and the rows that answer it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ood_sampler.report.columns import Row, number, stored_interval
from ood_sampler.report.run_columns import figure
from ood_sampler.report.tables import IN_DOMAIN, Results, strategy
from ood_sampler.statistics.decision import TOO_FEW, Outcome, Pool, advice, estimated
from ood_sampler.statistics.resampling import Interval, beside_the_edge

UNSURE = "too few to say"
"""Answer to what the images leave open."""

DISPUTED = "judges disagree"
"""Answer to what one judge shows and another refutes."""

Answered: TypeAlias = Outcome | Literal["disputed"]
"""Outcome of a claim, by one judge or by several."""


@dataclass(frozen=True)
class Verdict:
    """A question about a run and its answer.

    Attributes:
        key: the question in a word or two, for files.
        question: in a few words.
        outcome: whether a yes is shown or refuted, too few images leave it open, or judges dispute
            it.
        answer: in a word or two.
        sentence: the answer with the numbers it rests on, and how many images would settle it.
        fault: the fault that a no finds in the samples, as the conclusion puts it.
        judged: whether it is the opinion of a judge, of which there may be several.
    """

    key: str
    question: str
    outcome: Answered
    answer: str
    sentence: str
    fault: str = ""
    judged: bool = True

    def as_dict(self) -> dict[str, str]:
        """The verdict as stored."""
        return {key: value for key, value in vars(self).items() if key not in ("fault", "judged")}


@dataclass(frozen=True)
class Subject:
    """The rows of a run by their role, and the number of held-out images."""

    row: Row
    real: Row | None
    ceiling: Row | None
    controls: Sequence[Row]
    held_out: float | None

    @classmethod
    def of(cls, results: Results) -> "Subject":
        """Sort the rows of a run."""
        references = [row for row in results["rows"] if row["role"] == "reference"]
        return cls(
            row=strategy(results),
            real=next((row for row in references if row["name"] != IN_DOMAIN), None),
            ceiling=next((row for row in references if row["name"] == IN_DOMAIN), None),
            controls=[row for row in results["rows"] if row["role"] == "control"],
            held_out=number((results.get("protocol") or {}).get("held-out images")),
        )

    def too_few(
        self, factor: float | None, *, held_out: bool = False, few_shot: bool = False
    ) -> str:
        """Say how many images would settle a claim about the samples and other sets."""
        sizes = [(number(self.row.get("samples")), "samples", "num_samples")]
        if held_out:
            sizes.append((self.held_out, "held-out images", "data.held_out"))
        if few_shot and self.real is not None:
            count = number(self.real.get("samples"))
            sizes.append((count, "few-shot images", "data.few_shot"))
        pools = [Pool(round(count), name, key) for count, name, key in sizes if count]
        told = f": {advice(factor, *pools)}" if pools else ""
        return f"{TOO_FEW.capitalize()}{told}."


def kid_interval(row: Row | None) -> Interval | None:
    """The KID of a row; without bounds two standard errors; None if it has no KID."""
    value, error = (number((row or {}).get(key)) for key in ("kid", "kid_standard_error"))
    if row is None or value is None or error is None:
        return None
    return stored_interval(row, "kid") or estimated(value, error)


def kid_text(row: Row) -> str:
    """The KID of a row, as the tables show it."""
    return f"({figure('kid', row)}) × 10⁻³".replace(" ", "\N{NO-BREAK SPACE}")


def share_interval(row: Row | None, key: str) -> Interval | None:
    """A share of the images of a row; without bounds that of independent draws; None if unknown."""
    value, count = (number((row or {}).get(name)) for name in (key, "samples"))
    if row is None or value is None:
        return None
    stored = stored_interval(row, key)
    if stored is not None or not count:
        return stored
    found = estimated(value, math.sqrt(value * (1 - value) / count))
    return beside_the_edge(found, round(count))


def percent(found: Interval) -> str:
    """A share with its interval."""
    return f"{found.value:.1%} ({max(found.low, 0):.1%} to {min(found.high, 1):.1%})"


def listed(parts: Sequence[str]) -> str:
    """Join words: a; a and b; a, b, and c."""
    *first, last = parts or [""]
    if len(first) < 2:
        return " and ".join(parts)
    return f"{', '.join(first)}, and {last}"
