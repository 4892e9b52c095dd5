"""Pure noise: the in-domain baseline."""

from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.samplers.base import Fitted, InvertedSet, Sampler


class StandardSampler(Sampler):
    r"""Draw from $\mathcal{N}(0, I)$; only meaningful at $t = T - 1$.

    Or at the step before, if the last keeps nothing of the image.
    """

    @property
    def needs_schedule(self) -> bool:
        return True

    def check(self, inverted: InvertedSet) -> None:
        super().check(inverted)
        last = inverted.diffusion.last_invertible
        if inverted.step < last:
            raise ValueError(
                f"inversion.step must be {last} for StandardSampler, got {inverted.step}: pure "
                "noise is what the model expects at its last step alone"
            )

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        return noise.normal(*inverted.latents.shape)
