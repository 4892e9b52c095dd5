"""Make nodes: compute missing results in one process at a time, and record the cost."""

import logging
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import Dataset

from ood_sampler.modules.prediction import NonFiniteError, OnNonFinite, Stage, are_finite, compute
from ood_sampler.modules.trainer import TrainerFactory, machine, make_trainer
from ood_sampler.report.journal import journal
from ood_sampler.store.artifacts import Artifact
from ood_sampler.store.lock import hold
from ood_sampler.store.node import Node
from ood_sampler.store.sets import TensorSet

log = logging.getLogger(__name__)

T = TypeVar("T")

_PIXELS = {"cpu": 2**16, "cuda": 2**20}
"""Default pixels per forward pass: a CPU has small caches, a GPU many cores to fill."""

_MOST_IMAGES = 64
"""Images per forward pass, at most, unless set."""


@dataclass
class StageRecord:
    """Cost of a stage in this run."""

    name: str
    images: int
    evaluations: int
    seconds: float = 0.0
    cached: bool = False


@dataclass
class Session:
    """Where and how nodes are made, and a record of it.

    Attributes:
        root: folder of the artifacts.
        trainer: makes Lightning trainers.
        progress: makes the progress callbacks of a stage from its name and size.
        stages: cost of all stages so far, in order.
        left_out: a sentence per item left out because the network returned NaN or infinity.
    """

    root: Path
    trainer: TrainerFactory
    progress: Callable[[str, int], Sequence[Callback]] = lambda name, images: ()
    stages: list[StageRecord] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    _artifacts: dict[tuple[Path, str, int], Artifact] = field(default_factory=dict)
    _kept: dict[Hashable, Any] = field(default_factory=dict)

    @cached_property
    def machine(self) -> str:
        """Kind of device and precision, which affect the last digits.

        Raises:
            ValueError: the trainer's settings do not fit this machine.
        """
        return machine(make_trainer(self.trainer, []))

    def images_per_pass(self, resolution: int) -> int:
        """Images per forward pass that suit a resolution and this machine's device."""
        pixels = _PIXELS["cpu" if self.machine.startswith("cpu") else "cuda"]
        return max(1, min(_MOST_IMAGES, pixels // resolution**2))

    def artifact(
        self, stage: str, key: Mapping[str, Any], count: int, shape: Sequence[int]
    ) -> Artifact:
        """Return one object per artifact, so that its shards are verified once."""
        artifact = Artifact(self.root, stage, key, count, shape)
        return self._artifacts.setdefault((self.root, artifact.digest, count), artifact)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Compute a value once, and keep it in memory."""
        key = (self.root, key)
        if key not in self._kept:
            self._kept[key] = make()
        found: T = self._kept[key]
        return found

    def obtain(self, node: Node) -> None:
        """Make the missing items of a node and of its inputs.

        Of several processes one computes; the others wait for its results.
        """
        if node.missing_items():
            for each in node.inputs:
                self.obtain(each)
        folders = [out.folder for out in node.outputs.values() if hasattr(out, "folder")]
        if not folders:
            return
        with (
            self.recorded(node.name, node.count, node.evaluations_each(), node.of) as record,
            hold(
                folders,
                needed=lambda: node.missing_items() > 0,
                what=f"the stage {node.name}",
            ) as own,
        ):
            record.cached = not own
            if own:
                # another process may have made some while this one waited for the lock
                node.make(node.unfinished())

    def compute(
        self,
        title: str,
        stage: Callable[[Sequence[str]], Stage],
        items: Dataset[Tensor],
        artifacts: Mapping[str, Artifact],
        *,
        batch_size: int,
    ) -> None:
        """Compute artifacts with a Lightning stage.

        Args:
            title: of the progress bar.
            stage: makes the stage from the names of the artifacts.
            items: item `i` gives result `i` of every artifact.
            artifacts: the unfinished ones, by name.
            batch_size: images per forward pass.
        """
        missing = max(artifact.missing_items() for artifact in artifacts.values())
        compute(
            stage(list(artifacts)),
            items,
            artifacts,
            trainer=self.trainer,
            batch_size=batch_size,
            callbacks=self.progress(title, missing),
        )

    @contextmanager
    def recorded(
        self, name: str, images: int, evaluations_each: int, of: str = ""
    ) -> Iterator[StageRecord]:
        """Record the cost of the block."""
        record = StageRecord(name, images, evaluations_each)
        start = time.perf_counter()
        yield record
        record.seconds = time.perf_counter() - start
        seconds = "done before" if record.cached else f"{record.seconds:.1f} s"
        journal.info("stage %s; %d images, %s", f"{name}: {of}" if of else name, images, seconds)
        # a cache hit on a stage that this run made is not recorded again
        if not (record.cached and any(stage.name == name for stage in self.stages)):
            self.stages.append(record)

    def finite(
        self,
        items: TensorSet,
        what: str,
        names: Sequence[object] | None = None,
        *,
        on_nonfinite: OnNonFinite,
    ) -> list[int]:
        """Indices of the finite items; the others are reported by name and left out.

        Args:
            items: all items.
            what: kind of the items, for messages.
            names: of the items; None takes their indices.
            on_nonfinite: whether a non-finite item ends the run.

        Raises:
            NonFiniteError: an item is not finite, and ends the run.
        """
        good = torch.cat([are_finite(block) for block in items.blocks()]).tolist()
        names = range(len(items)) if names is None else names
        bad = [name for name, is_good in zip(names, good, strict=True) if not is_good]
        if bad and on_nonfinite == "raise":
            raise NonFiniteError(what, bad)
        for name in bad:
            told = f"the network returned NaN or infinity for {what} {name}: left out"
            if told not in self.left_out:
                self.left_out.append(told)
                log.warning("warning: %s", told)
        return [index for index, is_good in enumerate(good) if is_good]
