"""Send the results of a run to an experiment tracker."""

import json
import logging
import re
import shlex
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeAlias

log = logging.getLogger(__name__)

_PATIENCE = 120
"""Seconds to send a few megabytes; wandb itself would try for days."""

_PATH = "path"
"""Key of the path of an image in a request to the other process."""


Cell: TypeAlias = str | float | bool | Path | None
"""A cell of a table; a path is that of an image file."""


@dataclass(frozen=True)
class Table:
    """Named columns and their rows."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Curves:
    """A metric over a key, a line per setting of the other keys."""

    axis: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Entry:
    """A run as a tracker shows it.

    Attributes:
        config: its resolved configuration.
        figures: metrics by name.
        pictures: image files by name.
        name: of the run.
        group: name of its sweep.
        tags: to filter by.
        tables: by name.
        curves: by name.
    """

    config: Mapping[str, Any]
    figures: Mapping[str, float] = field(default_factory=dict)
    pictures: Mapping[str, Path] = field(default_factory=dict)
    name: str | None = None
    group: str | None = None
    tags: Sequence[str] = ()
    tables: Mapping[str, Table] = field(default_factory=dict)
    curves: Mapping[str, Curves] = field(default_factory=dict)


class Tracker(ABC):
    """A destination for results besides the folder of a run."""

    @abstractmethod
    def record(self, folder: Path, entry: Entry) -> None:
        """Send the results of a finished run."""

    @abstractmethod
    def upload(self, folder: Path) -> str | None:
        """The command that uploads runs kept below a folder; None if there are none."""


class NoTracker(Tracker):
    """Send nothing."""

    def record(self, folder: Path, entry: Entry) -> None:
        return

    def upload(self, folder: Path) -> str | None:
        return None


class WandbTracker(Tracker):
    """Weights & Biases. Failing to send never fails the run; it logs a warning.

    wandb works in a process of its own, as it may be missing, hang, or end its process.

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

    def record(self, folder: Path, entry: Entry) -> None:
        request = {
            "project": self.project,
            "mode": self.mode,
            "folder": str(folder.absolute()),
            **asdict(entry),
        }
        reason = _fault_of_sending(request)
        if reason is not None:
            log.warning(
                "warning: wandb failed (%s): figures and image of this run were not logged "
                "there, or not all; they are in %s",
                reason,
                folder,
            )

    def upload(self, folder: Path) -> str | None:
        # of a run, and of the runs of a sweep
        patterns = ("wandb/offline-run-*", "*/wandb/offline-run-*")
        found = [list(folder.glob(pattern)) for pattern in patterns]
        if self.mode != "offline" or not any(found):
            return None
        if sum(map(len, found)) == 1:
            (run,) = chain.from_iterable(found)
            return f"wandb sync {shlex.quote(str(run))}"
        places = [
            f"{shlex.quote(str(folder))}/{p}"
            for p, runs in zip(patterns, found, strict=True)
            if runs
        ]
        return f"wandb sync {' '.join(places)}"


def _fault_of_sending(request: Mapping[str, Any]) -> str | None:
    """Send in another process; return the reason if that fails."""
    # -P keeps the folder of this file out of the import path
    command = [sys.executable, "-P", __file__]
    # a file, as a child that outlives the process could keep a pipe open
    with tempfile.TemporaryFile() as messages:
        try:
            ended = subprocess.run(  # noqa: S603 this file
                command,
                input=json.dumps(request, default=_as_json).encode(),
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

    # file names may hold bytes that are not text
    config = json.dumps(request["config"], ensure_ascii=False)
    config = config.encode(errors="surrogateescape").decode(errors="replace")
    naming = {key: request[key] for key in ("name", "group", "tags") if request[key]}
    run = wandb.init(
        project=request["project"],
        mode=request["mode"],
        dir=request["folder"],
        config=json.loads(config),
        settings=wandb.Settings(console="off", silent=True, init_timeout=30),
        **naming,
    )
    run.log(
        {
            **request["figures"],
            **{name: wandb.Image(path[_PATH]) for name, path in request["pictures"].items()},
            **{name: _table(wandb, **table) for name, table in request["tables"].items()},
            **{name: _plot(wandb, name, **curves) for name, curves in request["curves"].items()},
        }
    )
    run.finish()


def _table(wandb: Any, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:  # noqa: ANN401 a module and its object
    """Make a table, with images in place of their paths."""
    data = [[wandb.Image(c[_PATH]) if isinstance(c, dict) else c for c in row] for row in rows]
    return wandb.Table(columns=columns, data=data, allow_mixed_types=True)


def _plot(wandb: Any, title: str, axis: str, lines: Mapping[str, Any]) -> Any:  # noqa: ANN401 likewise
    return wandb.plot.line_series(
        xs=[[x for x, _ in points] for points in lines.values()],
        ys=[[y for _, y in points] for points in lines.values()],
        keys=list(lines),
        title=title,
        xname=axis,
    )


def _as_json(value: object) -> object:
    """Encode the path of an image; all else is JSON already."""
    if isinstance(value, Path):
        return {_PATH: str(value.absolute())}
    raise TypeError(f"{value!r} is not JSON")


if __name__ == "__main__":
    _send(json.load(sys.stdin))
