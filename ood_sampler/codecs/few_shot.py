"""A diffusion model that is fitted to the few-shot images, as a codec."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from ood_sampler.codecs.diffusion import DiffusionCodec, DiffusionModel, ModelAround
from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.store.files import load_state
from ood_sampler.store.sets import TensorSet


class FewShotModel(DiffusionModel, Protocol):
    """A diffusion model whose denoiser is fitted to few-shot images; until then it has none."""

    def fit(self, images: TensorSet) -> dict[str, Tensor]:
        """Fit to images in $[-1, 1]$, and return all that the denoiser needs of them.

        Raises:
            ValueError: there are too few images.
        """

    def stand_in(self, count: int) -> dict[str, Tensor]:
        """State like that of `fit` for so many images, made quickly of noise, for timing."""

    def denoiser_of(self, state: Mapping[str, Tensor]) -> Denoiser:
        """The denoiser of a fitted state."""


@dataclass(frozen=True)
class FittedModel(ModelAround):
    """A model with its fitted state.

    Attributes:
        model: the model.
        fit: hash of everything that determines the state.
        read: reads the state.
    """

    model: FewShotModel
    fit: str
    read: Callable[[], Mapping[str, Tensor]]

    @property
    def digest(self) -> str:
        """SHA-256 of everything that its results depend on."""
        return hashlib.sha256(f"{self.model.digest} {self.fit}".encode()).hexdigest()

    @property
    def makers(self) -> tuple[type, ...]:
        """Classes whose code its results depend on."""
        return (type(self), *self.model.makers)

    @cached_property
    def denoiser(self) -> Denoiser:
        """The fitted denoiser.

        Raises:
            FileNotFoundError: the state was removed.
        """
        return self.model.denoiser_of(self.read())


# as many as a study with two domains uses at once
@lru_cache(maxsize=2)
def _read(path: Path) -> dict[str, Tensor]:
    state = load_state(path)
    if state is None:
        raise FileNotFoundError(f"{path} was removed during the run")
    return state


@dataclass(frozen=True)
class FewShotCodec(DiffusionCodec):
    """The codec of a model that must be fitted to few-shot images: its shapes and costs."""

    model: FewShotModel

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {}

    def fitted(self, fit: str, path: Path) -> DiffusionCodec:
        """The codec of the fitted model.

        Args:
            fit: hash of everything that determines the state.
            path: of the state.
        """
        return DiffusionCodec(FittedModel(self.model, fit, partial(_read, path)), self.solver)

    def timed(self, count: int) -> DiffusionCodec:
        """A codec that takes as long as one fitted to so many images."""
        stand_in = partial(self.model.stand_in, count)
        return DiffusionCodec(FittedModel(self.model, "stand-in", stand_in), self.solver)
