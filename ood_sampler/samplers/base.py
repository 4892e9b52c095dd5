"""The interface of a sampling strategy: fit on the inverted set, then draw latents."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.store.sets import TensorSet

Fitted = dict[str, Tensor]
"""What a strategy learned from the inverted set; stored beside the run."""


@dataclass(frozen=True)
class InvertedSet:
    """The few-shot pictures and their latents.

    Attributes:
        images: $N$ images in the space of the latents, without noise: $x_0$ in $[-1, 1]$ itself,
            or its code where an autoencoder stands around the model.
        latents: $x_t$ of the same pictures, in the same order, of the same shape.
        schedule: noise schedule of a diffusion model; None for other kinds.
        step: the step $t$ of the latents.
        in_domain: latents of the model's own domain at the same step, for strategies that ask for
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
            ValueError: the model is no diffusion model.
        """
        if self.schedule is None:
            raise ValueError("this strategy needs the noise schedule of a diffusion model")
        return self.schedule


class GaveUpError(ValueError):
    """A strategy can make nothing of these latents; others may, and settings of its own."""


class Sampler(ABC):
    """A strategy. Its constructor arguments are its configuration; it keeps no other state.

    A strategy is one file: a subclass, and a YAML file in `conf/sampler/` that names it.
    """

    @property
    def mixes(self) -> bool:
        """Whether draws are made of members alone: then they have a pixel-space control."""
        return False

    @property
    def recipe(self) -> str:
        """Which published recipe it is where there are several, for tables; empty by default."""
        return ""

    @property
    def in_domain_images(self) -> int:
        """Latents of the model's own domain that `fit` needs; none by default.

        The number must not depend on that of the samples, nor may any sample.
        """
        return 0

    @property
    def minimum_images(self) -> int:
        """Fewest inverted pictures it can work with."""
        return 1

    def check(self, inverted: InvertedSet) -> None:
        """Refuse a set that the strategy cannot use.

        Raises:
            GaveUpError: there are too few pictures.
            ValueError: a setting does not fit them, or the step.
        """
        if len(inverted.latents) < self.minimum_images:
            raise GaveUpError(
                f"{type(self).__name__} needs at least {self.minimum_images} few-shot images, got "
                f"{len(inverted.latents)}: add pictures or raise data.few_shot"
            )

    def fit(self, inverted: InvertedSet) -> Fitted:
        """Learn what the draws need; nothing by default.

        Raises:
            GaveUpError: the strategy can make nothing of the latents.
        """
        return {}

    def remarks(self, fitted: Fitted) -> list[str]:
        """What the report should say of the fit, a sentence each; nothing by default."""
        return []

    @abstractmethod
    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        """Draw one latent for each stream of `noise`, shape $(B, C, H, W)$, float32.

        Raises:
            GaveUpError: the strategy cannot make one.
        """
