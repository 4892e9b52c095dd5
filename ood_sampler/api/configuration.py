"""Compose the configuration from Python, checked as the command line is."""

from collections.abc import Sequence

from omegaconf import DictConfig

from ood_sampler.command.arguments import read_command
from ood_sampler.command.quoting import has_several_values, takes_text
from ood_sampler.faults import CommandError

_FOLDER = "--config-dir="


def composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration with Hydra's own part.

    Args:
        overrides: settings as on the command line, `KEY=VALUE`; `--config-dir=FOLDER` names a
            folder with files of the user's own.

    Raises:
        CommandError: an unknown key or option, a value of another kind, or several values.
    """
    for text in overrides:
        if not isinstance(text, str):
            raise CommandError(f"settings must be texts as 'seed=1', got {text!r}")
        if text.startswith("-") and not text.startswith(_FOLDER):
            raise CommandError(f"{text} is of the command line alone: leave it out")
    command = read_command(list(overrides), name="run")
    several = [text for text in command.overrides if has_several_values(text)]
    if command.is_sweep or (several and not takes_text(several[0].partition("=")[0])):
        raise CommandError(
            f"{several[0] if several else 'this experiment'} is a sweep, a run of each of several "
            "values: call run once for each, or use the command line with -m"
        )
    command.check()
    return command.configuration.compose(command.overrides)
