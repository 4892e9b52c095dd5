"""Send the figures of a run to an experiment tracker."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

log = logging.getLogger(__name__)


class Tracker(ABC):
    """Where the figures of a run go besides its folder."""

    @abstractmethod
    def record(
        self, folder: Path, config: Mapping[str, Any], figures: Mapping[str, float], picture: Path
    ) -> None:
        """Send the resolved configuration, the figures and one picture of a finished run."""


class NoTracker(Tracker):
    """Nowhere."""

    def record(
        self, folder: Path, config: Mapping[str, Any], figures: Mapping[str, float], picture: Path
    ) -> None:
        return


class WandbTracker(Tracker):
    """Weights & Biases. A failure there never fails the run: what was not sent is said.

    Args:
        project: name of the project.
        mode: `offline` writes into the run's folder and needs neither account nor network;
            `online` sends.

    Raises:
        ValueError: `mode` is neither.
    """

    def __init__(self, *, project: str, mode: Literal["offline", "online"]) -> None:
        if mode not in ("offline", "online"):
            raise ValueError(f"logger.mode must be offline or online, got {mode!r}")
        self.project = project
        self.mode = mode

    def record(
        self, folder: Path, config: Mapping[str, Any], figures: Mapping[str, float], picture: Path
    ) -> None:
        import wandb

        try:
            run = wandb.init(
                project=self.project,
                mode=self.mode,
                dir=folder,
                config=dict(config),
                settings=wandb.Settings(console="off", silent=True, init_timeout=30),
            )
            run.log({**figures, "grid": wandb.Image(str(picture))})
            run.finish()
        except (wandb.Error, OSError, ValueError, RuntimeError) as error:
            log.warning(
                "wandb failed (%s): figures and picture of this run were not logged there; they "
                "are in %s",
                error,
                folder,
            )
