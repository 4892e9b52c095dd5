"""New images of a domain that a frozen diffusion model has never seen."""

import sys
from types import TracebackType

__version__ = "0.1.0"


def end_on_interrupt() -> None:
    """Have Ctrl-C end this program with one line and exit code 130, from its first import on."""

    def hook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.stderr.write("interrupted\n")
            sys.exit(130)
        before(kind, error, traceback)

    before = sys.excepthook
    sys.excepthook = hook


# so it is while `python -m` looks for a module of this package: programs alone end so
if sys.argv[:1] == ["-m"]:
    end_on_interrupt()
