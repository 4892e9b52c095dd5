"""Questions about samples: copies, blends, captured, varied?

A yes needs an interval within a stated margin of real images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, quantiles, stdev

from ood_sampler.report.claims import UNSURE, Subject, Verdict, percent, share_interval
from ood_sampler.report.columns import number, stored_interval
from ood_sampler.report.run_columns import figure, figure_with_interval
from ood_sampler.statistics.decision import Decision, Outcome, decide, estimated
from ood_sampler.statistics.intervals import difference_interval
from ood_sampler.statistics.resampling import Interval

_AUTHENTICITY = 0.5
"""Expected of new images if the authenticity of real ones is unknown."""

_LESS_NEW = 0.1
"""Deficit of authenticity that still counts as new, unless near-copies were counted."""

_NEAR_COPIES = 0.01
"""Share of held-out images that are near-copies by definition."""

_SMALL_EFFECT = 0.2
"""Standard deviations by which blend scores may exceed real ones (Cohen, 1988: small)."""

_DEEP_RANK = 0.95
"""Share of real images below the blend score that samples are compared with."""

_CAPTURED_FEW, _CAPTURED_MANY = 0.05, 0.5

_TAIL = 0.025
"""Share of cases beyond each end of an interval."""

_AS_VARIED = 0.1
"""Share of the diversity of real images by which that of samples may differ."""

LOST = "captured"
"""Answer if most samples fell to the model's own domain."""


def copies(run: Subject) -> Verdict | None:
    """Whether samples are new: near-copies count first, as authenticity misses them."""
    near = share_interval(run.row, "near_copies")
    authenticity = share_interval(run.row, "authenticity")
    judged = []
    if near is not None:
        judged.append(_near_copies(run, near))
    if authenticity is not None and not (judged and judged[0].outcome == "refuted"):
        judged.append(_authenticity(run, authenticity, counted=near is not None))
    if not judged:
        return None
    told = next((v for v in judged if v.outcome == "refuted"), judged[0])
    # the first decides unless the second refutes; both are stated
    return replace(told, sentence=" ".join(verdict.sentence for verdict in judged))


def _near_copies(run: Subject, near: Interval) -> Verdict:
    real = share_interval(run.real, "near_copies")
    known = _NEAR_COPIES if real is None else real.value
    limit = 2 * max(known, _NEAR_COPIES) + 0.01
    decision = _below(run, near, limit)
    of_held_out = real is not None and decision.outcome == "refuted"
    if real is not None and of_held_out:
        # too few held-out images leave the share of near-copies among new ones uncertain
        decision = decide(difference_interval(near, real), most=limit - known)
    fewer = run.held_out is not None and run.held_out < 1 / _NEAR_COPIES
    others = "any held-out image is" if fewer else "99% of held-out images are to theirs"
    figures = (
        f"{percent(near)} of the samples are near-copies, nearer to a few-shot image than "
        f"{others}; {known:.1%} of real images, and at most {limit:.0%} count as new."
    )
    answers = {"shown": "new", "refuted": "no: near-copies", "unclear": UNSURE}
    said = ""
    if decision.outcome == "unclear":
        said = run.too_few(decision.factor, held_out=of_held_out)
    return _on_copies(
        decision.outcome,
        answers[decision.outcome],
        f"{figures} {said}".rstrip(),
        f"in part near-copies of the few-shot images ({near.value:.0%})",
    )


def _authenticity(run: Subject, found: Interval, *, counted: bool) -> Verdict:
    """The verdict of authenticity; after near-copies were counted it can only refute."""
    known = share_interval(run.real, "authenticity")
    source = f"about {_AUTHENTICITY} is expected of new images"
    if known is not None and run.real is not None:
        source = f"real held-out images reach {figure_with_interval('authenticity', run.real)}"
    expected = known or Interval(_AUTHENTICITY, _AUTHENTICITY, _AUTHENTICITY)
    figures = f"Authenticity is {figure_with_interval('authenticity', run.row)}; {source}."
    lower = difference_interval(found, expected)
    if decide(lower, most=0).outcome == "shown":
        return _on_copies(
            "refuted",
            "partly copies" if found.value > 0 else "copies",
            f"{figures} It is as if {1 - found.value / expected.value:.0%} of the samples were "
            "copies of few-shot images and the rest new.",
            "partly copies of the few-shot images",
        )
    decision = decide(lower, least=-_LESS_NEW)
    if counted and decision.outcome == "unclear":
        return _on_copies("unclear", UNSURE, f"{figures} It is not shown to be lower.")
    if decision.outcome == "unclear":
        said = f"As new would be at most {_LESS_NEW} lower. "
        said += run.too_few(decision.factor, held_out=known is not None)
        return _on_copies("unclear", UNSURE, f"{figures} {said}")
    if lower.low > 0:
        said = (
            "The samples lie farther from the few-shot images than real ones do, which may also "
            "mean that they left the domain: see precision."
        )
    else:
        said = f"The samples are as far from copies as real images, to within {_LESS_NEW}."
    return _on_copies("shown", "new", f"{figures} {said}")


def _on_copies(outcome: Outcome, answer: str, sentence: str, fault: str = "") -> Verdict:
    return Verdict("new", "New, rather than copies?", outcome, answer, sentence, fault)


