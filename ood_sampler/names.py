"""What domains, folders of runs and folders of sweeps are called; `conf/` asks by resolvers."""

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

ARTIFACTS = "artifacts"
"""Folder of what runs share, below that of all results."""

SWEEPS = "sweeps"
"""Folder of all sweeps, below that of all results."""

LAST = "last"
"""Value of `sweep` that means the one started last."""

MULTIRUN = "multirun.yaml"
"""What Hydra writes into the folder of a sweep, each time that it is started."""

_UNNAMED = "images"

_LONGEST = 60
"""Bytes of a part of a folder's name; most file systems allow 255 for all of it."""

_FILE = re.compile(r"(\.(zip|npy|npz|fits?|fts|fz|h5|hdf5?|gz))+$", re.IGNORECASE)
"""Suffixes of files that hold a whole domain."""

_ENCLOSED = re.compile(r"'[^']*'|\"[^\"]*\"|\[[^]]*\]|\{[^}]*\}")

_SEVERAL = re.compile(r"^(choice|range|glob|shuffle|sort|tag)\(|,")

_NAMING = {
    "model": {"model", "model.name"},
    "data": {"data", "data.name", "data.root", "data.id"},
    "study": {"study", "experiment"},
    "sampler": {"sampler", "experiment"},
}
"""Settings that change a part of a name."""


def register() -> None:
    """Make the names known to OmegaConf, in whichever process resolves a configuration."""
    OmegaConf.register_new_resolver("data_name", _data_name, replace=True)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    # cached, so that all runs of a sweep are told the same folder
    OmegaConf.register_new_resolver("sweep_folder", sweep_folder, use_cache=True, replace=True)


def _data_name(key: str, *, _parent_: DictConfig) -> str:
    """Name a domain by another key of its group; that key may not be set yet."""
    place = None if OmegaConf.is_missing(_parent_, key) else _parent_[key]
    return _UNNAMED if place is None else data_name(str(place))


def data_name(place: str) -> str:
    """Name a domain by the folder, archive or data set that holds it, without a file's suffix."""
    path = os.path.abspath(os.path.expanduser(place))
    name = _FILE.sub("", os.path.basename(path))
    # bytes that are not UTF-8 could not be written into any table
    name = os.fsencode(name).decode(errors="replace")
    name = "".join(c if c.isprintable() else " " for c in name)
    return " ".join(name.split()) or _UNNAMED


def file_name(text: str) -> str:
    """Write a name so that every file system and shell takes it as part of a file's name."""
    text = os.fsencode(text).decode(errors="replace")
    kept = [
        c if unicodedata.category(c)[0] in "LMN" or c in "._+-" else "-"
        for c in unicodedata.normalize("NFC", text)
    ]
    short = "".join(kept).encode()[:_LONGEST].decode(errors="ignore")
    return re.sub(r"-{2,}", "-", short).strip("-.")


def run_name(model: DictConfig, data: DictConfig, choices: Mapping[str, Any]) -> str:
    """Name a run by its model, its domain, and its study or its strategy.

    Args:
        model: group of the configuration.
        data: likewise.
        choices: option of each group.
    """
    return _joined(model.name, data.name, choices.get("study") or choices.get("sampler"))


def sweep_folder(
    output: str,
    sweep: object,
    now: str,
    model: DictConfig,
    data: DictConfig,
    choices: Mapping[str, Any],
    overrides: Sequence[str],
    params: Mapping[str, Any] | None,
) -> str:
    """Return the folder of a sweep, a new one or one to continue.

    A new one is named like a run, without what differs between its runs.

    Args:
        output: folder of all results.
        sweep: None for a new one; `last`; the name of one below `output`; or a path.
        now: date and time.
        model: group of the configuration.
        data: likewise.
        choices: option of each group.
        overrides: settings of the command.
        params: further ones, of the sweeper.

    Raises:
        FileNotFoundError: there is no such sweep.
    """
    every = Path(str(output), SWEEPS)
    if sweep is None:
        swept = _swept([*overrides, *(f"{key}={value}" for key, value in (params or {}).items())])
        question = "study" if choices.get("study") else "sampler"
        parts = {"model": model.name, "data": data.name, question: choices.get(question)}
        fixed = [part for group, part in parts.items() if not _NAMING[group] & swept]
        return str(every / _joined(now, *fixed))
    if sweep == LAST:
        started = sorted(every.glob(f"*/{MULTIRUN}"), key=lambda file: file.stat().st_mtime_ns)
        if not started:
            raise FileNotFoundError(
                f"there is no sweep in {every} that sweep={LAST} could continue"
            )
        return str(started[-1].parent)
    name = os.path.expanduser(str(sweep))
    for folder in (every / name, Path(name)):
        if (folder / MULTIRUN).is_file():
            return str(folder)
    raise FileNotFoundError(
        f"there is no sweep {every / name}: set sweep to the name of a folder in {every}, or to "
        f"{LAST}"
    )


def _joined(*parts: object) -> str:
    names = [file_name(str(part)) for part in parts if part is not None]
    return "_".join(name for name in names if name)


def _swept(texts: Sequence[str]) -> set[str]:
    """Keys of settings with several values."""
    pairs = (text.lstrip("+").partition("=") for text in texts)
    return {key for key, _, value in pairs if _SEVERAL.search(_ENCLOSED.sub("", value))}
