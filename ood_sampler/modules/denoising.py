"""Map images to denoising losses: how strange the frozen model finds them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ood_sampler.codecs.base import Codec
from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.modules.prediction import Batch, CodecStage, OnNonFinite


class DenoisingLoss(CodecStage):
    r"""Compute the noise error of each image at some steps.

    $\lVert \epsilon - \epsilon_\theta(\alpha_t x_0 + \sigma_t \epsilon, t) \rVert^2 / d$ (Ho et
    al., 2020, eq. 14), whatever the model predicts, with noise $\epsilon$ that depends on
    `(seed, i, t)` alone.

    Args:
        codec: of the frozen diffusion model.
        at: the steps; the result of step `t` is named `str(t)`, shape $(B, 1)$.
        seed: of the noise.
        names: of the images, for messages.
        on_nonfinite: whether NaN or infinity ends the stage, or is stored.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        at: Sequence[int],
        seed: int,
        names: Sequence[str],
        on_nonfinite: OnNonFinite = "raise",
    ) -> None:
        super().__init__(codec)
        self.at = at
        self.seed = seed
        self.names = names
        self.on_nonfinite = on_nonfinite

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        indices, images = batch
        x_0 = self.codec.clean(images)
        denoiser: Denoiser = self.codec.networks["denoiser"]  # type: ignore[assignment]
        noise = SampleNoise(self.seed, indices, stream=Stream.DECODE)
        losses = {}
        for step in self.at:
            draws = [noise.attempts(i, [step]).normal(*x_0.shape[1:]) for i in range(len(indices))]
            eps = torch.cat(draws).to(x_0.device)
            x_t = denoiser.schedule.diffuse(x_0, eps, step)
            error = denoiser.eps(x_t, torch.full((), step, device=x_0.device)) - eps
            loss = error.flatten(1).square().mean(dim=1, keepdim=True)
            if self.on_nonfinite == "raise":
                names = [self.names[index] for index in indices]
                self.check_finite(loss, names, loss_at(step))
            losses[str(step)] = loss
        return losses


def loss_at(step: int) -> str:
    """Name a loss, for messages that go on with an image's name."""
    return f"the denoising loss at step {step} of image"
