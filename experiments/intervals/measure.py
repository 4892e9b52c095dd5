"""Coverage of the 95% intervals of KID, FID and differences of KIDs, by simulation.

    python -m experiments.intervals.measure > table.md

Each replicate draws all sets anew. They are stored below `--output`, a line each in a file
for each cell, from where an interrupted measurement continues.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from ood_sampler.metrics.comparison import difference_terms
from ood_sampler.metrics.features import unit_size
from ood_sampler.metrics.frechet import infinitesimal_jackknife
from ood_sampler.metrics.kernel import KernelTerms, between_pairs, distance_terms, within_pairs
from ood_sampler.statistics.intervals import STANDARD_ERRORS, normal_interval
from ood_sampler.statistics.resampling import Interval

Replicate: TypeAlias = dict[str, float]

DIFFERENCES = (("equal", "equal"), ("small", "equal"), ("large", "small"), ("large", "large"))
"""Pairs of sets whose distances to one reference are compared."""

ZERO = (
    "KID, equal",
    "KID ± 1.96 errors, equal",
    "KID, equal less equal",
    "KID, large less large",
)
"""Estimates whose truth is known; that of the others is the mean over replicates."""

_LATENT = 128


class Cell(NamedTuple):
    """Sizes of samples and reference, features, and how far the samples are shifted."""

    family: str
    width: int
    samples: int
    reference: int
    small: float
    large: float
    replicates: int
    frechet: int
    """Replicates that FID is computed of: one of 500 against 1,500 takes a second."""

    @property
    def name(self) -> str:
        return f"{self.family}-{self.width}-{self.samples}-{self.reference}"


CELLS = (
    Cell("network", 256, 128, 500, 0.1, 0.6, 1000, 1000),
    Cell("normal", 256, 128, 500, 0.2, 1, 1000, 300),
    Cell("network", 1280, 128, 500, 0.1, 0.6, 500, 300),
    Cell("network", 1280, 500, 1500, 0.05, 0.6, 300, 100),
    Cell("network", 256, 500, 1500, 0.05, 0.6, 500, 200),
    Cell("normal", 256, 500, 1500, 0.1, 1, 300, 100),
)


class Features:
    r"""Draw feature vectors of a family, float64.

    `normal` ones are independent standard normal numbers, moved by a quarter of the shift and
    spread by an eighth more. `network` ones are $\operatorname{GELU}(z W + b)$ of unit root mean
    square, with 128 latent numbers of variances $k^{-a}$ that are moved by the shift in a random
    direction, in standard deviations, and lose a quarter of it in spread. Exponent $a$ and the
    spread of $b$ are such that the mean cosine and the effective number of dimensions of the
    centred kernel, $(\sum \lambda)^2 / \sum \lambda^2$, are like those of real images: 0.77 and
    6 at 256 channels (`features32`: 0.83 to 0.90 and 6 to 11), 0.59 and 14 at 1,280 (`imagenet` on
    galaxies: 0.52 and 19).
    """

    def __init__(self, family: str, width: int) -> None:
        self.family, self.width = family, width
        exponent, spread = (2.0, 1.5) if width < 1000 else (1.5, 1.0)
        generator = torch.Generator().manual_seed(0)
        self.weight = _normal(_LATENT, width, generator) / math.sqrt(_LATENT)
        scale = torch.arange(1, _LATENT + 1, dtype=torch.float64) ** (-exponent / 2)
        self.scale = scale / scale.square().mean().sqrt()
        self.bias = spread * _normal(1, width, generator)
        self.direction = unit_size(_normal(1, _LATENT, generator))

    def draw(self, n: int, shift: float, generator: torch.Generator) -> Tensor:
        if self.family == "normal":
            return _normal(n, self.width, generator) * (1 + shift / 8) + shift / 4
        latent = _normal(n, _LATENT, generator) * (1 - shift / 4) + shift * self.direction
        return unit_size(functional.gelu(latent * self.scale @ self.weight + self.bias))


def _normal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def replicate(cell: Cell, features: Features, seed: int) -> Iterator[tuple[str, Replicate]]:
    """Draw all sets, and give each estimate with its interval, and its error as it was before."""
    generator = torch.Generator().manual_seed(seed)
    reference = features.draw(cell.reference, 0, generator)
    own = within_pairs(reference)
    shifts = {"equal": 0.0, "small": cell.small, "large": cell.large}
    sets = {
        name: [features.draw(cell.samples, shift, generator) for _ in range(2)]
        for name, shift in shifts.items()
    }
    pairs = {
        name: [(within_pairs(x), between_pairs(x, reference)) for x in two]
        for name, two in sets.items()
    }
    before = {}
    for name, two in pairs.items():
        terms, other = (distance_terms(within, own, between) for within, between in two)
        error = float(terms.estimate.standard_error)
        before[name] = [_plain(terms), _plain(other)]
        plain = before[name][0]
        yield f"KID, {name}", _row(terms.interval, error, plain)
        yield f"KID ± 1.96 errors, {name}", _row(normal_interval(*terms.estimate), error, plain)
        if seed < cell.frechet:
            distance = infinitesimal_jackknife(sets[name][0], reference)
            error = float(distance.standard_error)
            yield f"FID, {name}", _row(normal_interval(*distance), error, error)
    for first, second in DIFFERENCES:
        (xx, xr), (yy, yr) = pairs[first][0], pairs[second][first == second]
        found = difference_terms(xx, yy, xr, yr).estimate
        apart = math.hypot(before[first][0], before[second][first == second])
        yield (
            f"KID, {first} less {second}",
            _row(normal_interval(*found), float(found.standard_error), apart),
        )


def _plain(terms: KernelTerms) -> float:
    """Error of the jackknife without its correction, which finds the second order twice."""
    return math.sqrt(max(float(terms.first_order + 2 * terms.second_order), 0))


def _row(found: Interval, error: float, before: float) -> Replicate:
    return {**found._asdict(), "error": error, "before": before}


def measure(cell: Cell, folder: Path) -> dict[str, list[Replicate]]:
    """All replicates of a cell, by estimate."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{cell.name}.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    features = Features(cell.family, cell.width)
    for seed in range(len(lines), cell.replicates):
        lines.append(json.dumps(dict(replicate(cell, features, seed))))
        with file.open("a") as stored:
            stored.write(f"{lines[-1]}\n")
    found: dict[str, list[Replicate]] = defaultdict(list)
    for line in lines[: cell.replicates]:
        for name, values in json.loads(line).items():
            found[name].append(values)
    return found


