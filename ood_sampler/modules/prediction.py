"""Drive a stage with Lightning: items in, shards of its artifacts out."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException
from torch.utils.data import Dataset

from ood_sampler.codecs.base import Codec
from ood_sampler.modules.allocation import keep_freed_memory, return_freed_memory
from ood_sampler.modules.trainer import TrainerFactory, make_trainer
from ood_sampler.store.artifacts import Artifact

log = logging.getLogger(__name__)

Batch = tuple[list[int], Tensor]
"""Indices of the items, and the items."""

OnNonFinite = Literal["raise", "skip"]
"""Whether NaN or infinity from the network ends a stage, or the image is left out later."""


LEAVE_OUT = "check the weights, or leave it out with on_nonfinite=skip"
"""Remedy if the image can be left out."""


class NonFiniteError(ValueError):
    """The network returned NaN or infinity.

    Args:
        what: kind of the results.
        names: of the non-finite ones.
        remedy: for the user, besides computing in float32.
    """

    def __init__(
        self,
        what: str,
        names: Sequence[object],
        *,
        remedy: str = LEAVE_OUT,
    ) -> None:
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        super().__init__(
            f"the network returned NaN or infinity for {what} {names[0]}{others}: use "
            f"trainer.precision=32-true, {remedy}"
        )


class Stage(lightning.LightningModule):
    """Compute one result per item, for one or several artifacts.

    `predict_step` takes `(indices, items)` and returns artifact name -> tensor, whose first axis
    is that of the items.
    """

    def on_predict_start(self) -> None:
        """Make convolutions on the CPU faster; only the last digits change."""
        if self.device.type == "cpu":
            keep_freed_memory()
            self.to(memory_format=torch.channels_last)

    def on_predict_end(self) -> None:
        return_freed_memory()

    def check_finite(
        self, results: Tensor, names: Sequence[object], what: str, *, remedy: str = LEAVE_OUT
    ) -> Tensor:
        """Return `results` if all are finite.

        Raises:
            NonFiniteError: one is not finite; names it.
        """
        finite = are_finite(results)
        if not finite.all():
            bad = [name for name, ok in zip(names, finite.tolist(), strict=True) if not ok]
            raise NonFiniteError(what, bad, remedy=remedy)
        return results


class CodecStage(Stage):
    """A stage with a codec, whose networks move to the device of the stage.

    Args:
        codec: the frozen model.
    """

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec
        for name, network in codec.networks.items():
            self.add_module(name, network)


def are_finite(items: Tensor) -> Tensor:
    """Whether all numbers of an item are finite, shape (N, ...) to (N,)."""
    return items.flatten(1).isfinite().all(1)


class ShardLoader(lightning.LightningDataModule):
    """Batches of the missing shards; each batch lies in one shard, each shard in one process."""

    def __init__(
        self, items: Dataset[Tensor], artifact: Artifact, shards: Sequence[int], *, batch_size: int
    ) -> None:
        super().__init__()
        # there may be no shard for a process
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.items = items
        self.artifact = artifact
        self.shards = shards
        self.batch_size = batch_size

    def batches(self, rank: int, world_size: int) -> Iterator[list[int]]:
        """Item indices of each batch of one process."""
        for shard in self.shards[rank::world_size]:
            first = shard * self.artifact.shard
            end = first + self.artifact.expected(shard)
            for start in range(first, end, self.batch_size):
                yield list(range(start, min(start + self.batch_size, end)))

    def predict_dataloader(self) -> "Prefetched":
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        return Prefetched(self.items, list(self.batches(rank, world_size)))


class Prefetched:
    """Batches in order, the next one read in the background while the last one is computed.

    Args:
        items: data set to read from.
        batches: indices of the items of each batch.
    """

    def __init__(self, items: Dataset[Tensor], batches: Sequence[list[int]]) -> None:
        self.items = items
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        with ThreadPoolExecutor(1, thread_name_prefix="read") as background:
            following: Future[Batch] | None = None
            for numbers in self.batches:
                present, following = following, background.submit(self._read, numbers)
                if present is not None:
                    yield present.result()
            if following is not None:
                yield following.result()

    def _read(self, numbers: list[int]) -> Batch:
        return numbers, torch.stack([self.items[number] for number in numbers])


class ShardWriter(Callback):
    """Gather the results of a shard and store it in the background once it is complete.

    The next shard is computed meanwhile; no further one waits in memory.

    Args:
        artifacts: by the name of the result.
        shards: computed by all processes together.
    """

    def __init__(self, artifacts: Mapping[str, Artifact], shards: Sequence[int]) -> None:
        self.artifacts = artifacts
        self.shards = shards
        self.pending: dict[str, list[Tensor]] = {}
        self.background: ThreadPoolExecutor | None = None
        self.writing: list[Future[None]] = []

    def on_predict_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self.background = ThreadPoolExecutor(1, thread_name_prefix="write")

    def on_predict_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,  # noqa: ANN401 the type of the hook
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        last = batch[0][-1]
        for name in self.artifacts:
            self.pending.setdefault(name, []).append(outputs[name].cpu())
        artifact = next(iter(self.artifacts.values()))
        if (last + 1) % artifact.shard == 0 or last + 1 == artifact.count:
            self.finish()
            self.writing = [
                self.background.submit(  # type: ignore[union-attr]
                    artifact.write, last // artifact.shard, torch.cat(self.pending.pop(name))
                )
                for name, artifact in self.artifacts.items()
            ]
        if trainer.received_sigterm:
            # Lightning only notes the signal, and its prediction loop does not check for it
            raise KeyboardInterrupt

    def on_predict_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Wait for the other processes, as one that fails on leaving would end them too.

        A barrier gives up after half an hour, but a shard may take longer.
        """
        self.finish()
        self.background.shutdown()  # type: ignore[union-attr]
        files = [a.shard_path(shard) for a in self.artifacts.values() for shard in self.shards]
        while (
            trainer.world_size > 1
            and not trainer.received_sigterm  # a process that fails gets the others ended
            and not all(file.exists() for file in files)
        ):
            time.sleep(0.1)

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Store shards completed before the stage failed."""
        try:
            self.finish()
        except OSError as error:
            # the error of the stage itself matters more
            log.warning("a shard was not kept: %s", error)
        if self.background is not None:
            self.background.shutdown()

    def finish(self) -> None:
        """Wait until all shards are written.

        Raises:
            OSError: one could not be written.
        """
        writing, self.writing = self.writing, []
        wait(writing)
        for shard in writing:
            shard.result()


def compute(
    stage: Stage,
    items: Dataset[Tensor],
    artifacts: Mapping[str, Artifact],
    *,
    trainer: TrainerFactory,
    batch_size: int,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Compute the shards that any of the artifacts misses.

    Args:
        stage: its `predict_step` returns one tensor per artifact.
        items: item `i` gives result `i` of every artifact.
        artifacts: by name, all with the same number of items per shard.
        trainer: makes the Lightning trainer from its keyword arguments.
        batch_size: items per forward pass.
        callbacks: further callbacks of the trainer.

    Raises:
        MemoryError: a batch does not fit.
        NonFiniteError: the network returned NaN or infinity.
    """
    artifact = next(iter(artifacts.values()))
    shards = sorted({shard for artifact in artifacts.values() for shard in artifact.missing()})
    if not shards:
        return
    try:
        make_trainer(trainer, [ShardWriter(artifacts, shards), *callbacks]).predict(
            stage,
            ShardLoader(items, artifact, shards, batch_size=batch_size),
            return_predictions=False,
        )
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"batch_size={batch_size} does not fit into the device's memory: lower batch_size; "
            "results do not depend on it"
        ) from error
    except ProcessException as error:
        if not any(artifact.missing() for artifact in artifacts.values()):
            log.warning("a process failed once all was done: %s", _last_line(error))
            return
        raise ValueError(f"a process failed: {_last_line(error)}") from error


def _last_line(error: Exception) -> str:
    """Extract the error itself from the traceback of another process."""
    return str(error).strip().splitlines()[-1]
