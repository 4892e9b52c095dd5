"""The autoencoder of unconditional latent diffusion, in the layout of diffusers' `LDMPipeline`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from ood_sampler.codecs.autoencoder import Autoencoder
from ood_sampler.models.layout import AUTOENCODERS, folder_parts, read_json, whole_parts
from ood_sampler.models.pretrained import build, read_network
from ood_sampler.models.state import load_strictly


class PretrainedAutoencoder(Autoencoder):
    r"""A frozen `VQModel` or `AutoencoderKL` of diffusers.

    The denoiser sees $s z$, where $z$ is what the network encodes to and $s$ its `scaling_factor`:
    `encode` multiplies by $s$, `decode` divides by it, as `LDMPipeline` does.

    Args:
        network: the autoencoder.
        scaling_factor: $s$.
    """

    def __init__(self, network: nn.Module, *, scaling_factor: float) -> None:
        super().__init__()
        self.network: Any = network
        self.scaling_factor = scaling_factor
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: the autoencoder is frozen."""
        return super().train(False)

    def encode(self, x_0: Tensor) -> Tensor:
        encoded = self.network.encode(x_0, return_dict=False)[0]
        # a KL autoencoder encodes to a distribution, whose mode is its mean
        z_0: Tensor = encoded if isinstance(encoded, Tensor) else encoded.mode()
        return self.scaling_factor * z_0

    def decode(self, z_0: Tensor) -> Tensor:
        x_0: Tensor = self.network.decode(z_0 / self.scaling_factor, return_dict=False)[0]
        return x_0


@dataclass(frozen=True)
class AutoencoderConfig:
    """Config of an autoencoder, read without its weights.

    Attributes:
        path: of the config.
        fields: its content.

    Raises:
        ValueError: it is not the config of a known autoencoder.
    """

    path: Path
    fields: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.kind not in AUTOENCODERS:
            raise ValueError(
                f"the autoencoder must be a {' or '.join(AUTOENCODERS)}, got {self.kind} in "
                f"{self.path}"
            )
        if self._count("in_channels", 3) != self._count("out_channels", 3):
            raise ValueError(
                f"in_channels and out_channels must be equal in {self.path}, got "
                f"{self.channels} and {self.fields['out_channels']}"
            )

    @property
    def kind(self) -> str:
        """Name of its class."""
        return str(self.fields.get("_class_name", AUTOENCODERS[0]))

    @property
    def channels(self) -> int:
        """Channels of its images."""
        return self._count("in_channels", 3)

    @property
    def latent_channels(self) -> int:
        """Channels of its latents: in a `VQModel` the width of the codebook."""
        if self.kind == "VQModel" and self.fields.get("vq_embed_dim") is not None:
            return self._count("vq_embed_dim", 0)
        return self._count("latent_channels", 3 if self.kind == "VQModel" else 4)

    @property
    def factor(self) -> int:
        """Ratio of the sides of its images and its latents."""
        widths = self.fields.get("block_out_channels", [64])
        if not isinstance(widths, list) or not widths:
            raise ValueError(
                f"block_out_channels must be a list of widths, got {widths!r} in {self.path}"
            )
        return int(2 ** (len(widths) - 1))

    @property
    def scaling_factor(self) -> float:
        """Factor that latents are multiplied by before diffusion.

        Configs without it, as that of `CompVis/ldm-celebahq-256`, are older than the field
        (diffusers 0.12): latents were not scaled then. Today's diffusers takes 0.18215 for them,
        the factor of Stable Diffusion, and its `LDMPipeline` decodes distorted images (issue 6725).
        """
        value = self.fields.get("scaling_factor", 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"scaling_factor must be a number, got {value!r} in {self.path}")
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"scaling_factor must be positive, got {value} in {self.path}")
        return float(value)

    def latent_shape(self, channels: int, resolution: int) -> tuple[int, int, int]:
        """Shape of the latent of an image.

        Args:
            channels: of the image.
            resolution: its side in pixels.

        Raises:
            ValueError: the autoencoder does not take such images.
        """
        if channels != self.channels:
            raise ValueError(
                f"model.channels must be {self.channels}, as {self.path} says, got {channels}"
            )
        if resolution % self.factor:
            raise ValueError(
                f"model.resolution must be divisible by {self.factor}, as the autoencoder of "
                f"{self.path} makes latents of 1/{self.factor} of the side, got {resolution}"
            )
        side = resolution // self.factor
        return self.latent_channels, side, side

    def _count(self, field: str, default: int) -> int:
        value = self.fields.get(field, default)
        if type(value) is not int or value < 1:
            raise ValueError(f"{field} must be an integer >= 1, got {value!r} in {self.path}")
        return value


def read_autoencoder_config(folder: Path) -> AutoencoderConfig | None:
    """Read the config of a pipeline's autoencoder; None for a pipeline of pixels.

    Raises:
        FileNotFoundError: a file of the pipeline is missing.
        ValueError: the config is malformed.
    """
    autoencoder = folder_parts(folder).autoencoder
    if autoencoder is None:
        return None
    _ = whole_parts(folder)
    path = folder / autoencoder.config
    return AutoencoderConfig(path, read_json(path))


def load_autoencoder(folder: Path) -> Autoencoder | None:
    """Load the autoencoder of a pipeline folder in float32; None for a pipeline of pixels.

    Raises:
        FileNotFoundError: a file of the pipeline is missing.
        ValueError: config or weights are malformed, do not fit each other, or are not finite.
    """
    config, files = read_autoencoder_config(folder), whole_parts(folder).autoencoder
    if config is None or files is None:
        return None
    import diffusers

    network = build(
        getattr(diffusers, config.kind), config.fields, kind=config.kind, source=config.path
    )
    load_strictly(network, read_network(folder, files), source=folder / files.weights[0])
    return PretrainedAutoencoder(network, scaling_factor=config.scaling_factor)
