"""`ood-sampler`, also `python -m ood_sampler`: the programs of this package by one name."""

import difflib
import os
import runpy
import sys

from ood_sampler import __version__, end_on_interrupt

PROGRAMS = ("run", "models", "train")

HELP = """\
ood-sampler: new images of a domain that a frozen diffusion model has never seen.

usage: ood-sampler run [KEY=VALUE ...]     make them (python -m ood_sampler.run does the same)
       ood-sampler models                  the models and their weights
       ood-sampler train [KEY=VALUE ...]   train a model of your own
       ood-sampler --version

Each of the three has its own --help.
"""


def main() -> None:
    """Start a program as `python -m` does, so that processes it starts find it again."""
    end_on_interrupt()
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        sys.stdout.write(HELP)
    elif name == "--version":
        sys.stdout.write(f"ood-sampler {__version__}\n")
    elif name in PROGRAMS:
        sys.argv = [sys.argv[0], *arguments]
        # python -m has the current folder, which may hold strategies of a user's own
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        runpy.run_module(f"ood_sampler.{name}", run_name="__main__", alter_sys=True)
    else:
        near = difflib.get_close_matches(name, PROGRAMS, n=1)
        meant = near[0] if near else "run"
        sys.stderr.write(f"error: {name} is not known; try ood-sampler {meant} --help\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
