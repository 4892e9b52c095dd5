"""Forward noising of the few-shot images: the baseline that every strategy must beat."""

from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.samplers.base import Fitted, InvertedSet, Sampler


class NoisedSampler(Sampler):
    r"""$x_t = \alpha_t x_0 + \sigma_t z$, a random few-shot image noised (Meng et al., 2022)."""

    @property
    def needs_schedule(self) -> bool:
        return True

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        index = noise.choice(len(inverted.images), 1)[:, 0]
        x_0 = inverted.images.take(index.tolist())
        return inverted.diffusion.diffuse(x_0, noise.normal(*x_0.shape[1:]), inverted.step)
