"""Values of a configuration: of the kind that their keys take, and complete."""

import importlib.util
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ood_sampler.command.quoting import one_value, takes_path, takes_text
from ood_sampler.command.types import Key, declared, flat
from ood_sampler.faults import CommandError

_EXAMPLES = {
    "name": "mine",
    "id": "OWNER/NAME",
    "path": "/my/model",
    "resolution": "256",
    "output": "outputs",
}
"""Values of keys that must be set, for a message; those of other keys are folders of images."""


_REFERRED_TO = ("model.name", "model.resolution", "data.name")
"""Keys that each option of the groups has, also a user's own."""


def check_complete(composed: DictConfig, *, root: type | None = None) -> None:
    """Refuse a configuration that no run can be made of.

    Args:
        composed: the configuration.
        root: structured config of its keys; values of files are checked too.

    Raises:
        CommandError: a key is not set, or its value is of another kind than the key's.
    """
    nodes = dict(flat(plain(composed)))
    # as written: other keys may refer to one that is missing
    missing = sorted(key for key, value in nodes.items() if value == "???")
    if missing:
        raise CommandError(_must_be_set(missing[0]))
    for key, value in nodes.items():
        if key == "output" or (takes_text(key) and not isinstance(value, Mapping)):
            _check_text(key, str(value), composed)
    for key in _REFERRED_TO:
        if root is not None and key not in nodes and key.partition(".")[0] in composed:
            raise CommandError(
                f"{key} is not set: a file of {key.partition('.')[0]} must have it, as folders and "
                "other keys refer to it"
            )
    if "output" in composed:
        if composed.output is None:
            raise CommandError(_must_be_set("output"))
        if composed.output.startswith("~"):
            raise CommandError(f"output={composed.output}: write the folder without ~ in a file")
        _check_output(Path(composed.output))
    for key, value in nodes.items():
        if key.rpartition(".")[2] == "_target_":
            _check_target(key, value)
        elif root is not None and not (isinstance(value, str) and "${" in value):
            _check_kind(key, value, declared({}, key, root))


def check_value(text: str, known: DictConfig, default: object, kind: Key) -> None:
    """Refuse a value of another kind than that of its key."""
    parsed = OverridesParser.create().parse_override(text)
    key, value = parsed.key_or_group, parsed.value()
    if isinstance(value, str) and "${" in value:
        if key.rpartition(".")[2].startswith("_"):
            raise CommandError(f"{key} must be written out, got {value}")
        return
    if isinstance(default, Mapping) and default:
        raise CommandError(f"{key} has keys of its own, {key}.{next(iter(default))} for example")
    if kind.is_open:
        # the value that the files give is all that tells of its kind
        found = type(OmegaConf.select(known, key, throw_on_missing=False))
        kind = Key(frozenset({list if found is ListConfig else found} & {bool, int, float, list}))
    unset = default == "???" or (takes_text(key) and default is not None)
    if value is None and unset and not kind.takes(None):
        raise CommandError(_must_be_set(key))
    typed = text.partition("=")[2] if isinstance(value, int | float) else ""
    _check_kind(key, value, kind, typed=typed, example=default)


def _check_kind(
    key: str, value: object, kind: Key, *, typed: str = "", example: object = None
) -> None:
    """Refuse a value of another kind than that of its key."""
    if kind.takes(value):
        return
    shown = "null" if value is None else value
    several = f", for example {key}={_written(example)}" if isinstance(example, list) else ""
    quotes = f"; write {one_value(key, typed)}" if str in kind.types and typed else ""
    raise CommandError(f"{key} must be {kind}{several}, got {typed or shown}{quotes}")


def _written(values: list[Any]) -> str:
    return "".join(str(values).split()).replace("'", "")


def _check_target(key: str, target: str) -> None:
    """Refuse what is in a module that Python does not find, such as a file of a user's own."""
    module = str(target).partition(".")[0]
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise CommandError(
            f"{key}={target}: there is no module {module}; put {module}.py into this folder, or "
            "its folder into PYTHONPATH"
        )


def _check_text(key: str, written: str, composed: DictConfig) -> None:
    try:
        value = OmegaConf.select(composed, key)
    except OmegaConfBaseException as error:
        sentence = str(error).splitlines()[0].rpartition("interpolation: ")[2].strip('"')
        # not for a key that refers to the one that asks for the variable
        if ("Environment variable" in sentence and "oc.env" in written) or key == "output":
            raise CommandError(f"{key}: {sentence}") from error
        # refers to what only a run knows
        return
    if not isinstance(value, str | None):
        raise CommandError(f"{key} must be text, got {value}: put quotes around it in its file")
    if value is not None and not value.strip():
        raise CommandError(f"{key} is empty: set it, for example {key}={_example(key)}")


def _must_be_set(key: str) -> str:
    return f"{key} must be set, for example {key}={_example(key)}"


def _example(key: str) -> str:
    return _EXAMPLES.get(key.rpartition(".")[2], "/my/images")


def _check_output(folder: Path) -> None:
    """Refuse an output folder that cannot be made, which Hydra would answer with a traceback.

    A folder is made to try it: permissions do not tell of a full or read-only disk, nor of `/proc`.
    """
    places = (folder.absolute(), *folder.absolute().parents)
    # os.path.exists: that of pathlib raises where a parent may not be read
    there = next(path for path in places if os.path.exists(path))
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".", dir=there))
    except OSError as error:
        raise CommandError(
            f"output={folder} cannot be written ({there}: {error.strerror}); set output to a "
            "folder that can"
        ) from error


def expand_home(cfg: DictConfig) -> None:
    """Put home folders in the place of `~` in paths that files give."""
    for key, value in flat(plain(cfg)):
        if takes_path(key) and isinstance(value, str) and value.startswith("~"):
            OmegaConf.update(cfg, key, os.path.expanduser(value))


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as written, with references to other keys unresolved."""
    found: dict[str, Any] = OmegaConf.to_container(cfg)  # type: ignore[assignment]
    return found
