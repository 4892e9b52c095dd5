"""Questions about KID: samples against own samples, pixel controls and real images."""

from collections.abc import Mapping

from ood_sampler.report.claims import (
    UNSURE,
    Subject,
    Verdict,
    kid_interval,
    kid_text,
    share_interval,
)
from ood_sampler.report.columns import Row, stored_interval
from ood_sampler.report.run_columns import figure
from ood_sampler.statistics.decision import Decision, Outcome, all_of, decide
from ood_sampler.statistics.intervals import difference_interval
from ood_sampler.statistics.resampling import Interval

TRADE = "nearer or newer"
"""Answer where what is nearer is less new, and nothing is as new."""

_NEAR = 0.05
"""Share of the distance from real images to the model's own; this much farther is as near."""

_KID_OF_CONTROL: Mapping[Outcome, str] = {
    "shown": "lower than that of",
    "refuted": "higher than that of",
    "unclear": "not to be told apart from that of",
}
"""How the KID of the samples compares with that of a control."""


def against_in_domain(run: Subject) -> Verdict | None:
    """Whether samples are nearer to the target than the model's samples from pure noise."""
    found, other = kid_interval(run.row), kid_interval(run.ceiling)
    if found is None or other is None or run.ceiling is None:
        return None
    decision = decide(_apart(found, other, run.ceiling), most=0)
    own = f"samples the model draws from pure noise, {kid_text(run.ceiling)}"
    answer, said = {
        "shown": ("yes", f"is {_times(found, other)} that of {own}."),
        "refuted": (
            "no",
            f"is higher than that of {own}: the target domain was missed altogether.",
        ),
        "unclear": (
            UNSURE,
            f"cannot be told apart from that of {own}. "
            f"{run.too_few(decision.factor, held_out=True)}",
        ),
    }[decision.outcome]
    return Verdict(
        "reached",
        "Nearer to the target than the model's own images?",
        decision.outcome,
        answer,
        f"The KID of the samples, {kid_text(run.row)}, {said}",
    )


def against_controls(run: Subject) -> Verdict | None:
    """Whether samples are nearer than every mixture of the few-shot images without the model.

    A mixture that is nearer and less new than the samples, both shown, refutes nothing: copies are
    nearest.
    """
    compared, less_new = _sorted_controls(run)
    if not compared and not less_new:
        return None
    told = [
        f"{_KID_OF_CONTROL[decision.outcome]} {control['name']}, {kid_text(control)}"
        for decision, control in compared
    ]
    told += [
        f"higher than that of {control['name']}, {kid_text(control)}, which is less new "
        f"(authenticity {figure('authenticity', control)})"
        for control in less_new
    ]
    decision = all_of([each for each, _ in compared]) if compared else Decision("unclear")
    # one fitted to the few-shot images has no domain of its own
    model = "the model" if run.ceiling is None else "the frozen model"
    answer, said = {
        "shown": (
            "yes",
            f"By this measure {model} adds something that a mixture of pixels does not have.",
        ),
        "refuted": (
            "no",
            f"By this measure the same few-shot images serve better without {model}.",
        ),
        "unclear": (
            UNSURE,
            f"{run.too_few(decision.factor, held_out=True)} Compare the other figures, blends "
            "above all.",
        ),
    }[decision.outcome]
    if not compared:
        answer = TRADE
        said = (
            "All mixtures are nearer and less new: experiment=frontier compares at equal novelty."
        )
    return Verdict(
        "better_than_pixels",
        "Better than mixing the few-shot images themselves?",
        decision.outcome,
        answer,
        f"The KID of the samples, {kid_text(run.row)} at authenticity "
        f"{figure('authenticity', run.row)}, is {'; '.join(told)}. {said}",
    )


def _sorted_controls(run: Subject) -> tuple[list[tuple[Decision, Row]], list[Row]]:
    """Controls with the claim that samples are nearer, and those nearer but less new."""
    found = kid_interval(run.row)
    compared: list[tuple[Decision, Row]] = []
    less_new: list[Row] = []
    for control in run.controls:
        other = kid_interval(control)
        if found is None or other is None:
            continue
        decision = decide(_apart(found, other, control), most=0)
        if decision.outcome == "refuted" and _is_less_new(control, run.row):
            less_new.append(control)
        else:
            compared.append((decision, control))
    return compared, less_new


def _is_less_new(control: Row, samples: Row) -> bool:
    """Whether the authenticity of a control is shown to be below that of the samples."""
    found, other = (share_interval(row, "authenticity") for row in (control, samples))
    if found is None or other is None:
        return False
    return decide(difference_interval(found, other), most=0).outcome == "shown"


def against_real(run: Subject) -> Verdict | None:
    """Whether samples are as near to the held-out images as the few-shot ones, to a margin.

    None unless the model's own samples lie farther away, which gives the margin.
    """
    found, other, own = (kid_interval(row) for row in (run.row, run.real, run.ceiling))
    if found is None or other is None or own is None or run.real is None:
        return None
    margin = _NEAR * (own.value - other.value)
    if margin <= 0:
        return None
    apart = _apart(found, other, run.real)
    decision = decide(apart, most=margin)
    figures = f"{kid_text(run.row)} against {kid_text(run.real)}"
    limit = (
        f"{_two_digits(1e3 * margin)} × 10⁻³ (a twentieth of the distance from real images to "
        "the model's own samples)"
    )
    closer = "even below" if apart.high < 0 else f"at most {limit} above"
    seen = " The feature network sees the difference all the same." if apart.low > 0 else ""
    answer, said = {
        "shown": (
            "yes",
            f"is {closer} that of the real few-shot images: {figures}.{seen} Copies would pass "
            "this test too: see the next two.",
        ),
        "refuted": (
            "not yet",
            f"is higher than that of the real few-shot images by more than {limit}: {figures}. "
            "The feature network still sees a difference.",
        ),
        "unclear": (
            UNSURE,
            f"and that of the real few-shot images are {figures}. As near would be at most "
            f"{limit} above. {run.too_few(decision.factor, held_out=True, few_shot=True)}",
        ),
    }[decision.outcome]
    return Verdict(
        "as_near_as_real",
        "Nearly as near to the held-out images as real ones?",
        decision.outcome,
        answer,
        f"The KID of the samples {said}",
    )


def _apart(found: Interval, other: Interval, row: Row) -> Interval:
    """The KID of the samples less that of a row: paired if the row holds the difference."""
    above = stored_interval(row, "kid_above")
    if above is None:
        return difference_interval(found, other)
    return Interval(-above.value, -above.high, -above.low)


def _times(found: Interval, other: Interval) -> str:
    """Say how many times lower a KID is, if the ratio of the two has a meaning."""
    if found.high <= 0:
        return "lower than"
    if found.low > 0:
        return f"about {_two_digits(other.value / found.value)} times lower than"
    return f"at least {_two_digits(other.value / found.high)} times lower than"


def _two_digits(ratio: float) -> str:
    return f"{float(f'{ratio:.2g}'):g}"
