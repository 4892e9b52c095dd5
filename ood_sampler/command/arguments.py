"""The arguments of a command: Hydra's options, and settings as Hydra takes them."""

import argparse
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ood_sampler import __version__
from ood_sampler.command.checking import check_command, expand_glob, is_sweep, nearest, sweepable
from ood_sampler.command.files import Configuration, find_configuration
from ood_sampler.command.quoting import as_typed, has_several_values, one_value, takes_text
from ood_sampler.faults import CommandError

_FLAG = {"action": "store_true"}

_OPTIONS: Mapping[tuple[str, ...], Mapping[str, Any]] = {
    ("--help", "-h"): _FLAG,
    ("--hydra-help",): _FLAG,
    ("--version",): {
        "action": "version",
        "version": f"ood-sampler {__version__}, Hydra {version('hydra-core')}",
    },
    ("--cfg", "-c"): {"choices": ("job", "hydra", "all")},
    ("--resolve",): _FLAG,
    ("--package", "-p"): {},
    ("--run", "-r"): _FLAG,
    ("--multirun", "-m"): _FLAG,
    ("--shell-completion", "-sc"): _FLAG,
    ("--config-path", "-cp"): {},
    ("--config-name", "-cn"): {},
    ("--config-dir", "-cd"): {},
    ("--experimental-rerun",): {},
    ("--info", "-i"): {
        "const": "all",
        "nargs": "?",
        "choices": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    },
}
"""Hydra's options by their names, as its own parser, which is private, reads them."""


@dataclass(frozen=True)
class Command:
    """A command that was read.

    Attributes:
        options: those of Hydra's parser.
        typed: settings as they were typed.
        overrides: the same as Hydra takes them.
        configuration: where its files are.
    """

    options: Namespace
    typed: tuple[str, ...]
    overrides: tuple[str, ...]
    configuration: Configuration

    @property
    def is_sweep(self) -> bool:
        """Whether it asks for a run of each of several values."""
        return self.options.multirun or is_sweep(self.overrides, self.configuration)

    @property
    def is_answered_by_hydra(self) -> bool:
        """Whether Hydra tells of itself, and nothing is composed for a run."""
        options = self.options
        asked = options.hydra_help or options.shell_completion or options.info is not None
        return bool(asked or options.experimental_rerun is not None)

    @property
    def repeated(self) -> tuple[str, ...]:
        """Settings that replace an earlier one of the same key: Hydra lets the last one count."""
        last: dict[str, str] = {}
        replaced: dict[str, None] = {}
        for text in self.typed:
            key = text.partition("=")[0].lstrip("+")
            if last.get(key, text) != text:
                replaced[key] = None
            last[key] = text
        return tuple(last[key] for key in replaced)

    def check(self) -> None:
        """Say in one sentence what is wrong with the settings of a run.

        Raises:
            CommandError: something is.
        """
        if self.is_answered_by_hydra:
            return
        shows = self.options.cfg is not None
        for typed, text in zip(self.typed, self.overrides, strict=True):
            if has_several_values(text) and shows:
                raise CommandError(f"{typed} has several values: --cfg shows a single run")
            key, _, value = typed.partition("=")
            if has_several_values(text) and takes_text(key) and not self.is_sweep:
                raise CommandError(
                    f"{typed} has several values: add -m to make a run of each, or type "
                    f"{one_value(key, value)} if it is one"
                )
        check_command(
            self.overrides,
            sweep=self.is_sweep,
            configuration=self.configuration,
            complete=not shows,
        )

    def arguments(self) -> list[str]:
        """The same command for Hydra's own parser, which takes no settings between options."""
        found: list[str] = []
        for name, value in vars(self.options).items():
            flag = f"--{name.replace('_', '-')}"
            if name != "overrides" and value is not None and value is not False:
                found.append(flag if value is True else f"{flag}={value}")
        overrides = self.overrides
        if self.is_sweep:
            overrides = tuple(expand_glob(text, self.configuration) for text in overrides)
        return found + [sweepable(text, overrides, self.configuration) for text in overrides]


def read_command(arguments: Sequence[str], *, name: str) -> Command:
    """Read the arguments of a command.

    Args:
        arguments: what comes after the program.
        name: of the file with the defaults of its settings.

    Raises:
        CommandError: an option is not known, or does not go with another; a folder of
            configurations is not there; a setting has no value.
    """
    options = _options(arguments)
    overrides = tuple(options.overrides if options.help else map(as_typed, options.overrides))
    configuration = find_configuration(
        overrides,
        name=options.config_name or name,
        main=options.config_path,
        more=options.config_dir,
    )
    if options.config_path is not None:
        options.config_path = str(configuration.main)
    if options.config_dir is not None:
        # also for jobs that start elsewhere
        options.config_dir = str(Path(options.config_dir).expanduser().absolute())
    return Command(options, tuple(options.overrides), overrides, configuration)


def _options(arguments: Sequence[str]) -> Namespace:
    apart = [
        part
        for argument in arguments
        for part in (argument.split("=", 1) if argument.startswith("--help=") else [argument])
    ]
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("overrides", nargs="*")
    for names, settings in _OPTIONS.items():
        parser.add_argument(*names, **settings)
    try:
        options, unknown = parser.parse_known_intermixed_args(apart)
    except argparse.ArgumentError as error:
        raise CommandError(str(error)) from error
    if unknown:
        known = [name for names in _OPTIONS for name in names]
        raise CommandError(
            f"{unknown[0]} is not an option{nearest(unknown[0], known)}; --hydra-help lists them"
        )
    _check_together(options)
    return options


def _check_together(options: Namespace) -> None:
    """Refuse options that do not go with each other."""
    modes = {
        "-m": options.multirun,
        "--run": options.run,
        "--cfg": options.cfg is not None,
        "--info": options.info is not None,
        "--shell-completion": options.shell_completion,
    }
    given = [flag for flag, is_given in modes.items() if is_given]
    if len(given) > 1:
        raise CommandError(f"{given[0]} does not go with {given[1]}: leave one of them out")
    shells = ("install=", "uninstall=", "query=")
    if options.shell_completion and sum(t.startswith(shells) for t in options.overrides) != 1:
        raise CommandError("--shell-completion needs the shell: add install=bash or uninstall=bash")
    if options.resolve and options.cfg in ("hydra", "all"):
        raise CommandError(
            "--resolve goes with --cfg job alone: part of Hydra's own is known in a run only"
        )
    if options.cfg is None and (options.resolve or options.package is not None):
        flag = "--resolve" if options.resolve else "--package"
        raise CommandError(f"{flag} goes with --cfg: add --cfg job")
