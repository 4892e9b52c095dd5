"""Pictures to latents."""

from collections.abc import Sequence

from torch import Tensor

from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.solvers import Solver
from ood_sampler.modules.prediction import Batch, OnNonFinite, Stage


class Inversion(Stage):
    """Invert pictures to the latents of one or several steps in one pass.

    Args:
        denoiser: the frozen model.
        at: the steps; the result of step `t` is named `str(t)`.
        solver: grid and moves.
        names: of the pictures, for errors.
        on_nonfinite: whether NaN or infinity ends the stage, or is stored.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        at: Sequence[int],
        solver: Solver,
        names: Sequence[str],
        on_nonfinite: OnNonFinite = "raise",
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.at = at
        self.solver = solver
        self.names = names
        self.on_nonfinite = on_nonfinite

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        indices, x_0 = batch
        latents = self.solver.invert(self.denoiser, x_0, self.at)
        if self.on_nonfinite == "raise":
            names = [self.names[index] for index in indices]
            for step, x_t in latents.items():
                self.check_finite(x_t, names, latent_at(step))
        return {str(step): x_t for step, x_t in latents.items()}


def latent_at(step: int) -> str:
    """What an inversion makes, for messages that go on with a picture's name."""
    return f"the latent at step {step} of picture"
