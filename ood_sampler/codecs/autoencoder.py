"""The space that a latent diffusion model diffuses in."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Autoencoder(nn.Module, ABC):
    """Map images in [-1, 1] to the space that a latent diffusion model diffuses in, and back.

    Images have the shape $(B, C, H, W)$.
    """

    @abstractmethod
    def encode(self, x_0: Tensor) -> Tensor:
        """Encode images, without randomness: the mean of a KL autoencoder; before quantisation."""

    @abstractmethod
    def decode(self, z_0: Tensor) -> Tensor:
        """Decode latents to images, quantised first where the autoencoder has a codebook."""
