"""Snapshots of a training: images, and the weights that made them."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Generic, TypeVar

import lightning
import safetensors.torch
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ood_sampler.diffusion.denoiser import VelocityDenoiser
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.diffusion.solvers import DdimSolver
from ood_sampler.modules.adversarial import AdversarialTraining
from ood_sampler.modules.training import DenoiserTraining
from ood_sampler.report.grid import save_grid
from ood_sampler.store.files import write_atomically

Trained = TypeVar("Trained", DenoiserTraining, AdversarialTraining)


class _Snapshots(Callback, ABC, Generic[Trained]):
    """Save averaged weights and a grid of their samples while training."""

    def __init__(self, *, folder: Path, every: int, count: int) -> None:
        self.folder = folder
        self.every = every
        self.count = count

    @abstractmethod
    def samples(self, module: Trained) -> Tensor:
        """Make the images of the grid, from the same noise each time."""

    def noise(self, *shape: int) -> Tensor:
        """Draw what the samples are made of."""
        return SampleNoise(0, range(self.count), stream=Stream.LATENT).normal(*shape)

    def on_train_batch_end(  # type: ignore[override]
        self,
        trainer: lightning.Trainer,
        pl_module: Trained,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        if (step % self.every and step != trainer.max_steps) or not trainer.is_global_zero:
            return
        images = self.samples(pl_module)
        seen = f"{step * pl_module.batch_size:09d}"
        save_grid(images, self.folder / f"samples_{seen}.png")
        weights = {name: value.contiguous() for name, value in pl_module.ema.state_dict().items()}
        path = self.folder / f"weights_{seen}.safetensors"
        write_atomically(path, safetensors.torch.save(weights))


class Snapshots(_Snapshots[DenoiserTraining]):
    """Save averaged weights and a grid of their samples from pure noise while training.

    Args:
        folder: where `weights_<images seen>.safetensors` and `samples_<images seen>.png` go.
        every: training steps between two snapshots.
        count: samples per grid.
        steps: DDIM steps.
    """

    def __init__(self, *, folder: Path, every: int, count: int, steps: int) -> None:
        super().__init__(folder=folder, every=every, count=count)
        self.solver = DdimSolver(steps=steps, power=1)

    def samples(self, module: DenoiserTraining) -> Tensor:
        denoiser = VelocityDenoiser(module.ema, module.schedule)
        x_T = self.noise(*module.images.shape[1:]).to(module.device)
        T = module.schedule.T
        return self.solver.decode(denoiser, x_T, step=T - 1, clip_x_0=True)


class GeneratorSnapshots(_Snapshots[AdversarialTraining]):
    """Save the averaged generator and a grid of its samples while training.

    Args:
        folder: where `weights_<images seen>.safetensors` and `samples_<images seen>.png` go.
        every: training steps between two snapshots.
        count: samples per grid.
    """

    @torch.no_grad()
    def samples(self, module: AdversarialTraining) -> Tensor:
        images: Tensor = module.ema(self.noise(module.ema.width).to(module.device))
        return images
