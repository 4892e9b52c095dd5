"""Show how far a stage is: images a second and time left."""

import logging
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

log = logging.getLogger(__name__)


class StageProgress(Callback):
    """A progress bar for one stage; where the output is no terminal, one line at its end.

    Args:
        name: of the stage.
        images: images to compute on all processes together.
    """

    def __init__(self, name: str, images: int) -> None:
        self.name = name
        self.images = images

    def on_predict_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self.world_size = trainer.world_size
        self.progress = Progress(
            TextColumn("{task.description:>24}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True),
            disable=not trainer.is_global_zero,
        )
        self.task = self.progress.add_task(self.name, total=self.images)
        self.progress.start()

    def on_predict_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,  # noqa: ANN401 the type of the hook
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # the processes share the images evenly, up to a shard
        self.progress.advance(self.task, len(batch[0]) * self.world_size)

    def on_predict_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self.progress.update(self.task, completed=self.images)
        self.progress.stop()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        if hasattr(self, "progress"):
            self.progress.stop()
        if isinstance(exception, KeyboardInterrupt):
            # Lightning ends the process without raising it again
            log.error("interrupted: finished shards are kept, the same command continues")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} images/s")
