"""`run.log`: the log of a run in its folder."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType

journal = logging.getLogger(__name__)
"""For lines that the console shows in another form, as a bar or in colour."""

journal.propagate = False
journal.setLevel(logging.INFO)

_WIDTH = 120


class RunLog(logging.FileHandler):
    """Write log records to a file while open.

    The file is created once work begins, so that a dry run or a mistake leaves none. Failing to
    write it does not fail the run.

    Args:
        file: where to; appended to.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(file, delay=True, encoding="utf-8", errors="backslashreplace")
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self._waiting: list[logging.LogRecord] | None = []

    def begin(self) -> None:
        """Write the records so far; from now on write each at once."""
        waiting, self._waiting = self._waiting or [], None
        for record in waiting:
            self.emit(record)

    def emit(self, record: logging.LogRecord) -> None:
        if self._waiting is not None:
            self._waiting.append(record)
            return
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 a name of logging
        # the run itself reports a full disk
        return

    def __enter__(self) -> Self:
        for logger in (logging.getLogger(), journal):
            logger.addHandler(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for logger in (logging.getLogger(), journal):
            logger.removeHandler(self)
        with suppress(OSError):
            self.close()


def show(shown: RenderableType, *, width: int | None = None) -> None:
    """Show a table on the console and in the log.

    Args:
        shown: anything `rich` can print.
        width: columns at least; None takes those of the terminal.
    """
    console = Console(stderr=True)
    console.print(shown, width=None if width is None else max(console.width, width))
    text = StringIO()
    # in a notebook too, where a console would show it
    Console(file=text, width=_WIDTH, force_jupyter=False, color_system=None).print(shown)
    journal.info("%s", text.getvalue().rstrip())


def note_settings(settings: Mapping[str, object]) -> None:
    """Log the settings of a run."""
    journal.info("settings: %s", ", ".join(f"{key}={value}" for key, value in settings.items()))
