"""What the rows of the study of inversion show, in sentences."""

from collections.abc import Sequence

from ood_sampler.report.columns import Row
from ood_sampler.statistics.decision import order, separation
from ood_sampler.statistics.intervals import interval
from ood_sampler.statistics.resampling import Interval
from ood_sampler.studies.in_domain import FEW_SHOT, IN_DOMAIN

EQUAL, CONVERGED = "equal time", "converged"
"""Budgets of an optimisation."""

_AS_WELL = 1.0
"""Decibels that two methods may differ by to be as good as each other."""


def sentences(domain: str, rows: Sequence[Row]) -> list[str]:
    """Say what the rows of a domain show."""
    sets = {name: [row for row in rows if row["set"] == name] for name in (FEW_SHOT, IN_DOMAIN)}
    said = [f"{domain}, {name}: {_compared(own)}." for name, own in sets.items() if own]
    further = (_loss(sets[FEW_SHOT], sets[IN_DOMAIN]), _holes(sets[FEW_SHOT]), _stayed(rows))
    return [*said, *(f"{domain}: {each}." for each in further if each)]


def _best(rows: Sequence[Row], *, gan: bool, budget: str = CONVERGED) -> Row | None:
    """The row of the highest PSNR among those of the GAN, or of the diffusion model."""
    own = [row for row in rows if (row["budget"] == budget if gan else not row["budget"])]
    return max(own, key=lambda row: float(row["psnr"])) if own else None


def _compared(rows: Sequence[Row]) -> str:
    """Say which model comes nearer, at equal time and converged."""
    diffusion = _best(rows, gan=False)
    said = []
    for budget in (EQUAL, CONVERGED):
        best = _best(rows, gan=True, budget=budget)
        if diffusion is None or best is None:
            continue
        apart = separation(interval(diffusion, "psnr"), interval(best, "psnr"))
        words = {
            "higher": f"the diffusion model is nearer by {apart.value:.1f} dB",
            "lower": f"the GAN is nearer by {-apart.value:.1f} dB",
            "alike": f"both are as near, to within {_AS_WELL:g} dB",
            "unclear": "too few images to say which is nearer",
        }[order(apart, margin=_AS_WELL)]
        said.append(
            f"{budget}: {diffusion['method']} {_score(diffusion)}, {best['method']} "
            f"{_score(best)} ({best['seconds']:.2g} s an image against "
            f"{diffusion['seconds']:.2g}): {words}"
        )
    return "; ".join(said)


def _loss(target: Sequence[Row], own: Sequence[Row]) -> str:
    """Say how much more each model loses on the target domain than on its own."""
    names: list[str] = []
    gaps: list[Interval] = []
    for gan in (True, False):
        outside, inside = _best(target, gan=gan), _best(own, gan=gan)
        if outside is None or inside is None:
            return ""
        names.append(outside["method"])
        gaps.append(separation(interval(inside, "psnr"), interval(outside, "psnr")))
    said = ", ".join(
        f"{name} {gap.value:+.1f} dB [{gap.low:+.1f}, {gap.high:+.1f}]"
        for name, gap in zip(names, gaps, strict=True)
    )
    if all(gap.high < 0 for gap in gaps):
        return f"neither model loses PSNR from the own domain to the target: {said}"
    words = {
        "higher": "the GAN loses more",
        "lower": "the diffusion model loses more",
        "alike": "both lose alike",
        "unclear": "too few images to say which loses more",
    }[order(separation(*gaps), margin=_AS_WELL)]
    return f"PSNR lost from the own domain to the target: {said}: {words}"


def _holes(rows: Sequence[Row]) -> str:
    """Say where latents of the target domain lie in the priors."""
    own = [row for row in rows if row["budget"] != EQUAL]
    said = [
        f"{row['method']} radius {row['ratio']:.2f} of the prior's, outside of it "
        f"{row['outside']:.0%}"
        for row in own
    ]
    return f"latents in the prior: {'; '.join(said)}"


def _stayed(rows: Sequence[Row]) -> str:
    """Say how many samples around the latents left the target domain."""
    own = [row for row in rows if row.get("captured") is not None]
    said = [
        f"{row['method']} {row['captured']:.0%} [{row['captured_low']:.0%}, "
        f"{row['captured_high']:.0%}]"
        for row in own
    ]
    return f"samples around the latents that left the domain: {'; '.join(said)}"


def _score(row: Row) -> str:
    return f"{row['psnr']:.1f} dB [{row['psnr_low']:.1f}, {row['psnr_high']:.1f}]"
