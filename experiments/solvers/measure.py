"""Round trips and latents of every solver on `dog32`, against the evaluations they take.

    python experiments/solvers/measure.py > table.md

Images are the few-shot galaxies, which the model never saw, and its own samples. A latent's error
is relative to a converged inversion, in float64, of a few of them; its round trip starts from the
latent alone, except in the rows named pairs. Rows go to the standard error as they are
measured.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ood_sampler.data.domain import embedded_domain
from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.solvers import (
    BdiaSolver,
    BelmSolver,
    DdimSolver,
    FixedPointSolver,
    HeunSolver,
    MultistepSolver,
    Solver,
    TwoStateSolver,
)
from ood_sampler.models.frozen import FrozenModel

DOMAINS = ("galaxy", "in-domain")


def solvers() -> Iterator[Solver]:
    """What is compared; the first one is what the goal is stated against."""
    yield DdimSolver(steps=500, power=1)
    for steps, power in ((33, 2), (33, 1), (33, 3), (17, 2), (62, 2)):
        yield MultistepSolver(steps=steps, power=power)
    for steps in (17, 31):
        yield MultistepSolver(steps=steps, power=2, corrections=2)
    yield MultistepSolver(steps=33, power=2, corrections=0)
    for steps, power in ((17, 2), (25, 1), (15, 3), (31, 2)):
        yield HeunSolver(steps=steps, power=power)
    for steps, power in ((17, 2), (25, 1), (15, 3), (31, 2)):
        yield FixedPointSolver(steps=steps, power=power, iterations=2)
    yield FixedPointSolver(steps=12, power=2, iterations=3, memory=2)
    for steps, power in ((50, 1), (36, 2), (33, 3)):
        yield DdimSolver(steps=steps, power=power)
    yield DdimSolver(steps=50, power=1, noise_at="target")
    for steps, power in ((33, 2), (50, 1), (33, 3)):
        yield BdiaSolver(steps=steps, power=power)
    for steps, power in ((50, 1), (33, 2)):
        yield BelmSolver(steps=steps, power=power)


def pictures(denoiser: Denoiser, count: int, device: str) -> Tensor:
    """Galaxies, then samples of the model rounded to 8 bits; shape $(2N, 3, 32, 32)$."""
    few_shot = embedded_domain(
        name="galaxy32", resolution=32, few_shot=max(count, 8), held_out=8
    ).few_shot
    galaxies = torch.stack([few_shot[i] for i in range(count)]).to(device)
    x_T = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    made = DdimSolver(steps=50, power=1).decode(denoiser, x_T, step=999, clip_x_0=True)
    return torch.cat([galaxies, ((made + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1])


def converged(
    denoiser: Denoiser, x_0: Tensor, at: Sequence[int], file: Path | None, *, moves: int = 300
) -> dict[int, Tensor]:
    """Latents by `moves` of Heun's method in float64; read from `file`, or written there."""
    if file is not None and file.exists():
        stored: dict[int, Tensor] = torch.load(file, weights_only=True)
        return stored
    latents = HeunSolver(steps=moves, power=2).invert(denoiser.double(), x_0.double(), at)
    denoiser.float()
    if file is not None:
        torch.save(latents, file)
    return latents


def name(solver: Solver) -> str:
    """Kind and options."""
    options = [
        f"{key} {value}"
        for key, value in vars(solver).items()
        if key not in ("steps", "power") and value not in (None, 0.0, 1.0, "source")
    ]
    kind = type(solver).__name__.removesuffix("Solver").lower()
    if isinstance(solver, MultistepSolver):
        options = [f"corrections {solver.corrections}"]
    return ", ".join([kind, *options])