def table(cell: Cell, found: Mapping[str, Sequence[Replicate]]) -> str:
    """A row an estimate."""
    heads = ("estimate", "n", "truth / spread", "error / spread", "covers, %", "above, below, %")
    lines = [
        f"**{cell.family}, {cell.width} channels, {cell.samples} against {cell.reference}**",
        "",
        f"| {' | '.join(heads)} | before, % |",
        "|---" * (len(heads) + 1) + "|",
    ]
    for name, rows in found.items():
        column = {key: torch.tensor([r[key] for r in rows]) for key in rows[0]}
        value, spread = column["value"], float(column["value"].std())
        truth = 0.0 if name in ZERO else float(value.mean())
        above, below = (
            float(missed.double().mean())
            for missed in (column["low"] > truth, column["high"] < truth)
        )
        within = (value - truth).abs() <= STANDARD_ERRORS * column["before"]
        cells = [
            name,
            f"{len(rows)}",
            f"{truth / spread:.1f}",
            f"{float(column['error'].mean()) / spread:.2f}",
            f"{100 * (1 - above - below):.1f}",
            f"{100 * above:.1f}, {100 * below:.1f}",
            f"{100 * float(within.double().mean()):.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is not measured, then print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[cell.name for cell in CELLS], help="cells")
    parser.add_argument("--replicates", type=int, help="at most so many of each cell")
    parser.add_argument("--output", type=Path, default=Path("outputs/intervals"))
    arguments = parser.parse_args()
    for cell in CELLS:
        if cell.name in arguments.only:
            cell = cell._replace(
                replicates=min(arguments.replicates or cell.replicates, cell.replicates)
            )
            found = measure(cell, arguments.output)
            print(cell.name, file=sys.stderr, flush=True)
            print(f"\n{table(cell, found)}", flush=True)


if __name__ == "__main__":
    main()
