"""Verdicts on a run, in sentences computed from its metrics.

Each question is a claim about an interval (`ood_sampler.statistics.decision`); margins of claims of
"as good as" stand with the questions (`ood_sampler.report.nearness`, `ood_sampler.report.novelty`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ood_sampler.metrics.opinions import as_judged, second_judges
from ood_sampler.report.claims import DISPUTED, Answered, Subject, Verdict, listed
from ood_sampler.report.nearness import (
    TRADE,
    against_controls,
    against_in_domain,
    against_real,
)
from ood_sampler.report.novelty import LOST, blends, copies, kept, varied
from ood_sampler.report.tables import Results, judges_of
from ood_sampler.statistics.decision import TOO_FEW

_TOO_FEW = TOO_FEW.capitalize()
_OPEN: dict[Answered, str] = {"unclear": _TOO_FEW, "disputed": "The judges disagree"}
_DOUBTS = {
    "new": "whether they are new",
    "more_than_blends": "whether they are more than double exposures",
    "kept": "whether they stay in the target domain",
}
_NEARER = "The samples are nearer to the target domain than the model's own images"
_BETTER = "the frozen model does better than mixing the few-shot images without it."
_MODEL: dict[Answered, str] = {
    "shown": f"{_BETTER[0].upper()}{_BETTER[1:]}",
    "unclear": f"{_TOO_FEW} whether {_BETTER}",
    "refuted": "Mixing the few-shot images without the model does better.",
    "disputed": f"The judges disagree whether {_BETTER}",
}

_TRADED = "Mixing the few-shot images without the model is nearer, and less new."


def judged(results: Results) -> dict[str, Any]:
    """The results of a run with its verdicts and their conclusion, as stored."""
    found = verdicts(results)
    return {
        **results,
        "verdicts": [verdict.as_dict() for verdict in found],
        "conclusion": conclusion(found),
    }


def verdicts(results: Results) -> list[Verdict]:
    """Judge a run; a question whose metrics are missing is left out.

    The headline judge answers. If another refutes what it shows, or the reverse, the answer is that
    they disagree; else the opinions of the others follow the answer.
    """
    others = {judge: _opinion(results, judge) for judge in second_judges(results["rows"])}
    headline = next(iter(judges_of(results)), "headline judge")
    return [
        _together(
            verdict,
            headline,
            {judge: found[key] for judge, found in others.items() if key in found},
        )
        for key, verdict in _opinion(results, None).items()
    ]


def _opinion(results: Results, judge: str | None) -> dict[str, Verdict]:
    """The verdicts of one judge by key; None is the headline."""
    rows = [as_judged(row, judge) for row in results["rows"]]
    run = Subject.of({**results, "rows": rows})
    answered = [
        against_in_domain(run),
        against_controls(run),
        against_real(run),
        copies(run),
        blends(run, results.get("distributions", {}).get("blend_pair", {})),
        kept(run),
        varied(run),
    ]
    return {verdict.key: verdict for verdict in answered if verdict is not None}


def _together(verdict: Verdict, headline: str, others: Mapping[str, Verdict]) -> Verdict:
    if not (verdict.judged and others):
        return verdict
    for judge, other in others.items():
        if {verdict.outcome, other.outcome} == {"shown", "refuted"}:
            return replace(
                verdict,
                outcome="disputed",
                answer=DISPUTED,
                sentence=f"{_said(headline, verdict)} {_said(judge, other)}",
                fault="",
            )
    # the same outcome may have opposite answers, as less varied and farther apart
    alike = [
        judge
        for judge, other in others.items()
        if (other.outcome, other.answer) == (verdict.outcome, verdict.answer)
    ]
    told = [f"{headline} says so{''.join(f', {judge} too' for judge in alike)}."]
    told += [_said(judge, other) for judge, other in others.items() if judge not in alike]
    return replace(verdict, sentence=" ".join([verdict.sentence, *told]))


def _said(judge: str, verdict: Verdict) -> str:
    return f"{judge} says {verdict.answer}: {verdict.sentence}"


def conclusion(answered: Sequence[Verdict]) -> str:
    """Sum the verdicts up in a few sentences; empty if those it rests on are missing."""
    found = {verdict.key: verdict for verdict in answered}
    if not {"reached", "new"} <= set(found):
        return ""
    if found["reached"].outcome == "refuted" or ("kept" in found and found["kept"].answer == LOST):
        return "The target domain was not reached."
    if found["reached"].outcome in _OPEN:
        return f"{_OPEN[found['reached'].outcome]} whether the target domain was reached."
    faults = [v.fault for v in answered if v.fault and v.outcome == "refuted"]
    # as near as real images is more than nearer than the model's own
    as_real = "as_near_as_real" in found and found["as_near_as_real"].outcome == "shown"
    told = "The samples look like the target domain" if as_real else _NEARER
    if faults:
        told += f", but they are {listed(faults)}"
    elif found["new"].outcome == "shown":
        told += ", and they are new"
    sentences = [f"{told}."]
    for outcome, words in _OPEN.items():
        doubts = [text for k, text in _DOUBTS.items() if k in found and found[k].outcome == outcome]
        if doubts:
            sentences.append(f"{words} {listed(doubts)}.")
    if "better_than_pixels" in found:
        better = found["better_than_pixels"]
        sentences.append(_TRADED if better.answer == TRADE else _MODEL[better.outcome])
    return " ".join(sentences)
