"""One table of ratios with the goal beside each."""

import argparse
import importlib
import sys
import time

import torch

from experiments.bench.table import Ratio, markdown

BLOCKS = ("against_diffusers", "latents", "memory", "metrics", "overhead")
"""Files with a function `measure`, which yields ratios."""


def main() -> None:
    """Measure block after block, then print the table; on a GPU also what it can do."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench",
        description=__doc__,
    )
    parser.add_argument("--only", choices=(*BLOCKS, "gpu"), help="one block")
    arguments = parser.parse_args()
    ratios: list[Ratio] = []
    for name in BLOCKS if arguments.only is None else (arguments.only,):
        if name != "gpu":
            ratios += run(name)
    if ratios:
        print(markdown(ratios))
    if arguments.only == "gpu" or (arguments.only is None and torch.cuda.is_available()):
        importlib.import_module("experiments.bench.gpu").main([])


def run(name: str) -> list[Ratio]:
    """Measure one block, and say so on the standard error."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    start, ratios = time.perf_counter(), []
    for ratio in importlib.import_module(f"experiments.bench.{name}").measure():
        print(ratio.line(), file=sys.stderr, flush=True)
        ratios.append(ratio)
    print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return ratios


if __name__ == "__main__":
    main()
