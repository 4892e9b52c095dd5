"""Ratios beside their goals, and how two ways of doing the same are timed against each other."""

import datetime
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ood_sampler.report.results import commit


@dataclass(frozen=True)
class Ratio:
    """A figure with a goal.

    Attributes:
        name: what is compared.
        measured: the figure.
        goal: the largest that is good enough, or the smallest.
        at_most: whether it is the largest.
        detail: of what the figure was made, and how much it varied.
    """

    name: str
    measured: float
    goal: float
    at_most: bool
    detail: str

    @property
    def met(self) -> bool:
        """Whether the goal is met; NaN never is."""
        return self.measured <= self.goal if self.at_most else self.measured >= self.goal

    def line(self) -> str:
        """The row of the table."""
        sign, verdict = "≤" if self.at_most else "≥", "met" if self.met else "**MISSED**"
        cells = (
            self.name,
            f"{self.measured:.4g}",
            f"{sign} {self.goal:.4g}",
            verdict,
            self.detail,
        )
        return f"| {' | '.join(cells)} |"


def markdown(ratios: Sequence[Ratio]) -> str:
    """The table, where and when it was measured, and which goals are missed."""
    missed = [ratio.name for ratio in ratios if not ratio.met]
    return "\n".join(
        [
            f"Measured on {provenance()}.",
            "",
            "| what | measured | goal | | detail |",
            "|---|---|---|---|---|",
            *(ratio.line() for ratio in ratios),
            "",
            f"Missed: {'; '.join(missed)}." if missed else "All goals are met.",
        ]
    )


def provenance() -> str:
    """Date, processor, threads, version of PyTorch, commit."""
    return (
        f"{datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}, {_processor()}, threads "
        f"{torch.get_num_threads()}, torch {torch.__version__}, commit {commit()}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


@dataclass(frozen=True)
class Pairs:
    """Seconds of two ways to do the same, measured in turn.

    The machine is shared: both of a pair see it alike, and two medians would not.
    """

    first: Sequence[float]
    second: Sequence[float]

    def ratio(self) -> float:
        """Median of first over second, pair by pair."""
        return statistics.median(self._ratios())

    def detail(self, first: str, second: str) -> str:
        """Median seconds of both, the number of pairs, and the range of their ratios."""
        ratios = self._ratios()
        return (
            f"{first} {statistics.median(self.first):.3g} s, {second} "
            f"{statistics.median(self.second):.3g} s; {len(ratios)} pairs, {min(ratios):.3f} to "
            f"{max(ratios):.3f}"
        )

    def _ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.first, self.second, strict=True)]


def in_turn(first: Callable[[], object], second: Callable[[], object], *, pairs: int) -> Pairs:
    """Time two ways to do the same in turn; every other pair begins with the second."""
    measured: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        order = (0, 1) if pair % 2 == 0 else (1, 0)
        for which in order:
            measured[which].append(seconds((first, second)[which]))
    return Pairs(*measured)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
