r"""One rule for all claims: shown, refuted, or too few images to say.

A claim says that a quantity lies within some limits. It is shown if the whole interval of the
quantity lies inside, refuted if it lies outside, and unclear otherwise: a difference that is not
shown is never read as none. "No worse than" needs a stated margin: it claims that the difference
is below the margin.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ood_sampler.statistics.resampling import Interval

Outcome = Literal["shown", "refuted", "unclear"]
Order = Literal["lower", "higher", "alike", "unclear"]

TOO_FEW = "too few images to say"

_STANDARD_ERRORS = 2
"""Standard errors between an estimate and the ends of its interval."""

_MOST = 100
"""Factor beyond which advice on more images is no use."""


@dataclass(frozen=True)
class Decision:
    """The outcome of a claim.

    Attributes:
        outcome: shown, refuted, or unclear.
        factor: if unclear, how many times as many images would settle the claim at the same
            estimate; None if that is impractical.
    """

    outcome: Outcome
    factor: float | None = None


@dataclass(frozen=True)
class Pool:
    """Images that an interval rests on.

    Attributes:
        count: number of images.
        name: kind of the images.
        setting: key of the configuration that sets the number.
    """

    count: int
    name: str
    setting: str


def decide(found: Interval, *, least: float = -math.inf, most: float = math.inf) -> Decision:
    r"""Decide whether a quantity lies between `least` and `most`.

    The distance from the estimate to an end of its interval shrinks as $1 / \sqrt{n}$: if it is
    $h$, and the limit in between is $g$ from the estimate, the claim needs $(h / g)^2$ times as
    many images.
    """
    value, low, high = found
    if least < low and high < most:
        return Decision("shown")
    if high < least or low > most:
        return Decision("refuted")
    below, above = value - low, high - value
    if value > most:
        ratios = [_ratio(below, value - most)]
    elif value < least:
        ratios = [_ratio(above, least - value)]
    else:
        ratios = [_ratio(below, value - least), _ratio(above, most - value)]
    factor = max(ratios) ** 2
    return Decision("unclear", factor if factor <= _MOST else None)


def all_of(decisions: Sequence[Decision]) -> Decision:
    """Whether several claims all hold: refuted if one is."""
    outcomes = [decision.outcome for decision in decisions]
    if "refuted" in outcomes:
        return Decision("refuted")
    if "unclear" not in outcomes:
        return Decision("shown")
    factors = [decision.factor for decision in decisions if decision.outcome == "unclear"]
    known = [factor for factor in factors if factor is not None]
    return Decision("unclear", max(known) if len(known) == len(factors) else None)


def any_of(outcomes: Sequence[Outcome]) -> Outcome:
    """Whether one of several claims holds: refuted if all are."""
    if "shown" in outcomes:
        return "shown"
    return "unclear" if "unclear" in outcomes else "refuted"


def order(difference: Interval, *, margin: float = 0.0) -> Order:
    """Say whether the first of two quantities is lower, higher, or equal within a margin."""
    if decide(difference, most=0).outcome == "shown":
        return "lower"
    if decide(difference, least=0).outcome == "shown":
        return "higher"
    alike = decide(difference, least=-margin, most=margin).outcome == "shown"
    return "alike" if alike else "unclear"


def estimated(value: float, error: float) -> Interval:
    """Interval of two standard errors on each side."""
    return Interval(value, value - _STANDARD_ERRORS * error, value + _STANDARD_ERRORS * error)


def separation(a: Interval, b: Interval) -> Interval:
    """Interval of `a - b` for any dependence: it excludes 0 if the two do not overlap."""
    return Interval(a.value - b.value, a.low - b.high, a.high - b.low)


def counted(outcomes: Sequence[str], *, yes: str = "shown", no: str = "refuted") -> str:
    """Count the outcomes of similar claims; `yes` and `no` name the first two.

    Outcomes disputed between judges are stated if there are any.
    """
    shown, refuted, disputed = (outcomes.count(o) for o in ("shown", "refuted", "disputed"))
    left = len(outcomes) - shown - refuted - disputed
    told = f", judges disagree in {disputed}" if disputed else ""
    return f"{yes} in {shown} of {len(outcomes)}, {no} in {refuted}, {TOO_FEW} in {left}{told}"


def advice(factor: float | None, *pools: Pool) -> str:
    r"""Say how many images would settle an unclear claim.

    The squared error is taken as the sum of $1 / n$ over the sets. If more images of the first set
    suffice, only these are named, else more of all.

    Args:
        factor: of a `Decision`.
        pools: the sets; the first is the easiest to enlarge.
    """
    if factor is None:
        return "no practical number of images would tell"
    first, *others = pools
    alone = _alone(first.count, [pool.count for pool in others], factor)
    if alone is not None:
        return f"about {_rounded_up(alone)} {first.name} would do ({first.setting})"
    listed = [f"{_rounded_up(factor * pool.count)} {pool.name} ({pool.setting})" for pool in pools]
    return f"about {', '.join(listed[:-1])} and {listed[-1]} would do"


def _alone(count: int, others: list[int], factor: float) -> float | None:
    """Images of one set that reduce the total squared error by `factor`, the others unchanged."""
    stays = sum(1 / other for other in others)
    left = (1 / count + stays) / factor - stays
    return 1 / left if left > 0 and 1 / left <= _MOST * count else None


def _rounded_up(count: float) -> int:
    """Round up to two significant digits."""
    unit: int = 10 ** max(math.floor(math.log10(count)) - 1, 0)
    return math.ceil(round(count / unit, 6)) * unit


def _ratio(reach: float, gap: float) -> float:
    if math.isinf(gap):
        return 0.0
    return reach / gap if gap > 0 else math.inf
