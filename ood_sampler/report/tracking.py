"""Send the figures of a run to an experiment tracker."""

import json
import logging
import re
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

log = logging.getLogger(__name__)

_PATIENCE = 120
"""Seconds for a few kilobytes to be sent; wandb itself would try for days."""


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

    It works in a process of its own, as it may be missing, hang, or end the process that it is in.

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
        request = {
            "project": self.project,
            "mode": self.mode,
            "folder": str(folder.absolute()),
            "config": dict(config),
            "figures": dict(figures),
            "picture": str(picture.absolute()),
        }
        reason = _fault_of_sending(request)
        if reason is not None:
            log.warning(
                "warning: wandb failed (%s): figures and picture of this run were not logged "
                "there, or not all; they are in %s",
                reason,
                folder,
            )


def _fault_of_sending(request: Mapping[str, Any]) -> str | None:
    """Send in another process, and say why that failed; None if it did not."""
    # -P: the files beside this one are no packages for it
    command = [sys.executable, "-P", __file__]
    # a file, as a process that outlives this one could keep a pipe open
    with tempfile.TemporaryFile() as messages:
        try:
            ended = subprocess.run(  # noqa: S603 this file
                command,
                input=json.dumps(request).encode(),
                stdout=subprocess.DEVNULL,
                stderr=messages,
                timeout=_PATIENCE,
            )
        except subprocess.TimeoutExpired:
            return f"it did not end within {_PATIENCE} seconds"
        except OSError as error:
            return str(error)
        if not ended.returncode:
            return None
        messages.seek(0)
        text = messages.read().decode(errors="replace")
    raised = re.findall(r"^[\w.]*Error: .*", text, re.MULTILINE)
    return raised[-1] if raised else f"its process ended with code {ended.returncode}"


def _send(request: Mapping[str, Any]) -> None:
    import wandb

    run = wandb.init(
        project=request["project"],
        mode=request["mode"],
        dir=request["folder"],
        config=request["config"],
        settings=wandb.Settings(console="off", silent=True, init_timeout=30),
    )
    run.log({**request["figures"], "grid": wandb.Image(request["picture"])})
    run.finish()


if __name__ == "__main__":
    _send(json.load(sys.stdin))
