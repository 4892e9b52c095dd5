"""Pictures to latents."""

from collections.abc import Sequence

from torch import Tensor

from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.solvers import Solver
from ood_sampler.modules.prediction import Batch, Stage


class Inversion(Stage):
    """Invert pictures to the latents of one or several steps in one pass.

    Args:
        denoiser: the frozen model.
        at: the steps; the result of step `t` is named `str(t)`.
        solver: grid and moves.
        names: of the pictures, for errors.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        at: Sequence[int],
        solver: Solver,
        names: Sequence[str],
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.at = at
        self.solver = solver
        self.names = names

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        indices, x_0 = batch
        latents = self.solver.invert(self.denoiser, x_0, self.at)
        names = [self.names[index] for index in indices]
        return {
            str(step): self.check_finite(x_t, names, f"the latent at step {step} of picture")
            for step, x_t in latents.items()
        }
