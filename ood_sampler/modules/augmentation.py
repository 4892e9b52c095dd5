"""Differentiable augmentation of real and generated images alike (Zhao et al., 2020)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    r"""Change colours, shift, cut out; at strength 0 each leaves images as they are.

    Args:
        colour: strength: 1 adds up to half a unit of brightness, scales saturation by 0 to 2 and
            contrast by 0.5 to 1.5.
        shift: most of a side that images move by; zeros come in.
        cutout: side of the square that is set to zero, as a share of the image's.
    """

    colour: float
    shift: float
    cutout: float

    def __post_init__(self) -> None:
        for name in ("colour", "shift", "cutout"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment images, shape $(B, 3, H, W)$, each its own way."""
        n, _, height, width = images.shape
        u = torch.rand(7, n, generator=generator).to(images)
        images = self._coloured(images, *u[:3, :, None, None, None])
        rows = self._moved(u[3], height)
        columns = self._moved(u[4], width)
        images = rows[:, None] @ images @ columns[:, None].transpose(-1, -2)
        return images * self._kept(u[5], height)[:, None, :, None].logical_or(
            self._kept(u[6], width)[:, None, None, :]
        ).to(images)

    def _coloured(
        self, images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor
    ) -> Tensor:
        images = images + self.colour * (brightness - 0.5)
        grey = images.mean(dim=1, keepdim=True)
        images = torch.lerp(grey, images, 1 + self.colour * (2 * saturation - 1))
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        return torch.lerp(mean, images, 1 + self.colour * (contrast - 0.5))

    def _moved(self, u: Tensor, side: int) -> Tensor:
        """Matrices that shift rows by whole pixels, shape (B, side, side)."""
        most = int(self.shift * side + 0.5)
        by = (u * (2 * most + 1)).long() - most
        place = torch.arange(side, device=u.device)
        return (place[:, None] - place == by[:, None, None]).to(u)

    def _kept(self, u: Tensor, side: int) -> Tensor:
        """Whether rows are outside the square, shape (B, side)."""
        cut = int(self.cutout * side + 0.5)
        # the centre is anywhere, so that a part of the square may be outside
        first = ((u * (side + 1 - cut % 2)).long() - cut // 2)[:, None]
        place = torch.arange(side, device=u.device)
        return (place < first) | (place >= first + cut)
