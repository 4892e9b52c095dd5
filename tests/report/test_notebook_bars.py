import sys
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from ood_sampler.report.progress import bars


class Handle:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.texts.append(data["text/plain"])


def test_a_notebook_shows_one_output_that_ends_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Handle()

    def display(data: dict[str, str], **options: Any) -> Handle:  # noqa: ANN401
        assert options == {"raw": True, "display_id": True}
        handle.update(data, raw=True)
        return handle

    module = ModuleType("IPython.display")
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    progress = bars(Console(force_jupyter=True))
    task = progress.add_task("invert", total=1000)
    progress.start()
    for _ in range(500):
        progress.advance(task, 2)
    progress.update(task, completed=1000)
    progress.stop()
    assert "0/1000" in handle.texts[0]
    assert "1000/1000" in handle.texts[-1]
    # not one for each image
    assert len(handle.texts) < 100


def test_a_process_that_shows_nothing_displays_nothing() -> None:
    progress = bars(Console(force_jupyter=True), disable=True)
    task = progress.add_task("invert", total=2)
    progress.start()
    progress.advance(task, 2)
    progress.stop()
