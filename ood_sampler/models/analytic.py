"""Closed-form denoisers of the few-shot images in the place of a frozen network: controls."""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ood_sampler.codecs.few_shot import FewShotCodec
from ood_sampler.diffusion.closed_form import FittedGaussianDenoiser, PatchDenoiser
from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.gaussian import SMALLEST, Gaussian, fit_gaussian
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers.base import Solver
from ood_sampler.models.base import ModelInMemory
from ood_sampler.store.sets import InMemory, TensorSet


@dataclass(frozen=True)
class AnalyticModel(ModelInMemory, ABC):
    r"""A model without weights and without a domain of its own, fitted to the few-shot images.

    Its noise levels are those of DDPM: 1000 steps, $\beta$ from $10^{-4}$ to 0.02.

    Attributes:
        name: in tables.
        resolution: side of its images in pixels.
        channels: of its images.

    Raises:
        ValueError: a number is out of its range.
    """

    name: str
    resolution: int
    channels: int

    def __post_init__(self) -> None:
        for key in ("resolution", "channels"):
            value = getattr(self, key)
            if not (isinstance(value, int) and value >= 1):
                raise ValueError(f"model.{key} must be a whole number >= 1, got {value!r}")

    @property
    def digest(self) -> str:
        """SHA-256 of its kind and settings; what it is fitted to is told by the codec."""
        settings = {key: value for key, value in vars(self).items() if key in self._settings}
        identity = json.dumps([type(self).__name__, settings], sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()

    @property
    def _settings(self) -> tuple[str, ...]:
        """Attributes that the denoiser depends on."""
        return ("resolution", "channels")

    @cached_property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        return Schedule.linear()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of an image."""
        return self.channels, self.resolution, self.resolution

    @property
    def denoiser(self) -> Denoiser:
        """None before the model is fitted.

        Raises:
            TypeError: always.
        """
        raise TypeError("the model has no denoiser before it is fitted: take FewShotCodec.fitted")

    def codec(self, solver: Solver) -> FewShotCodec:
        """The model as a map between images and latents, which is still to be fitted."""
        return FewShotCodec(self, solver)

    def stand_in(self, count: int) -> dict[str, Tensor]:
        """State like that of `fit` for so many images, made quickly of noise, for timing."""
        generator = torch.Generator().manual_seed(0)
        return self._fit(InMemory(torch.rand(count, *self.latent_shape, generator=generator)))

    @property
    def has_own_domain(self) -> bool:
        """Whether it was trained on a domain: it was not."""
        return False

    @abstractmethod
    def fit(self, images: TensorSet) -> dict[str, Tensor]:
        """Fit to images in $[-1, 1]$, and return all that the denoiser needs of them.

        Raises:
            ValueError: there are too few images.
        """

    def _fit(self, images: TensorSet) -> dict[str, Tensor]:
        """As `fit`, but without choosing settings by the images."""
        return self.fit(images)

    @abstractmethod
    def denoiser_of(self, state: Mapping[str, Tensor]) -> Denoiser:
        """The denoiser of a fitted state."""


@dataclass(frozen=True)
class GaussianModel(AnalyticModel):
    r"""The Gaussian of the few-shot images (`fit_gaussian`) as a diffusion model."""

    @property
    def makers(self) -> tuple[type, ...]:
        """Classes whose code its results depend on."""
        return (type(self), FittedGaussianDenoiser)

    def fit(self, images: TensorSet) -> dict[str, Tensor]:
        if len(images) < SMALLEST:
            raise ValueError(
                f"model={self.name} needs at least {SMALLEST} few-shot images, got "
                f"{len(images)}: add images or raise data.few_shot"
            )
        return fit_gaussian(images)

    def _fit(self, images: TensorSet) -> dict[str, Tensor]:
        return fit_gaussian(images, shrinkage=0.5)

    def denoiser_of(self, state: Mapping[str, Tensor]) -> Denoiser:
        return FittedGaussianDenoiser(Gaussian(state), self.schedule)


@dataclass(frozen=True)
class PatchModel(AnalyticModel):
    r"""The local patches of the few-shot images as a diffusion model; see `PatchDenoiser`.

    Attributes:
        least: reach of a patch in clean images, in pixels.
        growth: pixels by which it grows with $\sigma_t / \alpha_t$.
        shift: translations of the few-shot images that count, in pixels.
    """

    least: float
    growth: float
    shift: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("least", "growth"):
            value = getattr(self, key)
            if not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise ValueError(f"model.{key} must be >= 0 and finite, got {value!r}")
        if not (isinstance(self.shift, int) and 0 <= self.shift < self.resolution):
            raise ValueError(
                f"model.shift must be a whole number in 0..{self.resolution - 1}, got "
                f"{self.shift!r}"
            )

    @property
    def makers(self) -> tuple[type, ...]:
        """Classes whose code its results depend on."""
        return (type(self), PatchDenoiser)

    @property
    def _settings(self) -> tuple[str, ...]:
        return (*super()._settings, "least", "growth", "shift")

    def fit(self, images: TensorSet) -> dict[str, Tensor]:
        return {"images": torch.cat([block.float() for block in images.blocks()])}

    def denoiser_of(self, state: Mapping[str, Tensor]) -> Denoiser:
        return PatchDenoiser(
            state["images"],
            self.schedule,
            least=self.least,
            growth=self.growth,
            shift=self.shift,
        )
