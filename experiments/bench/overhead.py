"""Time of inversion and decoding, as a run does them, against the bare network evaluations.

    make bench

Both in one process, in turn, on the same batches; the ratio is taken pair by pair. The stage's time
holds everything: Lightning, reading, the solver, checks, checksums and writing of the shards.
"""

import argparse
import functools
import statistics
import tempfile
import time
from pathlib import Path

import lightning
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ood_sampler.data.artifact import Artifact, Items
from ood_sampler.data.domain import embedded_domain
from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.solvers import DdimSolver
from ood_sampler.models.frozen import FrozenModel
from ood_sampler.modules.allocation import keep_freed_memory
from ood_sampler.modules.inversion import Inversion
from ood_sampler.modules.prediction import compute
from ood_sampler.modules.synthesis import Synthesis

GOAL = 1.10
STEP = 500
SOLVER = DdimSolver(steps=50, power=2)


@torch.inference_mode()
def bare(denoiser: Denoiser, images: Tensor, batch_size: int, calls: int) -> float:
    """Seconds of the network alone: `calls` evaluations of every image."""
    t = torch.tensor(STEP)
    start = time.perf_counter()
    for block in torch.split(images, batch_size):
        for _ in range(calls):
            denoiser.eps(block, t)
    return time.perf_counter() - start


def stages(denoiser: Denoiser, few_shot: Dataset[Tensor], count: int, batch_size: int) -> float:
    """Seconds of inverting and decoding `count` images as a run does."""
    trainer = functools.partial(lightning.Trainer, accelerator="cpu", devices=1)
    with tempfile.TemporaryDirectory() as folder:
        latents = Artifact(Path(folder), "inversion", {}, count, tuple(few_shot[0].shape))
        images = Artifact(Path(folder), "images", {}, count, latents.shape)
        names = [str(i) for i in range(count)]
        start = time.perf_counter()
        compute(
            Inversion(denoiser, at=[STEP], solver=SOLVER, names=names),
            few_shot,
            {str(STEP): latents},
            trainer=trainer,
            batch_size=batch_size,
        )
        compute(
            Synthesis(denoiser, step=STEP, solver=SOLVER, eta=0.0, clip_x_0=False, seed=0),
            Items(latents.open()),
            {"images": images},
            trainer=trainer,
            batch_size=batch_size,
        )
        return time.perf_counter() - start


def main() -> None:
    """Print the table of ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    model = FrozenModel(name="dog32", path="dog32", resolution=32)
    # both sides as a stage prepares its process
    keep_freed_memory()
    model.denoiser.to(memory_format=torch.channels_last)
    few_shot = embedded_domain(name="galaxy32", resolution=32, few_shot=128, held_out=None).few_shot
    T = model.schedule.T
    calls = SOLVER.inversion_evaluations([STEP], T=T) + SOLVER.decoding_evaluations(STEP, T=T)
    print(f"threads {torch.get_num_threads()}, torch {torch.__version__}, {calls} evaluations")
    print("batch  images  bare s  stages s  ratio min / median / max  goal")
    for batch_size, count in ((1, 4), (16, 32), (64, 64)):
        images = torch.stack([few_shot[i] for i in range(count)])
        bare(model.denoiser, images[:batch_size], batch_size, 3)
        pairs = [
            (
                bare(model.denoiser, images, batch_size, calls),
                stages(model.denoiser, few_shot, count, batch_size),
            )
            for _ in range(arguments.repeats)
        ]
        ratios = sorted(whole / network for network, whole in pairs)
        middle = statistics.median(ratios)
        verdict = "met" if middle <= GOAL else "MISSED"
        print(
            f"{batch_size:5d}  {count:6d}  {min(p[0] for p in pairs):6.2f}  "
            f"{min(p[1] for p in pairs):8.2f}  {ratios[0]:.3f} / {middle:.3f} / {ratios[-1]:.3f}"
            f"  <= {GOAL:.2f} {verdict}"
        )


if __name__ == "__main__":
    main()
