"""What is wrong with the settings of a command, in one sentence, before anything runs."""

import difflib
import importlib.util
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ood_sampler.command.files import SEARCH_PATH, SHIPPED, Configuration
from ood_sampler.command.quoting import parse
from ood_sampler.command.types import declared, flat
from ood_sampler.command.values import check_complete, check_value, plain
from ood_sampler.faults import CommandError, install

LAUNCHER = "hydra/launcher"
"""The group of what starts the runs of a sweep."""

_REMOVABLE = ("study", "experiment", "logger", "search")
"""Groups that a run can do without."""


@dataclass(frozen=True)
class Setting:
    """A setting of a command.

    Attributes:
        text: as it was given.
        parsed: as Hydra reads it.
        values: one setting for each of its values.
    """

    text: str
    parsed: Override
    values: tuple[str, ...]

    @property
    def key(self) -> str:
        """Without what adds or removes it."""
        return self.parsed.key_or_group

    def is_option(self, configuration: Configuration) -> bool:
        """Whether it chooses an option of a group."""
        plain = not (self.parsed.is_delete() or self.parsed.is_add() or self.parsed.is_force_add())
        return plain and self.parsed.package is None and configuration.is_group(self.key)

    def adds_option(self, configuration: Configuration) -> bool:
        """Whether it adds an option of a group that no run has unless told, as +GROUP=OPTION."""
        added = self.parsed.is_add() and self.parsed.package is None
        return added and configuration.is_group(self.key)


def is_sweep(overrides: Iterable[str], configuration: Configuration) -> bool:
    """Whether settings make a sweep of a command, as -m does."""
    mode = None
    for text in overrides:
        group, _, option = text.partition("=")
        if group == "hydra.mode":
            mode = option.upper() == "MULTIRUN"
        file = configuration.file(group, option) if group == "experiment" else None
        if mode is None and file is not None and "mode: MULTIRUN" in file.read_text():
            mode = True
    return bool(mode)


def check_command(
    overrides: Sequence[str],
    *,
    sweep: bool = True,
    configuration: Configuration = SHIPPED,
    complete: bool = True,
) -> None:
    """Compose the configuration, to say in one sentence what is wrong with a command.

    Each option of a swept group is composed once.

    Args:
        overrides: the settings of the command.
        sweep: whether a key may have several values.
        configuration: where its files are.
        complete: whether all is needed that a run needs.

    Raises:
        CommandError: an unknown group, option or key (the nearest one is named), a value of
            another kind than the key's, several where one is meant, or a key that must be set and
            is not.
    """
    settings = [_setting(text, configuration, sweep=sweep) for text in overrides]
    for setting in settings:
        if setting.is_option(configuration) or setting.adds_option(configuration):
            for text in setting.values:
                _check_option(text.removeprefix("+"), configuration)
    groups = [setting.values for setting in settings if setting.is_option(configuration)]
    others = [setting for setting in settings if not setting.is_option(configuration)]
    first = [alternatives[0] for alternatives in groups]
    choices = [first]
    for position, alternatives in enumerate(groups):
        choices += [[*first[:position], a, *first[position + 1 :]] for a in alternatives[1:]]
    for chosen in choices:
        _check_choice(chosen, others, configuration, complete=complete)


def expand_glob(override: str, configuration: Configuration) -> str:
    """Write `GROUP=glob(...)` as a list of options, as Hydra's sweeper would.

    Raises:
        CommandError: there is no such option.
    """
    parsed = parse(override)
    found = None if parsed is None else parsed.value()
    if parsed is None or not isinstance(found, Glob):
        return override
    options = configuration.options(parsed.key_or_group)
    if not options:
        raise CommandError(f"{override}: glob chooses among the options of a group, as sampler")
    names = found.filter(options)
    if not names:
        raise CommandError(f"{override} is none of the options: {', '.join(options)}")
    return f"{parsed.get_key_element()}={','.join(names)}"


def _setting(text: str, configuration: Configuration, *, sweep: bool) -> Setting:
    try:
        parsed = OverridesParser.create().parse_override(text)
    except HydraException as error:
        # one without a sign of equality Hydra answers with a word of its grammar
        fault = f": {str(error).splitlines()[0]}" if "=" in text else ""
        raise CommandError(f"{text} cannot be read{fault}; write KEY=VALUE") from error
    if not parsed.key_or_group:
        raise CommandError(f"{text} names no key: write KEY=VALUE")
    if not parsed.is_sweep_override():
        return Setting(text, parsed, (text,))
    if not sweep:
        raise CommandError(f"{text} has several values: add -m to make a run of each")
    if isinstance(parsed.value(), Glob):
        return _setting(expand_glob(text, configuration), configuration, sweep=sweep)
    try:
        values = [f"{parsed.get_key_element()}={v}" for v in parsed.sweep_string_iterator()]
    except (HydraException, ValueError) as error:
        raise CommandError(
            f"{text} cannot be made a run of each value: give a list, choice(...) or a range(...) "
            "with a step other than 0"
        ) from error
    if not values:
        raise CommandError(f"{text} holds no value")
    return Setting(text, parsed, tuple(values))


