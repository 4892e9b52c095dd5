"""Folders that a command made and left nothing in are removed again."""

import atexit
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from ood_sampler.names import MULTIRUN

_RECORD = ".hydra"
"""Folder with the configuration of a run, which Hydra writes before the run begins."""

_RECORDED = ("config.yaml", "hydra.yaml", "overrides.yaml")


def tidy_at_exit(folder: Path, *others: Path) -> None:
    """Remove the folder of a run or a sweep when this process ends, if nothing is in it by then.

    Args:
        folder: before anything is written into it. What is there by now stays, and so do the
            folders above it that are there.
        others: further folders that are removed if they are made and stay empty.
    """
    folder, rest = folder.absolute(), [path.absolute() for path in others]
    places = {place for path in (folder, *rest) for place in (path, *path.parents)}
    missing = [path for path in places if not os.path.lexists(path)]
    present = () if folder in missing else tuple(os.listdir(folder))
    atexit.register(tidy, folder, present=present, missing=missing)


def tidy(folder: Path, *, present: Collection[str], missing: Sequence[Path]) -> None:
    """Remove the records of runs that left no result, and the folders that are empty then.

    Args:
        folder: of a run or a sweep.
        present: names in it that were there before; they stay.
        missing: folders that were not there before; those that are empty are removed.
    """
    # it ends where a folder may not be written
    with suppress(OSError):
        for run in [path for path in folder.iterdir() if path.name.isdecimal()]:
            if run.name not in present and _only_recorded(run):
                _remove_record(run)
                run.rmdir()
        if {path.name for path in folder.iterdir()} - {_RECORD, MULTIRUN} <= set(present):
            if _RECORD not in present:
                _remove_record(folder)
            if MULTIRUN not in present:
                (folder / MULTIRUN).unlink(missing_ok=True)
    for path in sorted(missing, key=lambda path: len(path.parts), reverse=True):
        with suppress(OSError):
            path.rmdir()


def _only_recorded(run: Path) -> bool:
    return run.is_dir() and {path.name for path in run.iterdir()} <= {_RECORD}


def _remove_record(run: Path) -> None:
    record = run / _RECORD
    if record.is_dir() and {path.name for path in record.iterdir()} <= set(_RECORDED):
        for name in _RECORDED:
            (record / name).unlink(missing_ok=True)
        record.rmdir()
