"""A frozen model as a run uses it: loaded when a stage first needs it, named by its weights."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ood_sampler.codecs.autoencoder import Autoencoder, AutoencoderCodec
from ood_sampler.codecs.base import Codec
from ood_sampler.codecs.diffusion import DiffusionCodec
from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers.base import Solver
from ood_sampler.faults import BrokenFileError
from ood_sampler.models.checkpoint import load_checkpoint, read_schedule
from ood_sampler.models.latent_diffusion import (
    AutoencoderConfig,
    load_autoencoder,
    read_autoencoder_config,
)
from ood_sampler.models.pretrained import UNet
from ood_sampler.models.weights import ASSETS, WeightFiles, Weights


@dataclass(frozen=True)
class FrozenModel:
    """A published model: where its weights are, and its architecture.

    Attributes:
        name: in tables, and of the model's folder in the cache.
        resolution: side of its images in pixels; of latent diffusion, of what it decodes to.
        path: a diffusers pipeline folder, a checkpoint file, or the hub id of a pipeline; None
            looks in the cache and then fetches from `sources` (`WeightFiles`).
        channels: of its images.
        architecture: of a checkpoint file, in the form that `load_checkpoint` takes; fields that
            are None are inferred from the file. A pipeline folder brings its own.
        label: the class, if the model is class-conditional.
        sources: known places of the weights (`parse_source`).
        in_domain_features: extractor name -> file with features of real images of the model's own
            domain, relative to the package's assets. Without one, samples of the model stand for
            its domain.

    Raises:
        ValueError: an entry of `sources` is malformed.
    """

    name: str
    resolution: int
    path: str | None = None
    channels: int = 3
    architecture: Mapping[str, Any] | None = None
    label: int | None = None
    sources: Sequence[Mapping[str, Any]] = ()
    in_domain_features: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self.weight_files

    @cached_property
    def weight_files(self) -> WeightFiles:
        """Where the weights are looked for."""
        path = None if self.path is None else str(self.path)
        return WeightFiles(name=self.name, path=path, sources=self.sources)

    @property
    def missing_megabytes(self) -> float | None:
        """Megabytes that `weights` would fetch now, NaN where not known; None if nothing.

        Raises:
            FileNotFoundError: the weights are missing and no source can be fetched from.
        """
        return self.weight_files.missing_megabytes()

    @cached_property
    def weights(self) -> Weights:
        """The weights, fetched if need be.

        Raises:
            FileNotFoundError: they are neither on disk nor to be fetched.
        """
        return self.weight_files.obtain()

    @cached_property
    def schedule(self) -> Schedule:
        """The noise schedule, read without building the network."""
        with self._opening():
            return read_schedule(self.weights.path, self._architecture)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over weights, configuration, architecture and label: the model's identity.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is not what it was at first use.
        """
        identity = [list(self.weights.checksums.values()), self._architecture, self.label]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @cached_property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of what the denoiser takes: of an image, or of the autoencoder's latents.

        Read without loading a network.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: the autoencoder does not take such images.
        """
        if self._autoencoder_config is None:
            return self.channels, self.resolution, self.resolution
        return self._autoencoder_config.latent_shape(self.channels, self.resolution)

    @cached_property
    def autoencoder(self) -> Autoencoder | None:
        """The autoencoder of latent diffusion, loaded at first use from weights that were checked.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is not what it was at first use or does not load.
        """
        if self._autoencoder_config is None:
            return None
        _ = self.weights.checksums
        with self._opening():
            return load_autoencoder(self.weights.path)

    @cached_property
    def denoiser(self) -> Denoiser:
        """The network, loaded at first use from weights that were checked.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is not what it was at first use or does not load, or the network
                makes images of another resolution or number of channels.
        """
        _ = self.weights.checksums
        with self._opening():
            denoiser = load_checkpoint(self.weights.path, self._architecture, label=self.label)
        network: Any = denoiser.network
        self._check_shape(network)
        # its checksums are recorded as well: it must have loaded
        _ = self.autoencoder
        self.weights.remember()
        return denoiser

    def _check_shape(self, network: UNet) -> None:
        channels, side, _ = self.latent_shape
        factor = self.resolution // side
        # a checkpoint file does not always tell the resolution
        if network.resolution not in (None, side):
            raise ValueError(
                f"model.resolution must be {factor * network.resolution}, as {self.weights.path} "
                f"says, got {self.resolution}"
            )
        if side % 2**network.halvings:
            raise ValueError(
                f"model.resolution must be divisible by {factor * 2**network.halvings}, as the "
                f"network in {self.weights.path} halves it {network.halvings} times, got "
                f"{self.resolution}"
            )
        if network.channels != channels and self._autoencoder_config is not None:
            raise ValueError(
                f"the unet of {self.weights.path} must take {channels} channels, those of the "
                f"latents of its autoencoder, got {network.channels}"
            )
        if network.channels != channels:
            raise ValueError(
                f"model.channels must be {network.channels}, as {self.weights.path} says, got "
                f"{self.channels}"
            )

    @cached_property
    def _autoencoder_config(self) -> AutoencoderConfig | None:
        if not self.weights.path.is_dir():
            return None
        with self._opening():
            return read_autoencoder_config(self.weights.path)

    @property
    def has_own_domain(self) -> bool:
        """Whether it was trained on a domain: it was."""
        return True

    @property
    def is_here(self) -> bool:
        """Whether the weights are on this machine."""
        return self.weight_files.find() is not None

    @property
    def makers(self) -> tuple[type, ...]:
        """Its class."""
        return (type(self),)

    def codec(self, solver: Solver) -> Codec:
        """The model as a map between images and latents, along a solver's trajectories.

        Raises:
            FileNotFoundError: the weights, which say whether there is an autoencoder, are missing.
        """
        inside = DiffusionCodec(self, solver)
        return inside if self._autoencoder_config is None else AutoencoderCodec(self, inside)

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """Add to the message about a broken file in the cache how to replace it."""
        try:
            yield
        except BrokenFileError as error:
            if self.weights.record is None:
                raise
            raise BrokenFileError(
                f"{error}; remove {self.weights.path} to have it fetched again"
            ) from error

    @property
    def _architecture(self) -> dict[str, Any] | None:
        """Given fields of the architecture of a checkpoint file."""
        if self.architecture is None or self.weights.path.is_dir():
            return None
        if not isinstance(self.architecture, Mapping):
            raise ValueError(
                f"model.architecture must be a mapping of sections, got {self.architecture!r}"
            )
        return _given(self.architecture) or None

    def in_domain_file(self, extractor: str) -> Path | None:
        """File with features of real in-domain images under `extractor`, if there is one."""
        file = self.in_domain_features.get(extractor)
        return None if file is None else ASSETS / file


def checksum(network: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers in memory.

    It depends on every bit of every weight, not on layout in memory or device.
    """
    sha256 = hashlib.sha256()
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        data = tensor.detach().cpu().flatten().view(torch.uint8)
        sha256.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        sha256.update(data.numpy().data)
    return sha256.hexdigest()


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out fields that are None, and sections without others."""
    nested = {
        key: _given(value) if isinstance(value, Mapping) else value for key, value in fields.items()
    }
    return {key: value for key, value in nested.items() if value is not None and value != {}}
