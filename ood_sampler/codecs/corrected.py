"""A frozen diffusion model along the corrected flow, as a model of its own."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol

import safetensors.torch
import torch
from torch import Tensor

from ood_sampler.codecs.autoencoder import AutoencoderCodec
from ood_sampler.codecs.base import Codec
from ood_sampler.codecs.diffusion import DiffusionCodec, DiffusionModel, ModelAround
from ood_sampler.diffusion.correction import CorrectedDenoiser
from ood_sampler.diffusion.gaussian import Gaussian, fit_gaussian
from ood_sampler.store.files import load_state
from ood_sampler.store.sets import InMemory


class GaussianSource(Protocol):
    """Where the Gaussian of a correction comes from."""

    @property
    def digest(self) -> str:
        """Hash of everything that determines it."""

    def read(self) -> Gaussian:
        """Read the Gaussian."""


@dataclass(frozen=True, eq=False)
class GivenGaussian:
    """A Gaussian in memory.

    Attributes:
        state: result of `fit_gaussian`.
    """

    state: Mapping[str, Tensor]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its values."""
        return hashlib.sha256(safetensors.torch.save(dict(self.state))).hexdigest()

    def read(self) -> Gaussian:
        """The Gaussian."""
        return self._gaussian

    @cached_property
    def _gaussian(self) -> Gaussian:
        return Gaussian(self.state)


@dataclass(frozen=True)
class StandIn:
    """A Gaussian that takes as much time as one that is fitted to so many images.

    Attributes:
        count: number of images.
        shape: of each.
    """

    count: int
    shape: tuple[int, ...]

    @property
    def digest(self) -> str:
        """What tells it from others."""
        return f"stand-in {self.count}"

    def read(self) -> Gaussian:
        """Make it of noise."""
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(self.count, *self.shape, generator=generator)
        return Gaussian(fit_gaussian(InMemory(images), shrinkage=0.5))


@dataclass(frozen=True)
class FittedGaussian:
    """A Gaussian that a node fits.

    Attributes:
        digest: hash of everything that determines it.
        path: of its state.
    """

    digest: str
    path: Path

    def read(self) -> Gaussian:
        """Read the Gaussian, as one object for all callers.

        Raises:
            FileNotFoundError: it was removed.
        """
        return _read(self.path)


# as many as a study with two domains uses at once
@lru_cache(maxsize=4)
def _read(path: Path) -> Gaussian:
    state = load_state(path)
    if state is None:
        raise FileNotFoundError(f"{path} was removed during the run")
    return Gaussian(state)


@dataclass(frozen=True)
class CorrectedModel(ModelAround):
    """A diffusion model with corrected score; see `CorrectedDenoiser`.

    Attributes:
        model: the frozen model.
        target: Gaussian of the few-shot images.
        own: Gaussian of the model's own domain.
        weight: of the correction.
        fade: step below which the weight falls.
    """

    model: DiffusionModel
    target: GaussianSource
    own: GaussianSource
    weight: float
    fade: int

    @property
    def digest(self) -> str:
        """SHA-256 of everything that its results depend on."""
        parts = [self.model.digest, self.target.digest, self.own.digest, self.weight, self.fade]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def makers(self) -> tuple[type, ...]:
        """Classes whose code its results depend on."""
        return (type(self), CorrectedDenoiser, *self.model.makers)

    @cached_property
    def denoiser(self) -> CorrectedDenoiser:
        """The network with its correction.

        Raises:
            FileNotFoundError: weights or a Gaussian are missing.
        """
        return CorrectedDenoiser(
            self.model.denoiser,
            self.target.read(),
            self.own.read(),
            weight=self.weight,
            fade=self.fade,
        )


def corrected(
    codec: Codec, target: GaussianSource, own: GaussianSource, *, weight: float, fade: int
) -> Codec:
    """Correct the flow of a diffusion model's codec.

    Raises:
        TypeError: the codec is that of another kind of model.
    """
    if isinstance(codec, AutoencoderCodec):
        inside = corrected(codec.inside, target, own, weight=weight, fade=fade)
        return replace(codec, inside=inside)
    if not isinstance(codec, DiffusionCodec):
        raise TypeError(f"codec must be that of a diffusion model, got {type(codec).__name__}")
    return replace(codec, model=CorrectedModel(codec.model, target, own, weight, fade))
