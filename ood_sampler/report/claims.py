"""A question about a run, and the rows that answer it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ood_sampler.report.tables import IN_DOMAIN, Results, Row, figure, number, strategy
from ood_sampler.statistics.decision import TOO_FEW, Outcome, Pool, advice, estimated
from ood_sampler.statistics.resampling import Interval, beside_the_edge

UNSURE = "too few to say"
"""Answer to what the images leave open."""

DISPUTED = "judges disagree"
"""Answer to what one judge shows and another refutes."""

Answered: TypeAlias = Outcome | Literal["disputed"]
"""What is found of a claim, by one judge or by several."""


@dataclass(frozen=True)
class Verdict:
    """A question about a run and its answer.

    Attributes:
        key: the question in a word or two, for files.
        question: In a few words.
        outcome: Whether a yes is shown or refuted, too few images leave it open, or judges dispute
            it.
        answer: In a word or two.
        sentence: The answer with the figures it rests on, and how many images would settle it.
        fault: what a no says of the samples, as the conclusion puts it.
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
        """The verdict as it stands in a file."""
        return {key: value for key, value in vars(self).items() if key not in ("fault", "judged")}


@dataclass(frozen=True)
class Subject:
    """Rows of a run by what they are for, and how many held-out pictures there are."""

    row: Row
    real: Row | None
    ceiling: Row | None
    controls: Sequence[Row]
    held_out: float | None

    @classmethod
    def of(cls, results: Results) -> "Subject":
        """Find them among the results of a run."""
        references = [row for row in results["rows"] if row["role"] == "reference"]
        return cls(
            row=strategy(results),
            real=next((row for row in references if row["name"] != IN_DOMAIN), None),
            ceiling=next((row for row in references if row["name"] == IN_DOMAIN), None),
            controls=[row for row in results["rows"] if row["role"] == "control"],
            held_out=number((results.get("protocol") or {}).get("held-out pictures")),
        )

    def too_few(
        self, factor: float | None, *, held_out: bool = False, few_shot: bool = False
    ) -> str:
        """Say how many images would settle a claim that rests on the samples and other sets."""
        sizes = [(number(self.row.get("samples")), "samples", "num_samples")]
        if held_out:
            sizes.append((self.held_out, "held-out pictures", "data.held_out"))
        if few_shot and self.real is not None:
            count = number(self.real.get("samples"))
            sizes.append((count, "few-shot pictures", "data.few_shot"))
        pools = [Pool(round(count), name, key) for count, name, key in sizes if count]
        told = f": {advice(factor, *pools)}" if pools else ""
        return f"{TOO_FEW.capitalize()}{told}."


def kid_interval(row: Row | None) -> Interval | None:
    """The KID of a row with its interval, of two standard errors if it has none; None without."""
    value, error, low, high = (
        number((row or {}).get(key)) for key in ("kid", "kid_standard_error", "kid_low", "kid_high")
    )
    if value is None or error is None:
        return None
    if low is not None and high is not None:
        return Interval(value, low, high)
    return estimated(value, error)


def kid_text(row: Row) -> str:
    """The same, as the tables show it."""
    return f"({figure('kid', row)}) × 10⁻³".replace(" ", "\N{NO-BREAK SPACE}")


def share_interval(row: Row | None, key: str) -> Interval | None:
    """A share of the images of a row; its interval is that of independent draws if it has none."""
    value, low, high, count = (
        number((row or {}).get(name)) for name in (key, f"{key}_low", f"{key}_high", "samples")
    )
    if value is None:
        return None
    if low is not None and high is not None:
        return Interval(value, low, high)
    if not count:
        return None
    found = estimated(value, math.sqrt(value * (1 - value) / count))
    return beside_the_edge(found, round(count))


def percent(found: Interval) -> str:
    """A share with its interval."""
    return f"{found.value:.1%} ({max(found.low, 0):.1%} to {min(found.high, 1):.1%})"
