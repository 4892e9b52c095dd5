"""The interface of a sampling strategy: fit on the inverted set, then draw latents."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.store.sets import TensorSet

Fitted = dict[str, Tensor]
"""Fitted parameters of a strategy, stored beside the run."""


@dataclass(frozen=True)
class InvertedSet:
    """The few-shot images and their latents.

    Attributes:
        images: $N$ images in the space of the latents, without noise: $x_0$ in $[-1, 1]$ itself,
            or its code if the model diffuses codes of an autoencoder.
        latents: $x_t$ of the same images, in the same order, of the same shape.
        schedule: noise schedule of a diffusion model; None for other kinds.
        step: the step $t$ of the latents.
        in_domain: latents of the model's own domain at the same step, for strategies that need
            them (`Sampler.in_domain_images`); None for others.
    """

    images: TensorSet
    latents: TensorSet
    schedule: Schedule | None
    step: int
    in_domain: TensorSet | None = None

    @property
    def diffusion(self) -> Schedule:
        """The noise schedule.

        Raises:
            ValueError: the model is not a diffusion model.
        """
        if self.schedule is None:
            raise ValueError("this strategy needs the noise schedule of a diffusion model")
        return self.schedule


_SPATIAL = 3
"""Dimensions of a latent with rows and columns: $(C, H, W)$."""


class GaveUpError(ValueError):
    """A strategy fails on these latents; another strategy or other settings may not."""


class Sampler(ABC):
    """A strategy. Its constructor arguments are its configuration and its only state.

    To add a strategy, write one file with a subclass, and a YAML file in `conf/sampler/` for it.
    """

    @property
    def mixes(self) -> bool:
        """Whether draws mix only members of the set, and so have a pixel-space control."""
        return False

    @property
    def recipe(self) -> str:
        """Name of the published recipe if there are several, for tables; empty by default."""
        return ""

    @property
    def in_domain_images(self) -> int:
        """Number of latents of the model's own domain that `fit` needs; 0 by default.

        It must not depend on the number of samples, as no sample may.
        """
        return 0

    @property
    def needs_schedule(self) -> bool:
        """Whether draws depend on the noise of a step, so that only diffusion models will do."""
        return False

    @property
    def spatial(self) -> bool:
        """Whether draws depend on rows and columns of latents, which codes of a GAN have not."""
        return False

    @property
    def minimum_images(self) -> int:
        """Fewest inverted images that the strategy can use."""
        return 1

    def unmet(self, schedule: Schedule | None, shape: tuple[int, ...]) -> str:
        """What the strategy needs that a model does not have, in words; empty if nothing.

        Args:
            schedule: noise schedule of the model, None if it does not diffuse.
            shape: of a latent.
        """
        if self.needs_schedule and schedule is None:
            return "the noise schedule of a diffusion model"
        if self.spatial and len(shape) != _SPATIAL:
            return f"latents with rows and columns, not of shape {shape}"
        return ""

    def check(self, inverted: InvertedSet) -> None:
        """Refuse a set that the strategy cannot use.

        Raises:
            GaveUpError: there are too few images.
            ValueError: a setting does not fit the images, the step or the kind of model.
        """
        unmet = self.unmet(inverted.schedule, inverted.latents.shape)
        if unmet:
            raise ValueError(
                f"{type(self).__name__} needs {unmet}: choose another sampler, or another model"
            )
        if len(inverted.latents) < self.minimum_images:
            raise GaveUpError(
                f"{type(self).__name__} needs at least {self.minimum_images} few-shot images, got "
                f"{len(inverted.latents)}: add images or raise data.few_shot"
            )

    def fit(self, inverted: InvertedSet) -> Fitted:
        """Fit the parameters of the draws; none by default.

        Raises:
            GaveUpError: the strategy fails on these latents.
        """
        return {}

    def remarks(self, fitted: Fitted) -> list[str]:
        """Remarks on the fit for the report, a sentence each; none by default."""
        return []

    @abstractmethod
    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        """Draw one latent per stream of `noise`, shape $(B, C, H, W)$, float32.

        Raises:
            GaveUpError: the strategy cannot make one.
        """
