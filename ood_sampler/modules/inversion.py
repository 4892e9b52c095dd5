"""Map images to latents."""

from collections.abc import Callable, Sequence

from torch import Tensor

from ood_sampler.codecs.base import Codec
from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.modules.prediction import Batch, CodecStage, OnNonFinite


class Inversion(CodecStage):
    """Invert images to the latents of one or several levels in one pass.

    Args:
        codec: the frozen model.
        at: the levels; the result of level `t` is named `str(t)`.
        names: of the images, for messages.
        noised_moves: moves from clean data on that noise replaces.
        noise: streams of some images, from their indices; needed if `noised_moves` > 0.
        on_nonfinite: whether NaN or infinity ends the stage, or is stored.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        at: Sequence[int],
        names: Sequence[str],
        noised_moves: int = 0,
        noise: Callable[[Sequence[int]], SampleNoise] | None = None,
        on_nonfinite: OnNonFinite = "raise",
    ) -> None:
        super().__init__(codec)
        self.at = at
        self.names = names
        self.noised_moves = noised_moves
        self.noise = noise
        self.on_nonfinite = on_nonfinite

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        indices, x_0 = batch
        latents = (
            self.codec.encode(x_0, self.at)
            if self.noise is None
            else self.codec.encode(
                x_0, self.at, noised_moves=self.noised_moves, noise=self.noise(indices)
            )
        )
        if self.on_nonfinite == "raise":
            names = [self.names[index] for index in indices]
            for level, z in latents.items():
                self.check_finite(z, names, latent_at(self.codec, level))
        return {str(level): z for level, z in latents.items()}


def latent_at(codec: Codec, level: int) -> str:
    """Name a latent, for messages that go on with an image's name."""
    at = f" at step {level}" if codec.schedule else ""
    return f"the latent{at} of image"
