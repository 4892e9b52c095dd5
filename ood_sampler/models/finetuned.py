"""A fine-tuned model: the baseline for a frozen one."""

import copy
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ood_sampler.codecs.autoencoder import Autoencoder, AutoencoderCodec
from ood_sampler.codecs.base import Codec
from ood_sampler.codecs.diffusion import DiffusionCodec
from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers.base import Solver
from ood_sampler.models.base import ModelInMemory
from ood_sampler.models.frozen import FrozenModel
from ood_sampler.models.sources import sha256_of
from ood_sampler.models.state import load_strictly
from ood_sampler.store.tensor_files import read_state


@dataclass(frozen=True)
class FineTunedModel(ModelInMemory):
    """A model with other weights in its network; the base model stays as it is.

    Attributes:
        base: the model that the training began with.
        weights: file of the new weights, named as those of the base's network.
    """

    base: FrozenModel
    weights: Path

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"{self.base.name}, fine-tuned"

    @property
    def resolution(self) -> int:
        """Side of its images in pixels."""
        return self.base.resolution

    @property
    def channels(self) -> int:
        """Channels of its images."""
        return self.base.channels

    @property
    def schedule(self) -> Schedule:
        """Schedule of the base."""
        return self.base.schedule

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the digests of the base and of the new weights.

        Raises:
            FileNotFoundError: the file of new weights is missing.
        """
        return hashlib.sha256(f"{self.base.digest} {sha256_of(self.weights)}".encode()).hexdigest()

    @cached_property
    def denoiser(self) -> Denoiser:
        """A network of its own, with the new weights.

        Raises:
            FileNotFoundError: the file of new weights is missing.
            ValueError: they are not those of the base's network, or damaged.
        """
        denoiser = copy.deepcopy(self.base.denoiser)
        network: Any = denoiser.network
        load_strictly(network, read_state(self.weights), source=self.weights)
        return denoiser

    @property
    def makers(self) -> tuple[type, ...]:
        """Its class and those of the base."""
        return (type(self), *self.base.makers)

    @property
    def autoencoder(self) -> Autoencoder | None:
        """Autoencoder of the base, which is not fine-tuned."""
        return self.base.autoencoder

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Latent shape of the base."""
        return self.base.latent_shape

    def codec(self, solver: Solver) -> Codec:
        """The model as a map between images and latents, along a solver's trajectories."""
        inside = DiffusionCodec(self, solver)
        return inside if self.autoencoder is None else AutoencoderCodec(self, inside)

    def in_domain_file(self, extractor: str) -> Path | None:
        """Features of the domain that the base was trained on."""
        return self.base.in_domain_file(extractor)
