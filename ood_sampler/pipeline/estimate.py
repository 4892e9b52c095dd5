"""Cost of a run, estimated before it starts."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from ood_sampler.codecs.base import Codec
from ood_sampler.store.artifacts import disk_space
from ood_sampler.store.node import Node, reached


@dataclass(frozen=True, eq=False)
class Network:
    """A network whose evaluations an estimate counts and times.

    Attributes:
        name: of the model, and whether its flow is corrected.
        codec: takes as long per evaluation as that of the stage, and needs no stored result.
    """

    name: str
    codec: Codec


@dataclass(frozen=True)
class Work:
    """Remaining work of a stage: images, and network evaluations per image.

    Attributes:
        name: of the stage.
        images: still to be made.
        evaluations_each: per image.
        network: that is evaluated; None is that of the run, without a correction.
    """

    name: str
    images: int
    evaluations_each: int
    network: Network | None = None

    @property
    def evaluations(self) -> int:
        """Network evaluations of all images."""
        return self.images * self.evaluations_each


def work_of(targets: Iterable[Node]) -> list[Work]:
    """Remaining network evaluations of some nodes, stage by stage; equal neighbours are one."""
    nodes = [(node, node.evaluations_each()) for node in reached(targets)]
    costly = [(node, evaluations) for node, evaluations in nodes if evaluations]
    names = Counter(node.name for node, _ in costly)
    stages = [
        Work(
            node.title if names[node.name] > 1 else node.name,
            node.missing_items(),
            evaluations,
            node.network,
        )
        for node, evaluations in costly
    ]
    return [
        replace(first, images=first.images + sum(stage.images for stage in others))
        for _, (first, *others) in groupby(stages, key=_kind)
    ]


def _kind(stage: Work) -> tuple[str, int, str]:
    """What tells a stage from others."""
    name = "" if stage.network is None else stage.network.name
    return stage.name, stage.evaluations_each, name


@dataclass(frozen=True)
class Estimate:
    """The cost of a run.

    Attributes:
        work: of each stage that uses the network.
        batch_size: images per forward pass.
        seconds_per_evaluation: per image, of the network of the run, timed on this machine.
        disk: bytes still to write.
        others: the same time of each other network by its name, the operator of a correction
            included.
    """

    work: Sequence[Work]
    batch_size: int
    seconds_per_evaluation: float
    disk: int
    others: Mapping[str, float] = field(default_factory=dict)

    def text(self, of: str = "") -> str:
        """Write a line per stage, and their sum.

        Args:
            of: name of the estimate, if there are several.
        """
        heading = f"estimate of {of}" if of else "estimate"
        evaluations = sum(stage.evaluations for stage in self.work)
        if not evaluations:
            return (
                f"{heading}: the network has nothing left to do; {disk_space(self.disk)} to write"
            )
        lines = [f"{heading}, from two timed calls of {_count(self.batch_size, 'image')}:"]
        width = max(len(stage.name) for stage in self.work)
        counted = [f"evaluations{self._of(self._other(stage))}" for stage in self.work]
        widest = max(map(len, counted))
        for stage, what in zip(self.work, counted, strict=True):
            lines.append(
                f"  {stage.name:<{width}}{stage.images:>9,} images x {stage.evaluations_each:>4,} "
                f"{what:<{widest}}  {duration(self._seconds([stage])):>12}"
            )
        lines.append(
            f"  in all {evaluations:,} evaluations{self._parts()}, about "
            f"{duration(self._seconds(self.work))}, features and measures apart; "
            f"{disk_space(self.disk)} to write"
        )
        return "\n".join(lines)

    def _other(self, stage: Work) -> str:
        """Name of the network of a stage, if it is not that of the run."""
        name = "" if stage.network is None else stage.network.name
        return name if name in self.others else ""

    @staticmethod
    def _of(name: str) -> str:
        return f" of {name}" if name else ""

    def _seconds(self, stages: Sequence[Work]) -> float:
        return sum(
            stage.evaluations * self.others.get(self._other(stage), self.seconds_per_evaluation)
            for stage in stages
        )

    def _parts(self) -> str:
        """How many of the evaluations are of other networks."""
        parts = {
            name: sum(stage.evaluations for stage in self.work if self._other(stage) == name)
            for name in self.others
        }
        told = [f"{count:,}{self._of(name)}" for name, count in parts.items() if count]
        return f" ({', '.join(told)})" if told else ""


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


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
