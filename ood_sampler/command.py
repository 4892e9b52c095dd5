"""The settings of a command: what is wrong with them, in one sentence, before anything runs.

With `run.py` and `train.py` the only file that knows Hydra.
"""

import difflib
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ood_sampler.faults import CommandError, install
from ood_sampler.help import CONF, keys

LAUNCHER = "hydra/launcher"
"""The group of what starts the runs of a sweep."""

_EXAMPLES = {"name": "mine", "id": "OWNER/NAME", "path": "/my/model", "resolution": "256"}
"""Values of keys that must be set, for a message; those of other keys are folders of pictures."""


def is_sweep(override: str) -> bool:
    """Whether a setting names an experiment that is a sweep."""
    group, _, option = override.partition("=")
    file = CONF / group / f"{option}.yaml"
    return group == "experiment" and file.is_file() and "mode: MULTIRUN" in file.read_text()


def check_command(overrides: Sequence[str], *, sweep: bool = True) -> None:
    """Compose the configuration, to say in one sentence what is wrong with a command.

    Each option of a swept group is composed once.

    Args:
        overrides: the settings of the command.
        sweep: whether a key may have several values.

    Raises:
        CommandError: an unknown group, option or key (the nearest one is named), a value of
            another kind than the key's, several where one is meant, or a key that must be set and
            is not.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        values = [
            [f"{o.key_or_group}={value}" for value in o.sweep_string_iterator()]
            if o.is_sweep_override()
            else [text]
            for o, text in zip(parsed, overrides, strict=True)
        ]
    except HydraException as error:
        raise CommandError(f"{str(error).splitlines()[0]}; write KEY=VALUE") from error
    swept = [text for o, text in zip(parsed, overrides, strict=True) if o.is_sweep_override()]
    if swept and not sweep:
        raise CommandError(f"{swept[0]} has several values: add -m to make a run of each")
    for text in chain.from_iterable(values):
        _check_option(text)
    groups = [alternatives for alternatives in values if _is_group(alternatives[0])]
    others = [alternatives for alternatives in values if not _is_group(alternatives[0])]
    first = [alternatives[0] for alternatives in groups]
    choices = [first]
    for position, alternatives in enumerate(groups):
        choices += [[*first[:position], a, *first[position + 1 :]] for a in alternatives[1:]]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for chosen in choices:
            _check_choice(chosen, others)


def _check_choice(chosen: Sequence[str], others: Sequence[Sequence[str]]) -> None:
    """Check the keys of a command for one choice of options."""
    try:
        known = compose("run", list(chosen))
        names = {key for key, _ in _leaves(known)}
        special = _special(chosen)
        for text in chain.from_iterable(others):
            _check_key(text, known, names, special, chosen)
        composed = compose("run", [*chosen, *(alternatives[0] for alternatives in others)])
    except (HydraException, OmegaConfBaseException) as error:
        raise CommandError(" ".join(str(error).split())) from error
    # as written: other keys may refer to one that is missing
    missing = sorted(key for key, node in _leaves(composed) if node._value() == "???")
    if missing:
        example = _EXAMPLES.get(missing[0].rpartition(".")[2], "/my/pictures")
        raise CommandError(f"{missing[0]} must be set, for example {missing[0]}={example}")
    if composed.output is None:
        raise CommandError("output must be set, for example output=outputs")
    _check_output(Path(str(composed.output)))


def sweepable(override: str, overrides: Sequence[str]) -> str:
    """Write the setting of a key so that Hydra takes it where the key's group is swept.

    Hydra first composes a sweep with the default option of each group, which may not have the key.
    """
    swept = {text.partition("=")[0] for text in overrides if _is_group(text) and "," in text} - {
        "experiment"
    }
    group, dot, _ = override.partition("=")[0].partition(".")
    return f"++{override}" if dot and group in swept else override


def _is_group(text: str) -> bool:
    return (CONF / text.partition("=")[0]).is_dir()


def _check_option(text: str) -> None:
    group, _, option = text.partition("=")
    options = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
    if text == f"{LAUNCHER}=basic":
        # Hydra's own: one run after the other
        return
    if _is_group(text) and option not in options:
        raise CommandError(
            f"{group}={option} is not known{_nearest(option, options)}; there are: "
            + ", ".join(options)
        )
    if group == LAUNCHER:
        _check_launcher(option)


def _check_launcher(option: str) -> None:
    """Refuse a launcher whose package is not installed, or whose cluster is not there."""
    target = str(OmegaConf.load(CONF / LAUNCHER / f"{option}.yaml")._target_)
    try:
        found = importlib.util.find_spec(".".join(target.split(".")[:2]))
    except ModuleNotFoundError:
        found = None
    if found is None:
        extra = "ray" if option == "ray" else "launchers"
        raise CommandError(f"{LAUNCHER}={option} is not installed: {install(extra)}")
    if option == "submitit_slurm" and shutil.which("srun") is None:
        raise CommandError(
            f"{LAUNCHER}={option} needs Slurm's commands, and there is no srun here: start the "
            f"sweep where jobs are submitted, or take {LAUNCHER}=submitit_local"
        )


def _check_output(folder: Path) -> None:
    """Refuse an output folder that cannot be made, which Hydra would answer with a traceback."""
    places = (folder.absolute(), *folder.absolute().parents)
    # os.path.exists: that of pathlib raises where a parent may not be read
    there = next(path for path in places if os.path.exists(path))
    if not (os.path.isdir(there) and os.access(there, os.W_OK)):
        raise CommandError(
            f"output={folder} cannot be written, {there} is no folder or not yours: set output to "
            "a folder that can"
        )


def _special(chosen: Sequence[str]) -> set[tuple[str, str]]:
    """Keys with the words that they may be beside values of their kind, as their comments say."""
    options = dict(text.split("=", 1) for text in chosen)
    files = [(CONF / "run.yaml", "")]
    files += [(CONF / group / f"{option}.yaml", f"{group}.") for group, option in options.items()]
    return {
        (key, word)
        for file, prefix in files
        if file.exists()
        for key, _, words in keys(file, prefix=prefix)
        for word in re.findall(r"\b(?:null|auto)\b", words)
    }


def _check_key(
    text: str,
    known: DictConfig,
    names: set[str],
    special: set[tuple[str, str]],
    chosen: Sequence[str],
) -> None:
    key, _, value = text.partition("=")
    if key.startswith(("+", "~", "hydra")) or _is_group(text):
        return
    if key not in names:
        groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
        options = [text for text in chosen if text.startswith(f"{key.partition('.')[0]}=")]
        raise CommandError(
            f"{key} is not known{''.join(f' with {option}' for option in options)}"
            f"{_nearest(key, sorted(names | groups))}; --help lists the keys"
        )
    default = OmegaConf.select(known, key, throw_on_missing=False)
    given = OmegaConf.create({"value": OverridesParser.create().parse_override(text).value()})
    if isinstance(default, DictConfig) and len(default):
        raise CommandError(f"{key} has keys of its own, {key}.{next(iter(default))!s} for example")
    kinds = {int: "a whole number", float: "a number", bool: "true or false"}
    allowed = (int, float) if type(default) is float else (type(default),)
    if (key, "null" if given.value is None else given.value) in special:
        return
    if isinstance(default, ListConfig) and not isinstance(given.value, ListConfig):
        example = "".join(str(default).split()).replace("'", "")
        raise CommandError(f"{key} must be a list, for example {key}={example}, got {value}")
    if type(default) in kinds and type(given.value) not in allowed:
        raise CommandError(f"{key} must be {kinds[type(default)]}, got {value}")


def _nearest(word: str, words: Sequence[str]) -> str:
    found = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


def _leaves(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key in cfg:
        path = f"{prefix}{key!s}"
        value = cfg._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none():
            yield path, value
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value
