"""What the figures of a run say, in sentences computed from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles, variance
from typing import Literal

from ood_sampler.metrics.intervals import STANDARD_ERRORS
from ood_sampler.report.tables import (
    IN_DOMAIN,
    Results,
    Row,
    figure,
    figure_with_interval,
    number,
    strategy,
)

Order = Literal["lower", "higher", "same"]

_STANDARD_ERRORS = 2
"""Differences within this many standard errors are not told apart."""

_AUTHENTICITY = 0.5
"""Expected of new pictures where the authenticity of real ones is not known."""

_CAPTURED_FEW, _CAPTURED_MANY = 0.05, 0.5

_INTERVAL = 2 * STANDARD_ERRORS
"""Standard errors in an interval of 95%."""

_REACHED = "Nearer to the target than the model's own pictures?"
_CONTROLS = "Better than mixing the few-shot pictures themselves?"
_COPIES = "New, rather than copies?"
_BLENDS = "More than blends of two few-shot pictures?"
_KEPT = "Still in the target domain?"

_DEEP_RANK = 0.95
"""Share of the real pictures below the blend score that samples are held against."""


@dataclass(frozen=True)
class Verdict:
    """A question about a run and its answer.

    Attributes:
        question: In a few words.
        outcome: Whether the answer is what one hopes for; open where the figures leave it so.
        answer: In a word or two.
        sentence: The answer with the figures it rests on.
    """

    question: str
    outcome: Literal["good", "bad", "open"]
    answer: str
    sentence: str


def order(a: float, error_a: float, b: float, error_b: float) -> Order:
    """Tell whether `a` is lower or higher than `b` by more than two standard errors.

    The errors count as independent. Two KIDs against the same held-out pictures are positively
    correlated, so that the rule errs towards "same".
    """
    margin = _STANDARD_ERRORS * math.hypot(error_a, error_b)
    if abs(a - b) <= margin:
        return "same"
    return "lower" if a < b else "higher"


def verdicts(results: Results) -> list[Verdict]:
    """Judge a run; a question whose figures are missing is left out."""
    row = strategy(results)
    references = [other for other in results["rows"] if other["role"] == "reference"]
    controls = [other for other in results["rows"] if other["role"] == "control"]
    ceiling = next((other for other in references if other["name"] == IN_DOMAIN), None)
    real = next((other for other in references if other["name"] != IN_DOMAIN), None)
    judged = [
        _against_in_domain(row, ceiling),
        _against_controls(row, controls),
        _against_real(row, real),
        _copies(row, real),
        _blends(row, results.get("distributions", {}).get("blend_pair", {})),
        _captured(row),
        _varied(row, real),
    ]
    return [verdict for verdict in judged if verdict is not None]


def conclusion(judged: Sequence[Verdict]) -> str:
    """Sum the verdicts up in a sentence or two; empty where what it rests on is missing."""
    outcomes = {verdict.question: verdict.outcome for verdict in judged}
    if not {_REACHED, _COPIES} <= set(outcomes):
        return ""
    if outcomes[_REACHED] != "good" or outcomes.get(_KEPT) == "bad":
        return "The target domain was not reached."
    faults = [
        fault
        for question, fault in (
            (_COPIES, "partly copies of the few-shot pictures"),
            (_BLENDS, "closer to double exposures of them than real pictures are"),
        )
        if outcomes.get(question) == "bad"
    ]
    reached = "The samples look like the target domain"
    found = f"{reached}, but they are {' and '.join(faults)}." if faults else f"{reached} and new."
    model = {
        "good": "The frozen model does better than mixing the few-shot pictures without it.",
        "open": "Mixing the few-shot pictures without the model does about as well.",
        "bad": "Mixing the few-shot pictures without the model does better.",
    }
    return f"{found} {model[outcomes[_CONTROLS]]}" if _CONTROLS in outcomes else found


def _kid_order(row: Row, other: Row | None) -> Order | None:
    if other is None:
        return None
    values = [number(r.get(key)) for r in (row, other) for key in ("kid", "kid_standard_error")]
    a, error_a, b, error_b = values
    if a is None or error_a is None or b is None or error_b is None:
        return None
    return order(a, error_a, b, error_b)


def _kid(row: Row) -> str:
    return f"({figure('kid', row)}) × 10⁻³".replace(" ", "\N{NO-BREAK SPACE}")


def _times(row: Row, other: Row) -> str:
    """Say how many times lower a KID is, where the ratio of the two is meaningful."""
    a, error, b = (float(v) for v in (row["kid"], row["kid_standard_error"], other["kid"]))
    if a > _STANDARD_ERRORS * error:
        return f"about {_two_digits(b / a)} times lower than"
    return f"at least {_two_digits(b / (a + _STANDARD_ERRORS * error))} times lower than"


def _two_digits(ratio: float) -> str:
    return f"{float(f'{ratio:.2g}'):g}"


def _against_in_domain(row: Row, ceiling: Row | None) -> Verdict | None:
    question = _REACHED
    found = _kid_order(row, ceiling)
    if found is None or ceiling is None:
        return None
    if found == "lower":
        return Verdict(
            question,
            "good",
            "yes",
            f"The KID of the samples, {_kid(row)}, is {_times(row, ceiling)} that of samples the "
            f"model draws from pure noise, {_kid(ceiling)}.",
        )
    if found == "higher":
        return Verdict(
            question,
            "bad",
            "no",
            f"The KID of the samples, {_kid(row)}, is higher than that of samples the model draws "
            f"from pure noise, {_kid(ceiling)}: the target domain was missed altogether.",
        )
    return Verdict(
        question,
        "bad",
        "cannot be told apart",
        f"The KID of the samples, {_kid(row)}, cannot be told apart from that of samples the model "
        f"draws from pure noise, {_kid(ceiling)}: nothing of the target domain was reached.",
    )


def _against_controls(row: Row, controls: Sequence[Row]) -> Verdict | None:
    question = _CONTROLS
    compared = [
        (found, control) for control in controls if (found := _kid_order(row, control)) is not None
    ]
    if not compared:
        return None
    phrases: dict[Order, str] = {
        "lower": "lower than that of",
        "higher": "higher than that of",
        "same": "not to be told apart from that of",
    }
    listed = "; ".join(
        f"{phrases[found]} {control['name']}, {_kid(control)}" for found, control in compared
    )
    figures = f"The KID of the samples, {_kid(row)}, is {listed}."
    orders = {found for found, _ in compared}
    if orders == {"lower"}:
        return Verdict(
            question,
            "good",
            "yes",
            f"{figures} By this measure the frozen model adds something that a mixture of pixels "
            "does not have.",
        )
    if "higher" in orders:
        return Verdict(
            question,
            "bad",
            "no",
            f"{figures} By this measure the same few-shot pictures serve better without the "
            "frozen model.",
        )
    return Verdict(
        question,
        "open",
        "cannot be told apart",
        f"{figures} KID does not show that the frozen model contributes anything here; compare "
        "the other figures, blends above all.",
    )


def _against_real(row: Row, real: Row | None) -> Verdict | None:
    question = "As near to the held-out pictures as real ones?"
    found = _kid_order(row, real)
    if found is None or real is None:
        return None
    figures = f"{_kid(row)} against {_kid(real)}"
    if found == "higher":
        return Verdict(
            question,
            "open",
            "not yet",
            f"The KID of the samples is higher than that of the real few-shot pictures, "
            f"{figures}: the feature network still sees a difference.",
        )
    closer = " or is even below it" if found == "lower" else ""
    return Verdict(
        question,
        "good",
        "yes",
        f"The KID of the samples cannot be told apart from that of the real few-shot "
        f"pictures{closer}: {figures}. Copies would pass this test too: see the next two.",
    )


def _copies(row: Row, real: Row | None) -> Verdict | None:
    question = _COPIES
    value, images = number(row.get("authenticity")), number(row.get("samples"))
    if value is None or not images:
        return None
    known = None if real is None else number(real.get("authenticity"))
    if real is None or known is None:
        expected, error = _AUTHENTICITY, 0.0
        source = f"about {expected} is expected of new pictures"
    else:
        expected, error = known, _share_error(known, number(real.get("samples")) or math.inf)
        source = f"real held-out pictures reach {figure_with_interval('authenticity', real)}"
    figures = f"Authenticity is {figure_with_interval('authenticity', row)}; {source}."
    found = order(value, _share_error(value, images), expected, error)
    if found == "lower":
        copies = 1 - value / expected
        return Verdict(
            question,
            "bad",
            "partly copies" if value > 0 else "copies",
            f"{figures} It is as if {copies:.0%} of the samples were copies of few-shot pictures "
            "and the rest new.",
        )
    if found == "higher":
        return Verdict(
            question,
            "good",
            "new",
            f"{figures} The samples are no copies; they lie farther from the few-shot pictures "
            "than real ones do, which may also mean that they left the domain: see precision.",
        )
    return Verdict(
        question, "good", "new", f"{figures} The samples are as far from copies as real pictures."
    )


def _share_error(share: float, count: float) -> float:
    """Standard error of a share of independent draws."""
    return math.sqrt(share * (1 - share) / count)


def _blends(row: Row, scores: Results) -> Verdict | None:
    question = _BLENDS
    samples, held_out = (
        [value for x in scores.get(key) or () if (value := number(x)) is not None]
        for key in ("samples", "held_out")
    )
    if min(len(samples), len(held_out)) < 2:
        return None
    error_samples, error_held_out = (math.sqrt(variance(v) / len(v)) for v in (samples, held_out))
    limit = quantiles(held_out, n=round(1 / (1 - _DEEP_RANK)), method="inclusive")[-1]
    beyond = sum(value > limit for value in samples) / len(samples)
    figures = (
        f"The best two few-shot pictures explain {fmean(samples):.0%} of the variance of a sample, "
        f"against {fmean(held_out):.0%} of a real held-out picture."
    )
    found = order(fmean(samples), error_samples, fmean(held_out), error_held_out)
    if found != "higher":
        return Verdict(
            question,
            "good",
            "yes",
            f"{figures} The samples are no more like double exposures than real pictures are.",
        )
    return Verdict(
        question,
        "bad",
        "blends",
        f"{figures} {beyond:.0%} of the samples exceed what {1 - _DEEP_RANK:.0%} of the real "
        "pictures exceed: they are closer to double exposures than new pictures would be.",
    )


def _captured(row: Row) -> Verdict | None:
    question = _KEPT
    value = number(row.get("captured"))
    if value is None:
        return None
    low, high = (number(row.get(f"captured_{end}")) for end in ("low", "high"))
    interval = "" if low is None or high is None else f" ({low:.1%} to {high:.1%})"
    lost = (
        f"{value:.1%}{interval} of the samples lie nearer to the model's own domain than to the "
        "target."
    )
    if value <= _CAPTURED_FEW:
        return Verdict(question, "good", "yes", lost)
    remedy = "A lower inversion.step or decode.eta keeps more of the target."
    if value < _CAPTURED_MANY:
        return Verdict(question, "open", "mostly", f"{lost} {remedy}")
    return Verdict(question, "bad", "captured", f"{lost} {remedy}")


def _varied(row: Row, real: Row | None) -> Verdict | None:
    question = "As varied as real pictures?"
    if real is None:
        return None
    values = [number(r.get("diversity")) for r in (row, real)]
    errors = [_error("diversity", r) for r in (row, real)]
    a, b, error_a, error_b = *values, *errors
    if a is None or b is None or error_a is None or error_b is None:
        return None
    figures = (
        f"Samples with the same nearest few-shot picture are "
        f"{figure_with_interval('diversity', row)} apart, over "
        f"{figure('diversity_clusters', row)} such pictures; real held-out pictures "
        f"{figure_with_interval('diversity', real)}, over {figure('diversity_clusters', real)}."
    )
    found = order(a, error_a, b, error_b)
    if found == "lower":
        return Verdict(
            question, "bad", "less varied", f"{figures} The samples are more like each other."
        )
    if found == "higher":
        return Verdict(
            question,
            "open",
            "farther apart",
            f"{figures} The samples differ more than real pictures do, which may also mean that "
            "some left the domain: see precision.",
        )
    return Verdict(question, "good", "yes", f"{figures} The two cannot be told apart.")


def _error(key: str, row: Row) -> float | None:
    """Standard error of a figure from its interval."""
    low, high = (number(row.get(f"{key}_{end}")) for end in ("low", "high"))
    return None if low is None or high is None else (high - low) / _INTERVAL