def _check_choice(
    chosen: Sequence[str],
    others: Sequence[Setting],
    configuration: Configuration,
    *,
    complete: bool,
) -> None:
    """Check the keys of a command for one choice of options."""
    places = [setting.text for setting in others if setting.key == SEARCH_PATH]
    removed = [setting for setting in others if setting.parsed.is_delete()]
    added = [setting.values[0] for setting in others if setting.adds_option(configuration)]
    try:
        known = configuration.compose([*places, *chosen, *added])
        del known.hydra
        tree = plain(known)
        nodes = dict(flat(tree))
        for setting in removed:
            _check_removed(setting, nodes, configuration)
        for text in chain.from_iterable(setting.values for setting in others):
            key = _known_key(text, nodes, chosen, configuration)
            if key is not None:
                check_value(text, known, nodes[key], declared(tree, key, configuration.root))
        composed = configuration.compose([*chosen, *(setting.values[0] for setting in others)])
        del composed.hydra
    except (HydraException, OmegaConfBaseException) as error:
        raise CommandError(" ".join(str(error).split())) from error
    if complete:
        check_complete(composed, root=configuration.root)


def sweepable(
    override: str, overrides: Sequence[str], configuration: Configuration = SHIPPED
) -> str:
    """Write the setting of a key so that Hydra takes it where the key's group is swept.

    Hydra first composes a sweep with the default option of each group, which may not have the key.
    """
    groups = {text.partition("=")[0] for text in overrides if "," in text} - {"experiment"}
    swept = {group for group in groups if configuration.is_group(group)}
    group, dot, _ = override.partition("=")[0].partition(".")
    return f"++{override}" if dot and group in swept else override


def _check_option(text: str, configuration: Configuration) -> None:
    group, _, option = text.partition("=")
    option = option.strip("'\"")
    if text == f"{LAUNCHER}=basic":
        # Hydra's own: one run after the other
        return
    if configuration.file(group, option) is None:
        options = configuration.options(group)
        raise CommandError(
            f"{group}={option} is not known{nearest(option, options)}; there are: "
            + ", ".join(options)
        )
    if group == LAUNCHER:
        _check_launcher(option, configuration)


def _check_launcher(option: str, configuration: Configuration) -> None:
    """Refuse a launcher whose package is not installed, or whose cluster is not there."""
    target = str(OmegaConf.load(configuration.file(LAUNCHER, option) or "")._target_)
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


def _check_removed(
    setting: Setting, nodes: Mapping[str, Any], configuration: Configuration
) -> None:
    """Refuse to remove what every run needs."""
    key = setting.key
    if key in _REMOVABLE or key.startswith("hydra") or nodes.get(key) is None:
        return
    group, dot, _ = key.partition(".")
    if dot and configuration.is_group(group):
        return
    instead = {"trainer": "trainer=auto is the default"}
    raise CommandError(
        f"{setting.text} removes what every run needs: "
        + instead.get(key, f"leave it out, or set {key} to something else")
    )


def _known_key(
    text: str, nodes: Mapping[str, Any], chosen: Sequence[str], configuration: Configuration
) -> str | None:
    """The key that a setting gives a value to; None if all of it is Hydra's to judge."""
    parsed = OverridesParser.create().parse_override(text)
    key = parsed.key_or_group
    adds = parsed.is_add() or parsed.is_force_add()
    if (
        parsed.is_delete()
        or parsed.package is not None
        or key.startswith("hydra")
        or configuration.is_group(key)
        or (adds and key not in nodes)
    ):
        return None
    if key not in nodes:
        options = [text for text in chosen if text.startswith(f"{key.partition('.')[0]}=")]
        raise CommandError(
            f"{key} is not known{''.join(f' with {option}' for option in options)}"
            f"{nearest(key, sorted({*nodes, *configuration.groups()}))}; --help lists the keys"
        )
    return key


def nearest(word: str, words: Sequence[str]) -> str:
    """A question after the most similar word."""
    found = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""
