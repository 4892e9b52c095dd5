"""Show the progress of a stage: images per second and time left."""

import logging
import time
from io import StringIO
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
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from ood_sampler.faults import INTERRUPTED

log = logging.getLogger(__name__)


class StageProgress(Callback):
    """A progress bar for one stage; without a terminal, one line at its end.

    Args:
        name: of the stage.
        images: to compute, on all processes together.
    """

    def __init__(self, name: str, images: int) -> None:
        self.name = name
        self.images = images

    def on_predict_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self.world_size = trainer.world_size
        self.progress = bars(Console(stderr=True), disable=not trainer.is_global_zero)
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
            log.error(INTERRUPTED)


def bars(console: Console, *, disable: bool = False) -> Progress:
    """Progress bars; a long name wraps before a number is cut."""
    whole = Column(no_wrap=True)
    kind = _InNotebook if console.is_jupyter else Progress
    return kind(
        TextColumn("{task.description:<24}", table_column=Column(min_width=16, overflow="fold")),
        BarColumn(10, table_column=whole),
        MofNCompleteColumn(table_column=whole),
        _Rate(table_column=whole),
        TimeRemainingColumn(table_column=whole),
        TextColumn("left", table_column=whole),
        console=console,
        disable=disable,
    )


class _InNotebook(Progress):
    """Bars in a notebook: one output whose text changes, which needs no extension.

    Its last state is kept with the notebook.
    """

    _EVERY = 0.2
    """Seconds between two changes."""

    _WIDTH = 90

    def start(self) -> None:
        if not self.disable:
            from IPython.display import display

            self._drawn = time.monotonic()
            self._shown = display(  # type: ignore[no-untyped-call]
                self._text(), raw=True, display_id=True
            )

    def stop(self) -> None:
        if not self.disable:
            self._draw()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        if not self.disable and time.monotonic() - self._drawn > self._EVERY:
            self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self._shown.update(self._text(), raw=True)

    def _text(self) -> dict[str, str]:
        text = StringIO()
        console = Console(file=text, width=self._WIDTH, force_jupyter=False, color_system=None)
        console.print(self.get_renderable())
        return {"text/plain": text.getvalue().rstrip()}


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} images/s")
