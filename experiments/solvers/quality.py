"""KID of samples against the network evaluations that each solver takes, on `dog32`.

    python -m experiments.solvers.quality --folder dog=cifar10/test/dog.zip > quality.md

Few-shot images are inverted, `cog` of three draws as many latents, the same solver decodes them.
The draws are the same for every solver, so that the rows of a domain differ by the solver alone;
what KID's standard error covers, the choice of images, is common to them. Rows go to the standard
error as they are measured, and to `--rows`, from where an interrupted measurement continues.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from experiments.solvers.measure import name
from ood_sampler.data.domain import TargetDomain, embedded_domain, folder_domain
from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers import (
    BdiaSolver,
    BelmSolver,
    DdimSolver,
    FixedPointSolver,
    HeunSolver,
    MultistepSolver,
    Solver,
)
from ood_sampler.metrics.features import EmbeddedFeatures
from ood_sampler.metrics.kernel import jackknife
from ood_sampler.models.frozen import FrozenModel
from ood_sampler.samplers.base import InvertedSet
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.store.sets import InMemory


def solvers() -> Iterator[Solver]:
    """What is compared; the goal is stated against the first one."""
    yield DdimSolver(steps=200, power=1)
    yield MultistepSolver(steps=33, power=2)
    yield MultistepSolver(steps=17, power=2)
    yield DdimSolver(steps=50, power=1)
    yield DdimSolver(steps=36, power=2)
    yield FixedPointSolver(steps=17, power=2, iterations=2)
    yield HeunSolver(steps=17, power=2)
    yield BdiaSolver(steps=33, power=2)
    yield BelmSolver(steps=50, power=1)
    yield MultistepSolver(steps=9, power=2)


@dataclass(frozen=True)
class Trial:
    """Images of one domain, and the step they are inverted to.

    Attributes:
        few_shot: shape (N, 3, 32, 32).
        held_out: features of the held-out images.
        step: of the latents.
    """

    few_shot: Tensor
    held_out: Tensor
    step: int

    def samples(self, denoiser: Denoiser, solver: Solver, batch_size: int) -> tuple[Tensor, Tensor]:
        """As many new images as there are few-shot ones, and the reconstructions."""
        latents = torch.cat(
            [
                solver.invert(denoiser, block, [self.step])[self.step]
                for block in self.few_shot.split(batch_size)
            ]
        )
        inverted = InvertedSet(
            images=InMemory(self.few_shot),
            latents=InMemory(latents),
            schedule=denoiser.schedule,
            step=self.step,
        )
        sampler = CogSampler(references=3, cap=1)
        noise = SampleNoise(0, range(len(latents)), stream=Stream.LATENT)
        drawn = sampler.draw(sampler.fit(inverted), inverted, noise)
        made, back = (
            torch.cat(
                [
                    solver.decode(denoiser, block, step=self.step).clamp(-1, 1)
                    for block in z.split(batch_size)
                ]
            )
            for z in (drawn, latents[:32])
        )
        return made, back


def trials(domains: Sequence[TargetDomain], step: int) -> Iterator[tuple[str, Trial]]:
    """Every domain by its name."""
    features = EmbeddedFeatures()
    for domain in domains:
        few_shot, held_out = (
            torch.stack([images[i] for i in range(len(images))])
            for images in (domain.few_shot, domain.held_out)
        )
        with torch.inference_mode():
            described = torch.cat([features(block) for block in held_out.split(100)])
        yield domain.name, Trial(few_shot, described, step)


@torch.inference_mode()
def row(trial: Trial, denoiser: Denoiser, solver: Solver, batch_size: int) -> dict[str, float]:
    """KID of the samples, round trip of the images, and what both took."""
    start = time.perf_counter()
    made, back = trial.samples(denoiser, solver, batch_size)
    seconds = time.perf_counter() - start
    features = EmbeddedFeatures()
    described = torch.cat([features(block) for block in made.split(100)])
    kid = jackknife(described, trial.held_out)
    mse = (back - trial.few_shot[: len(back)]).double().square().mean()
    return {
        "kid": float(kid.value),
        "standard_error": float(kid.standard_error),
        "psnr": float(10 * torch.log10(4 / mse)),
        "seconds": seconds,
    }


def evaluations(solver: Solver, schedule: Schedule, step: int) -> str:
    """In + out."""
    inward = solver.inversion_evaluations([step], T=schedule.T)
    return f"{inward} + {solver.decoding_evaluations(step, T=schedule.T)}"


def main() -> None:
    """Measure what `--rows` has not, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=256, help="few-shot, and samples")
    parser.add_argument("--held-out", type=int, default=744)
    parser.add_argument("--step", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--folder", action="append", default=[], help="NAME=PATH of images")
    parser.add_argument("--rows", type=Path, default=Path("outputs/solvers_quality.json"))
    arguments = parser.parse_args()
    counts = {"few_shot": arguments.pictures, "held_out": arguments.held_out}
    domains = [
        embedded_domain(name=domain, resolution=32, **counts)
        for domain in ("galaxy32", "radiation32")
    ]
    for text in arguments.folder:
        folder, _, path = text.partition("=")
        domains.append(
            folder_domain(
                root=path,
                name=folder,
                resolution=32,
                seed=0,
                held_out_root=None,
                on_error="raise",
                **counts,
            )
        )
    denoiser = FrozenModel(name="dog32", path="dog32", resolution=32).denoiser
    denoiser.to(memory_format=torch.channels_last)
    rows = json.loads(arguments.rows.read_text()) if arguments.rows.exists() else {}
    known = dict(trials(domains, arguments.step))
    for solver in solvers():
        label = f"{name(solver)} | {solver.steps}, {solver.power}"
        for domain, trial in known.items():
            key = f"{label} | {domain} | {vars(arguments)['pictures']} | {arguments.step}"
            if key not in rows:
                rows[key] = row(trial, denoiser, solver, arguments.batch_size)
                arguments.rows.parent.mkdir(parents=True, exist_ok=True)
                arguments.rows.write_text(json.dumps(rows, indent=1))
            print(key, rows[key], file=sys.stderr, flush=True)
    print(f"| solver | steps, power | NFE | {' | '.join(f'{d}: KID × 10³ | dB' for d in known)} |")
    print("|---" * (3 + 2 * len(known)) + "|")
    for solver in solvers():
        label = f"{name(solver)} | {solver.steps}, {solver.power}"
        cells = [label, evaluations(solver, denoiser.schedule, arguments.step)]
        for domain in known:
            found = rows[f"{label} | {domain} | {arguments.pictures} | {arguments.step}"]
            cells.append(f"{1e3 * found['kid']:.1f} ± {1e3 * found['standard_error']:.1f}")
            cells.append(f"{found['psnr']:.1f}")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
