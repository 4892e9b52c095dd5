import logging
from pathlib import Path

import pytest
from rich.table import Table

from ood_sampler.report.journal import RunLog, journal, show

log = logging.getLogger("ood_sampler.any")


def lines(file: Path) -> list[str]:
    # without date and time
    return [line.split(" ", 2)[2] for line in file.read_text().splitlines()]


def test_the_log_begins_with_what_was_said_before_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.log"
    with RunLog(file) as kept:
        log.warning("warning: early")
        assert not file.exists()
        kept.begin()
        assert lines(file) == ["warning: early"]
        journal.info("stage decode; 3 images, 1.0 s")
        # not by a logger: what pytest captures could not be sent between its processes
        kept.handle(logging.makeLogRecord({"msg": "error: name caf\udce9"}))
    log.error("afterwards")
    assert lines(file) == [
        "warning: early",
        "stage decode; 3 images, 1.0 s",
        "error: name caf\\udce9",
    ]
    # what is for the log alone is not said on the console
    assert "stage decode" not in capsys.readouterr().err


def test_a_second_run_in_the_folder_goes_on_below(tmp_path: Path) -> None:
    for word in ("one", "two"):
        with RunLog(tmp_path / "run.log") as kept:
            kept.begin()
            log.warning(word)
    assert lines(tmp_path / "run.log") == ["one", "two"]


@pytest.mark.parametrize("place", ["no folder/run.log", "folder"])
def test_a_log_that_cannot_be_written_ends_nothing(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    with RunLog(tmp_path / place) as kept:
        kept.begin()
        log.warning("said")
    assert "Traceback" not in capsys.readouterr().err


def test_a_table_is_shown_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("set", "FID")
    table.add_row("samples", "12.5")
    with RunLog(tmp_path / "run.log") as kept:
        kept.begin()
        show(table)
    for text in (capsys.readouterr().err, (tmp_path / "run.log").read_text()):
        assert "samples" in text
        assert "12.5" in text
