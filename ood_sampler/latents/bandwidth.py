"""From curves over the inversion step to the band of usable steps and the chosen one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Point:
    """What samples of one step are like.

    Attributes:
        step: inversion step $t$.
        retention: share of samples that stay in the target domain, one less the captured fraction.
        novelty: share of samples that are no copies (authenticity).
        distance: to the target domain, lower is better (KID).
    """

    step: float
    retention: float
    novelty: float
    distance: float


@dataclass(frozen=True)
class Thresholds:
    """What a step must keep to be usable.

    Attributes:
        retention: least share of samples in the target domain, in (0, 1].
        novelty: least share of samples that are no copies, in (0, 1].

    Raises:
        ValueError: a share is out of range.
    """

    retention: float
    novelty: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {value}")

    def relative_to(self, *, retention: float, novelty: float) -> "Thresholds":
        """The same shares of what real new pictures of the domain reach.

        A domain near the model's own loses some real pictures to it as well.
        """
        tiny = 1e-9
        return Thresholds(max(self.retention * retention, tiny), max(self.novelty * novelty, tiny))

    def passed(self, point: Point) -> bool:
        """Whether a step is usable."""
        return point.retention >= self.retention and point.novelty >= self.novelty


@dataclass(frozen=True)
class Band:
    """The usable steps around the chosen one.

    Attributes:
        low: where novelty or retention begin to suffice, interpolated between steps tried.
        high: where one of them ends to.
        chosen: the step tried in it with the least distance.
        open_low: nothing lower was tried, so that the band may begin below `low`.
        open_high: nothing higher was tried, so that it may end above `high`.
    """

    low: float
    high: float
    chosen: float
    open_low: bool
    open_high: bool

    @property
    def width(self) -> float:
        """In steps; at least this much where an end is open."""
        return self.high - self.low


def find_band(curve: Sequence[Point], thresholds: Thresholds) -> Band | None:
    """Find the band that holds the usable step of least distance; None if no step is usable.

    Between two steps tried, retention and novelty are interpolated linearly.

    Args:
        curve: at least one point, steps increasing.
        thresholds: what makes a step usable.

    Raises:
        ValueError: steps do not increase.
    """
    if any(a.step >= b.step for a, b in pairwise(curve)):
        raise ValueError(f"steps must increase, got {[point.step for point in curve]}")
    usable = [i for i, point in enumerate(curve) if thresholds.passed(point)]
    if not usable:
        return None
    best = min(usable, key=lambda i: curve[i].distance)
    first = last = best
    while first - 1 in usable:
        first -= 1
    while last + 1 in usable:
        last += 1
    low, high = curve[first].step, curve[last].step
    if first > 0:
        low = _crossing(curve[first], curve[first - 1], thresholds)
    if last < len(curve) - 1:
        high = _crossing(curve[last], curve[last + 1], thresholds)
    return Band(low, high, curve[best].step, first == 0, last == len(curve) - 1)


def _crossing(inside: Point, outside: Point, thresholds: Thresholds) -> float:
    """Where the first of the two shares falls below its threshold on the way out."""
    share = min(_reached(inside, outside, thresholds))
    return inside.step + share * (outside.step - inside.step)


def _reached(inside: Point, outside: Point, thresholds: Thresholds) -> Iterator[float]:
    for a, b, threshold in (
        (inside.retention, outside.retention, thresholds.retention),
        (inside.novelty, outside.novelty, thresholds.novelty),
    ):
        yield (a - threshold) / (a - b) if b < threshold else 1.0