def blends(run: Subject, scores: Mapping[str, Sequence[object]]) -> Verdict | None:
    """Whether two few-shot images explain samples no better than held-out images."""
    samples, held_out = (
        [value for x in scores.get(key) or () if (value := number(x)) is not None]
        for key in ("samples", "held_out")
    )
    if min(len(samples), len(held_out)) < 2:
        return None
    intervals = [estimated(fmean(v), stdev(v) / math.sqrt(len(v))) for v in (samples, held_out)]
    margin = _SMALL_EFFECT * stdev(held_out)
    decision = decide(difference_interval(*intervals), most=margin)
    limit = quantiles(held_out, n=round(1 / (1 - _DEEP_RANK)), method="inclusive")[-1]
    beyond = sum(value > limit for value in samples) / len(samples)
    figures = (
        f"The best two few-shot images explain {fmean(samples):.0%} of the variance of a sample, "
        f"against {fmean(held_out):.0%} of a real held-out image."
    )
    within = f"{margin:.1%} (a fifth of the spread of real images)"
    answer, said = {
        "shown": (
            "yes",
            "The samples are no more like double exposures than real images are, to within "
            f"{within}.",
        ),
        "refuted": (
            "blends",
            f"{beyond:.0%} of the samples exceed what {1 - _DEEP_RANK:.0%} of the real images "
            "exceed: they are closer to double exposures than new images would be.",
        ),
        "unclear": (
            UNSURE,
            f"At most {within} more would be like real images. "
            f"{run.too_few(decision.factor, held_out=True)}",
        ),
    }[decision.outcome]
    return Verdict(
        "more_than_blends",
        "More than blends of two few-shot images?",
        decision.outcome,
        answer,
        f"{figures} {said}",
        "closer to double exposures of few-shot images than real ones are",
        judged=False,
    )


def kept(run: Subject) -> Verdict | None:
    """Whether few samples are captured by the model's own domain."""
    found = share_interval(run.row, "captured")
    if found is None:
        return None
    decision = _below(run, found, _CAPTURED_FEW)
    limit = f"at most {_CAPTURED_FEW:.0%} count as none."
    real = share_interval(run.real, "captured")
    if real is not None and decision.outcome == "refuted":
        # if both domains are alike, real images of the target lie there too
        decision = decide(difference_interval(found, real), most=_CAPTURED_FEW)
        limit = f"of real images {percent(real)} do, and {_CAPTURED_FEW:.0%} more count as none."
    lost = (
        f"{percent(found)} of the samples lie nearer to the model's own domain than to the target; "
        f"{limit}"
    )
    remedy = "A lower inversion.step or decode.eta keeps more of the target."
    mostly = "mostly" if found.value < _CAPTURED_MANY else LOST
    answer, said = {
        "shown": ("yes", ""),
        "refuted": (mostly, remedy),
        "unclear": (UNSURE, run.too_few(decision.factor)),
    }[decision.outcome]
    return Verdict(
        "kept",
        "Still in the target domain?",
        decision.outcome,
        answer,
        f"{lost} {said}".rstrip(),
        f"in part captured by the model's own domain ({found.value:.0%})",
    )


def _below(run: Subject, share: Interval, limit: float) -> Decision:
    r"""Whether a share of the samples is below a limit.

    The interval of a share of 0 is not normal: with $\log \alpha / \log(1 - \text{limit})$ images,
    none of which counts, it ends below the limit (Clopper & Pearson, 1934).
    """
    decision, count = decide(share, most=limit), number(run.row.get("samples"))
    if decision.outcome == "unclear" and share.value == 0 and count:
        return Decision("unclear", math.log(_TAIL) / math.log(1 - limit) / count)
    return decision


def varied(run: Subject) -> Verdict | None:
    """Whether samples with one nearest few-shot image differ as held-out images do."""
    found, other = (stored_interval(row or {}, "diversity") for row in (run.row, run.real))
    if found is None or other is None or run.real is None:
        return None
    apart, margin = difference_interval(found, other), _AS_VARIED * other.value
    decision = decide(apart, least=-margin, most=margin)
    figures = (
        f"Samples with the same nearest few-shot image are "
        f"{figure_with_interval('diversity', run.row)} apart, over "
        f"{figure('diversity_clusters', run.row)} such images; real held-out images "
        f"{figure_with_interval('diversity', run.real)}, over "
        f"{figure('diversity_clusters', run.real)}."
    )
    less = ("less varied", "The samples are more like each other.")
    more = (
        "farther apart",
        "The samples differ more than real images do, which may also mean that some left the "
        "domain: see precision.",
    )
    answer, said = {
        "shown": ("yes", f"The two are alike to within {_AS_VARIED:.0%}."),
        "refuted": less if apart.value < 0 else more,
        "unclear": (
            UNSURE,
            f"As varied would be within {_AS_VARIED:.0%} of real images. "
            f"{run.too_few(decision.factor, held_out=True)}",
        ),
    }[decision.outcome]
    return Verdict(
        "as_varied",
        "As varied as real images?",
        decision.outcome,
        answer,
        f"{figures} {said}",
    )
