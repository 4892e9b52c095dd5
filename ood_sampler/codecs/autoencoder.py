"""An autoencoder around another codec: latent diffusion (Rombach et al., 2022)."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from ood_sampler.codecs.base import Codec, Weights
from ood_sampler.codecs.pixels import PixelCodec
from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.store.versions import Maker


class Autoencoder(nn.Module, ABC):
    """Map images to the codes that a latent diffusion model diffuses, and back.

    Images are float32 in $[-1, 1]$, shape $(B, C, H, W)$.
    """

    @abstractmethod
    def encode(self, x_0: Tensor) -> Tensor:
        """Encode images deterministically: the mean, or the code before it is quantised."""

    @abstractmethod
    def decode(self, z_0: Tensor) -> Tensor:
        """Decode codes, quantising them first if the autoencoder does so; not clipped."""


class AutoencoderModel(Weights, Protocol):
    """A model with an autoencoder, as a codec needs it."""

    @property
    def autoencoder(self) -> Autoencoder | None:
        """The autoencoder; None if the model diffuses images themselves."""


@dataclass(frozen=True)
class AutoencoderCodec(Codec):
    r"""Encode, then invert the code; decode a latent to a code, then to an image.

    Levels and evaluations are those of the codec inside. The error of the autoencoder itself is the
    floor of every reconstruction, whatever the solver (`floor`).

    Attributes:
        model: owner of the autoencoder.
        inside: maps codes to latents and back.
    """

    model: AutoencoderModel
    inside: Codec

    @property
    def floor(self) -> "AutoencoderCodec":
        """The autoencoder alone: codes are the latents, at level 0."""
        return AutoencoderCodec(self.model, PixelCodec(self.inside.shape(self.inside.last_level)))

    @property
    def identity(self) -> dict[str, Any]:
        return {**self.inside.identity, "autoencoder": self.model.digest}

    @property
    def makers(self) -> tuple[Maker, ...]:
        return (type(self), *self.model.makers, *self.inside.makers)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {**self.inside.networks, "autoencoder": self._autoencoder}

    @property
    def label(self) -> str:
        return self.inside.label

    @property
    def settings(self) -> dict[str, Any]:
        return self.inside.settings

    @property
    def schedule(self) -> Schedule | None:
        return self.inside.schedule

    @property
    def last_level(self) -> int:
        return self.inside.last_level

    def shape(self, level: int) -> tuple[int, ...]:
        return self.inside.shape(level)

    def check(self, levels: Iterable[int], *, eta: float = 0.0) -> None:
        self.inside.check(levels, eta=eta)

    def encode(
        self,
        x_0: Tensor,
        levels: Iterable[int],
        *,
        noised_moves: int = 0,
        noise: SampleNoise | None = None,
    ) -> dict[int, Tensor]:
        x_0 = self.clean(x_0)
        return self.inside.encode(x_0, levels, noised_moves=noised_moves, noise=noise)

    def decode(
        self,
        z: Tensor,
        level: int,
        *,
        eta: float = 0.0,
        noise: SampleNoise | None = None,
        clip_x_0: bool = False,
    ) -> Tensor:
        # unlike images, codes have no range to clip to
        return self._autoencoder.decode(self.inside.decode(z, level, eta=eta, noise=noise))

    def clean(self, x_0: Tensor) -> Tensor:
        return self._autoencoder.encode(x_0)

    def encoding_evaluations(self, levels: Iterable[int], *, noised_moves: int = 0) -> int:
        return self.inside.encoding_evaluations(levels, noised_moves=noised_moves)

    def decoding_evaluations(self, level: int) -> int:
        return self.inside.decoding_evaluations(level)

    def probe(self, z: Tensor) -> Tensor:
        return self.inside.probe(z)

    @property
    def _autoencoder(self) -> Autoencoder:
        autoencoder = self.model.autoencoder
        if autoencoder is None:
            raise ValueError("the model has no autoencoder")
        return autoencoder
