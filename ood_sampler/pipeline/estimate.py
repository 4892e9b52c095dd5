"""Cost of a run, estimated before it starts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ood_sampler.store.node import Node, reached


@dataclass(frozen=True)
class Work:
    """Remaining work of a stage: images, and network evaluations per image."""

    name: str
    images: int
    evaluations_each: int

    @property
    def evaluations(self) -> int:
        """Network evaluations of all images."""
        return self.images * self.evaluations_each


def work_of(targets: Iterable[Node]) -> list[Work]:
    """Remaining network evaluations of some nodes, stage by stage."""
    nodes = [(node, node.evaluations_each()) for node in reached(targets)]
    costly = [(node, evaluations) for node, evaluations in nodes if evaluations]
    names = Counter(node.name for node, _ in costly)
    return [
        Work(node.title if names[node.name] > 1 else node.name, node.missing_items(), evaluations)
        for node, evaluations in costly
    ]


@dataclass(frozen=True)
class Estimate:
    """The cost of a run.

    Attributes:
        work: of each stage that uses the network.
        batch_size: images per forward pass.
        seconds_per_evaluation: per image, timed on this machine.
        disk: bytes still to write.
    """

    work: Sequence[Work]
    batch_size: int
    seconds_per_evaluation: float
    disk: int

    def text(self, of: str = "") -> str:
        """Write a line per stage, and their sum.

        Args:
            of: name of the estimate, if there are several.
        """
        heading = f"estimate of {of}" if of else "estimate"
        evaluations = sum(stage.evaluations for stage in self.work)
        if not evaluations:
            return f"{heading}: the network has nothing left to do; {_disk(self.disk)} to write"
        lines = [f"{heading}, from two timed calls of {_count(self.batch_size, 'image')}:"]
        width = max(len(stage.name) for stage in self.work)
        for stage in self.work:
            lines.append(
                f"  {stage.name:<{width}}{stage.images:>9,} images x {stage.evaluations_each:>4,} "
                f"evaluations  {self._time(stage.evaluations):>12}"
            )
        lines.append(
            f"  in all {evaluations:,} evaluations, about {self._time(evaluations)}, features and "
            f"measures apart; {_disk(self.disk)} to write"
        )
        return "\n".join(lines)

    def _time(self, evaluations: int) -> str:
        return duration(evaluations * self.seconds_per_evaluation)


def duration(seconds: float) -> str:
    """A time in its two largest units: 43 s, 2 min 05 s, 3 h 20 min, 12 d 4 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def _disk(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
