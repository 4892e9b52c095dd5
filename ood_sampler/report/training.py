"""Snapshots of a training: images, and the weights that made them."""

from pathlib import Path

import lightning
import safetensors.torch
from lightning.pytorch.callbacks import Callback

from ood_sampler.diffusion.denoiser import VelocityDenoiser
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.diffusion.solvers import DdimSolver
from ood_sampler.modules.training import DenoiserTraining
from ood_sampler.report.grid import save_grid
from ood_sampler.store.files import write_atomically


class Snapshots(Callback):
    """Save averaged weights and a grid of their samples from pure noise while training.

    Args:
        folder: where `weights_<images seen>.safetensors` and `samples_<images seen>.png` go.
        every: training steps between two snapshots.
        count: samples per grid.
        steps: DDIM steps.
    """

    def __init__(self, *, folder: Path, every: int, count: int, steps: int) -> None:
        self.folder = folder
        self.every = every
        self.count = count
        self.solver = DdimSolver(steps=steps, power=1)

    def on_train_batch_end(  # type: ignore[override]
        self,
        trainer: lightning.Trainer,
        pl_module: DenoiserTraining,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        if (step % self.every and step != trainer.max_steps) or not trainer.is_global_zero:
            return
        denoiser = VelocityDenoiser(pl_module.ema, pl_module.schedule)
        noise = SampleNoise(0, range(self.count), stream=Stream.LATENT)
        x_T = noise.normal(*pl_module.images.shape[1:]).to(pl_module.device)
        T = pl_module.schedule.T
        images = self.solver.decode(denoiser, x_T, step=T - 1, clip_x_0=True)
        seen = f"{step * pl_module.batch_size:09d}"
        save_grid(images, self.folder / f"samples_{seen}.png")
        weights = {name: value.contiguous() for name, value in pl_module.ema.state_dict().items()}
        path = self.folder / f"weights_{seen}.safetensors"
        write_atomically(path, safetensors.torch.save(weights))
