"""Latents to pictures."""

from torch import Tensor

from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.diffusion.solvers import Solver
from ood_sampler.diffusion.solvers.base import clip
from ood_sampler.modules.prediction import Batch, OnNonFinite, Stage

SAMPLE = "sample"


class Synthesis(Stage):
    """Decode latents of one step to pictures in $[-1, 1]$.

    Args:
        denoiser: the frozen model.
        step: the step of the latents.
        solver: grid and moves.
        eta: 0 deterministic, 1 DDPM.
        clip_x_0: clip every denoised image; right from pure noise only.
        seed: of the noise that `eta` > 0 adds.
        on_nonfinite: whether NaN or infinity ends the stage, or is stored.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        step: int,
        solver: Solver,
        eta: float,
        clip_x_0: bool,
        seed: int,
        on_nonfinite: OnNonFinite = "raise",
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.step = step
        self.solver = solver
        self.eta = eta
        self.clip_x_0 = clip_x_0
        self.seed = seed
        self.on_nonfinite = on_nonfinite

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        indices, x_t = batch
        noise = SampleNoise(self.seed, indices, stream=Stream.DECODE)
        x_0 = self.solver.decode(
            self.denoiser,
            x_t,
            step=self.step,
            eta=self.eta,
            noise=lambda: noise.normal(*x_t.shape[1:]),
            clip_x_0=self.clip_x_0,
        )
        if self.on_nonfinite == "raise":
            self.check_finite(x_0, indices, SAMPLE)
        return {"images": clip(x_0)}
