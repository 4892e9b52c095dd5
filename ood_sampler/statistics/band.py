"""Find usable settings, the best of them, and the band of usable inversion steps."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise


@dataclass(frozen=True)
class Point:
    """Metrics of the samples of one step.

    Attributes:
        step: inversion step $t$.
        retention: share of samples in the target domain, 1 minus the captured fraction.
        novelty: share of samples that are new (authenticity).
        distance: to the target domain, lower is better (KID).
        error: standard error of `distance`.
        near_copies: share of samples nearer to a few-shot image than new real images are.
        excess: lower bound of the difference between this share and that of new real images; may
            be negative.
    """

    step: float
    retention: float
    novelty: float
    distance: float
    error: float = 0.0
    near_copies: float = 0.0
    excess: float = 0.0


@dataclass(frozen=True)
class Thresholds:
    """Conditions under which a step is usable.

    Attributes:
        retention: least share of samples in the target domain, in (0, 1].
        novelty: least share of samples that are new, in (0, 1].
        near_copies: largest excess of near-copies over the share of new real images, in [0, 1).

    Raises:
        ValueError: a share is out of range.
    """

    retention: float
    novelty: float
    near_copies: float

    def __post_init__(self) -> None:
        for name, value in (("retention", self.retention), ("novelty", self.novelty)):
            if not 0 < value <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {value}")
        if not 0 <= self.near_copies < 1:
            raise ValueError(f"near_copies must be in [0, 1), got {self.near_copies}")

    def relative_to(self, *, retention: float, novelty: float) -> "Thresholds":
        """Scale the thresholds by what new real images of the domain reach.

        A domain near the model's own loses some real images to it as well.
        """
        tiny = 1e-9
        return replace(
            self,
            retention=max(self.retention * retention, tiny),
            novelty=max(self.novelty * novelty, tiny),
        )

    def lack(self, point: Point) -> float:
        """Amount by which a step misses the thresholds, 0 if it is usable.

        Near-copies lower the novelty too, so only the larger miss of the two counts.
        """
        retention, *new = (max(0.0, asked - value) for value, asked in self._compared(point))
        return retention + max(new)

    def passed(self, point: Point) -> bool:
        """Whether a step is usable."""
        return self.lack(point) == 0

    def crossing(self, inside: Point, outside: Point) -> float:
        """Step at which the first share, interpolated, falls below its threshold on the way out."""
        shares = [1.0]
        for (a, asked), (b, _) in zip(self._compared(inside), self._compared(outside), strict=True):
            if b < asked:
                shares.append((a - asked) / (a - b))
        return inside.step + min(shares) * (outside.step - inside.step)

    def _compared(self, point: Point) -> Iterator[tuple[float, float]]:
        """Pairs of the value that a step reaches and the least that it must."""
        yield point.retention, self.retention
        yield point.novelty, self.novelty
        yield -point.excess, -self.near_copies


def ranked(
    points: Sequence[Point],
    *,
    floor: float = 0.0,
    error: Callable[[int, int], float] | None = None,
) -> list[int]:
    """Order settings from best to worst, by distance and, among equals, by novelty.

    Distances count as equal if they differ by at most the standard error of their difference (the
    one-standard-error rule of Breiman et al., 1984, sec. 3.4.3). Of the settings equal to the
    nearest, the one with fewest near-copies comes first, then the one of highest novelty. This is
    repeated for the rest.

    Args:
        points: the settings.
        floor: distance that real images reach. Lower ones are chance, and count as the floor.
        error: of two indices, the standard error of the difference of their distances. By default
            distances are taken as independent, which overstates the error of settings that are
            compared with the same images.

    Returns:
        Indices of `points`.
    """

    def independent(i: int, j: int) -> float:
        return math.hypot(points[i].error, points[j].error)

    apart = error or independent
    near = [max(point.distance, floor, 0.0) for point in points]
    left, order = list(range(len(points))), list[int]()
    while left:
        first = min(left, key=lambda i: (near[i], points[i].error))
        tied = (i for i in left if i == first or near[i] - near[first] <= apart(i, first))
        order.append(
            min(
                tied,
                key=lambda i: (points[i].near_copies, -points[i].novelty, points[i].distance),
            )
        )
        left.remove(order[-1])
    return order


@dataclass(frozen=True)
class Band:
    """The usable steps around the chosen one.

    Attributes:
        low: its lower end, interpolated between steps tried.
        high: its upper end, likewise.
        chosen: the best step tried in it, see `ranked`.
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
        """Width in steps, a lower bound if an end is open."""
        return self.high - self.low


def find_band(curve: Sequence[Point], thresholds: Thresholds, *, floor: float = 0.0) -> Band | None:
    """Find the band that holds the best usable step; None if no step is usable.

    Between two steps tried, the shares are interpolated linearly.

    Args:
        curve: at least one point, steps increasing.
        thresholds: conditions under which a step is usable.
        floor: see `ranked`.

    Raises:
        ValueError: steps do not increase.
    """
    if any(a.step >= b.step for a, b in pairwise(curve)):
        raise ValueError(f"steps must increase, got {[point.step for point in curve]}")
    usable = [i for i, point in enumerate(curve) if thresholds.passed(point)]
    if not usable:
        return None
    best = usable[ranked([curve[i] for i in usable], floor=floor)[0]]
    first = last = best
    while first - 1 in usable:
        first -= 1
    while last + 1 in usable:
        last += 1
    low, high = curve[first].step, curve[last].step
    if first > 0:
        low = thresholds.crossing(curve[first], curve[first - 1])
    if last < len(curve) - 1:
        high = thresholds.crossing(curve[last], curve[last + 1])
    return Band(low, high, curve[best].step, first == 0, last == len(curve) - 1)
