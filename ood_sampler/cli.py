"""What the programs share: a command is read and checked, and what goes wrong is one sentence."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hydra.errors import InstantiationException

from ood_sampler.command.arguments import Command, read_command
from ood_sampler.faults import FAULTS, CommandError, is_interrupt, printable

log = logging.getLogger(__name__)


def start(
    name: str,
    *,
    explain: Callable[[Command], str],
    check: Callable[[Command], None],
    run: Callable[[], None],
    interrupted: str,
) -> None:
    """Answer `--help`, refuse a mistaken command, else hand over to Hydra.

    Args:
        name: of the file with the defaults of the settings.
        explain: the text of `--help`.
        check: raises a `CommandError` if something is wrong with the command.
        run: what `hydra.main` made.
        interrupted: what Ctrl-C is answered with before a run begins, or while a sweep waits for
            its runs; a run in this process tells of itself.
    """
    try:
        command = read_command(sys.argv[1:], name=name)
        if command.options.help:
            sys.stdout.write(explain(command))
            return
        check(command)
        for text in command.repeated:
            key = text.partition("=")[0]
            sys.stderr.write(f"warning: {key} is set more than once; the last one counts: {text}\n")
        sys.argv[1:] = command.arguments()
        run()
    except CommandError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write(f"{interrupted}\n")
        sys.exit(130)


@contextmanager
def one_sentence(interrupted: str, *, failed: Callable[[str], None]) -> Iterator[None]:
    """End what a mistake, a fault or Ctrl-C ends with one sentence, and no traceback.

    Args:
        interrupted: the sentence for Ctrl-C, which exits with code 130.
        failed: called with the sentence for all else, after it is told.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as ended:
        if not is_interrupt(ended):
            raise
        log.error(interrupted)
        sys.exit(130)
    except (InstantiationException, *FAULTS) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sentence = printable(" ".join(str(innermost(error)).split()))
        log.error("error: %s", sentence)
        failed(sentence)


def innermost(error: BaseException) -> BaseException:
    """The error that a constructor raised, out of Hydra's account of it."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def telling(notes: list[str]) -> Iterator[None]:
    """Tell of warnings and note them; they may explain the error that ends the block."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            yield
        finally:
            notes += [
                printable(str(w.message)) for w in caught if issubclass(w.category, UserWarning)
            ]
            for note in notes:
                log.warning("warning: %s", note)