@dataclass(frozen=True)
class Trip:
    """To the latents of a step and back, both domains one after the other."""

    label: str
    solver: Solver
    step: int
    cost: tuple[int, int]
    x_0: Tensor
    x_t: Tensor
    back: Tensor

    def rmse(self) -> float:
        """Of the round trip."""
        return float((self.back - self.x_0).double().square().mean().sqrt())

    def latent_error(self, exact: Tensor) -> float:
        """Relative to the exact latents of the first images."""
        return float((self.x_t[: len(exact)] - exact).norm() / exact.norm())

    def line(self, reference: Tensor) -> str:
        """The row of the table: round trip and latents of each domain."""
        cells = [
            self.label,
            f"{self.solver.steps}, {self.solver.power}",
            f"{self.cost[0]} + {self.cost[1]}",
        ]
        halves = (x.chunk(2) for x in (self.x_0, self.x_t, self.back, reference))
        for x_0, x_t, back, exact in zip(*halves, strict=True):
            domain = replace(self, x_0=x_0, x_t=x_t, back=back)
            cells += [
                f"{1e3 * domain.rmse():.3g}",
                f"{20 * math.log10(2 / domain.rmse()):.1f}",
                f"{100 * domain.latent_error(exact):.2f}",
                f"{float(x_t.std()):.3f}",
            ]
        return "| " + " | ".join(cells) + " |"


def trips(
    denoiser: Denoiser, solver: Solver, x_0: Tensor, at: Sequence[int], batch_size: int
) -> Iterator[Trip]:
    """Invert to all steps in one pass, decode from each; two-state solvers also in pairs."""
    blocks, T = x_0.split(batch_size), denoiser.schedule.T
    latents = [solver.invert(denoiser, block, at) for block in blocks]
    for step in at:
        x_t = torch.cat([block[step] for block in latents])
        back = [solver.decode(denoiser, z, step=step) for z in x_t.split(batch_size)]
        cost = (
            solver.inversion_evaluations([step], T=T),
            solver.decoding_evaluations(step, T=T),
        )
        yield Trip(name(solver), solver, step, cost, x_0, x_t, torch.cat(back))
    if isinstance(solver, TwoStateSolver):
        pairs = [solver.invert_pairs(denoiser, block, at) for block in blocks]
        for step in at:
            back = [
                solver.decode(denoiser, block[step][0], step=step, below=block[step][1])
                for block in pairs
            ]
            x_t = torch.cat([block[step][0] for block in pairs])
            cost = (
                solver.inversion_evaluations([step], T=T),
                # without the move that makes the partner
                solver.decoding_evaluations(step, T=T) - 2,
            )
            yield Trip(f"{name(solver)}, pairs", solver, step, cost, x_0, x_t, torch.cat(back))


def main() -> None:
    """Print one table a step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=64, help="of each domain")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--at", type=int, nargs="+", default=[500, 999], help="inversion steps")
    parser.add_argument("--converged", type=int, default=4, help="reference latents a domain")
    parser.add_argument("--reference", type=Path, help="file of the reference latents, kept")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    denoiser = FrozenModel(name="dog32", path="dog32", resolution=32).denoiser.to(arguments.device)
    x_0 = pictures(denoiser, arguments.pictures, arguments.device)
    some = torch.cat([half[: arguments.converged] for half in x_0.chunk(2)])
    reference = converged(denoiser, some, arguments.at, arguments.reference)
    lines: dict[int, list[str]] = {step: [] for step in arguments.at}
    for solver in solvers():
        for trip in trips(denoiser, solver, x_0, arguments.at, arguments.batch_size):
            lines[trip.step].append(trip.line(reference[trip.step]))
            print(trip.step, lines[trip.step][-1], file=sys.stderr, flush=True)
    figures = "RMSE × 10³ | PSNR, dB | latent error, % | latent std"
    for step, rows in lines.items():
        print(f"\nStep {step}, {arguments.pictures} images of each domain\n")
        print(f"| solver | steps, power | NFE | {' | '.join(f'{d}: {figures}' for d in DOMAINS)} |")
        print("|---" * 11 + "|")
        print("\n".join(rows))


if __name__ == "__main__":
    main()
