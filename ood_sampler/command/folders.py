"""The folder of a run and of its sweep: what is in it, and that it goes if nothing is."""

import atexit
import logging
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ood_sampler.names import MULTIRUN

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
"""In the folder of a run: its resolved configuration, written when all else is there."""

FAILED = "failed.txt"
"""In the folder of a run of a sweep: why it failed."""

_FREE = frozenset({"sweep", "output", "dry_run", "logger"})
"""Settings that no result depends on."""

_RECORD = ".hydra"
"""Folder with the configuration of a run, which Hydra writes before the run begins."""

_RECORDED = ("config.yaml", "hydra.yaml", "overrides.yaml")


def run_folder() -> Path:
    """The folder of this run."""
    return Path(HydraConfig.get().runtime.output_dir)


def in_sweep() -> bool:
    """Whether this run is one of a sweep."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def sweep_name() -> str | None:
    """The name of the sweep that this run belongs to."""
    return Path(HydraConfig.get().sweep.dir).name if in_sweep() else None


def sweep_number() -> str:
    """Which run of a sweep this is, in words; empty if it is none."""
    return f"run {HydraConfig.get().job.num}" if in_sweep() else ""


def of_sweep(number: str, name: str) -> str:
    """Name something with the run of the sweep that it belongs to (`sweep_number`), if any."""
    return ", ".join(filter(None, (number, name)))


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """All of a configuration but Hydra's own part, with what its keys refer to in their place."""
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    plain: dict[str, Any] = OmegaConf.to_container(own, resolve=True)  # type: ignore[assignment]
    return plain


def write_configuration(folder: Path, cfg: DictConfig) -> None:
    """Note in the folder of a run, when all else is there, what it was told."""
    from ood_sampler.store.files import write_atomically

    write_atomically(folder / CONFIG, OmegaConf.to_yaml(cfg, resolve=True).encode())


def is_finished(folder: Path, cfg: DictConfig) -> bool:
    """Whether a sweep that is continued has this run already; if not, make way for it."""
    # of an earlier attempt, where the folder is one that the user chose
    (folder / FAILED).unlink(missing_ok=True)
    if not in_sweep() or cfg.sweep is None:
        return False
    if finished(folder, cfg):
        log.info("run %d is finished already: %s", HydraConfig.get().job.num, folder)
        return True
    if not cfg.dry_run:
        # what tells a finished run is there again when it is one
        (folder / CONFIG).unlink(missing_ok=True)
    return False


def note_failure(folder: Path, sentence: str) -> None:
    """Say in the folder of a run why it failed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAILED).write_text(sentence + "\n", encoding="utf-8")


def finished(folder: Path, cfg: DictConfig) -> bool:
    """Tell whether the folder of a run holds all results of a configuration."""
    file = folder / CONFIG
    return file.exists() and _results_depend_on(OmegaConf.load(file)) == _results_depend_on(
        # as it comes back from a file
        OmegaConf.create(OmegaConf.to_yaml(cfg, resolve=True))
    )


def _results_depend_on(cfg: Any) -> dict[str, Any]:  # noqa: ANN401 what OmegaConf returns
    return {key: value for key, value in OmegaConf.to_container(cfg).items() if key not in _FREE}  # type: ignore[union-attr,misc]


def is_free(override: str) -> bool:
    """Whether no result depends on a setting."""
    return override.lstrip("+~").partition("=")[0].partition(".")[0] in _FREE


def tidy_at_exit(folder: Path, *others: Path) -> None:
    """Remove the folder of a run or a sweep when this process ends, if it is empty by then.

    Args:
        folder: of the run or the sweep, before anything is written into it. Files and parent
            folders that exist already are kept.
        others: further folders to remove if this process makes them and leaves them empty.
    """
    folder, rest = folder.absolute(), [path.absolute() for path in others]
    places = {place for path in (folder, *rest) for place in (path, *path.parents)}
    missing = [path for path in places if not os.path.lexists(path)]
    present = () if folder in missing else tuple(os.listdir(folder))
    atexit.register(tidy, folder, present=present, missing=missing)


def tidy(folder: Path, *, present: Collection[str], missing: Sequence[Path]) -> None:
    """Remove the records of runs without a result, and folders that are empty afterwards.

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
