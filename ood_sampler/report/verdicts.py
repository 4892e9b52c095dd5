"""What the figures of a run say, in sentences computed from them.

Each question is a claim about an interval (`ood_sampler.report.decision`); margins of claims of
"as good as" stand with the questions (`ood_sampler.report.nearness`, `ood_sampler.report.novelty`).
"""

from collections.abc import Sequence

from ood_sampler.report.claims import Subject, Verdict
from ood_sampler.report.decision import TOO_FEW, Outcome
from ood_sampler.report.nearness import against_controls, against_in_domain, against_real
from ood_sampler.report.novelty import LOST, blends, copies, kept, varied
from ood_sampler.report.tables import Results

_TOO_FEW = TOO_FEW.capitalize()
_DOUBTS = {
    "new": "whether they are new",
    "more_than_blends": "whether they are more than double exposures",
    "kept": "whether they stay in the target domain",
}
_NEARER = "The samples are nearer to the target domain than the model's own pictures"
_MODEL: dict[Outcome, str] = {
    "shown": "The frozen model does better than mixing the few-shot pictures without it.",
    "unclear": f"{_TOO_FEW} whether the frozen model does better than mixing the "
    "few-shot pictures without it.",
    "refuted": "Mixing the few-shot pictures without the model does better.",
}


def verdicts(results: Results) -> list[Verdict]:
    """Judge a run; a question whose figures are missing is left out."""
    run = Subject.of(results)
    judged = [
        against_in_domain(run),
        against_controls(run),
        against_real(run),
        copies(run),
        blends(run, results.get("distributions", {}).get("blend_pair", {})),
        kept(run),
        varied(run),
    ]
    return [verdict for verdict in judged if verdict is not None]


def conclusion(judged: Sequence[Verdict]) -> str:
    """Sum the verdicts up in a few sentences; empty where what it rests on is missing."""
    found = {verdict.key: verdict for verdict in judged}
    if not {"reached", "new"} <= set(found):
        return ""
    if found["reached"].outcome == "refuted" or ("kept" in found and found["kept"].answer == LOST):
        return "The target domain was not reached."
    if found["reached"].outcome == "unclear":
        return f"{_TOO_FEW} whether the target domain was reached."
    faults = [v.fault for v in judged if v.fault and v.outcome == "refuted"]
    doubts = [text for k, text in _DOUBTS.items() if k in found and found[k].outcome == "unclear"]
    # what is shown: that they are as near as real pictures, or only nearer than the model's own
    as_real = "as_near_as_real" in found and found["as_near_as_real"].outcome == "shown"
    told = "The samples look like the target domain" if as_real else _NEARER
    if faults:
        told += f", but they are {_listed(faults)}"
    elif found["new"].outcome == "shown":
        told += ", and they are new"
    sentences = [f"{told}."]
    if doubts:
        sentences.append(f"{_TOO_FEW} {_listed(doubts)}.")
    if "better_than_pixels" in found:
        sentences.append(_MODEL[found["better_than_pixels"].outcome])
    return " ".join(sentences)


def _listed(parts: Sequence[str]) -> str:
    *first, last = parts
    if len(first) < 2:
        return " and ".join(parts)
    return f"{', '.join(first)}, and {last}"
