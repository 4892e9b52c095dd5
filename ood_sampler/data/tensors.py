"""A target domain of images in memory."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ood_sampler.data.domain import TargetDomain, picture_domain
from ood_sampler.data.options import from_keys
from ood_sampler.data.sequences import Numbered
from ood_sampler.data.sources import ImageSource
from ood_sampler.data.split import Split


class TensorSource(ImageSource):
    """Images of a tensor, as PNG files would hold them.

    Args:
        images: uint8, or floating-point in $[-1, 1]$, which is rounded to 8 bits; shape
            $(N, C, H, W)$ with one or three colours.

    Raises:
        ValueError: they are of another type, shape or range.
    """

    def __init__(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"images must have shape (N, 3, H, W) or (N, 1, H, W), got {tuple(images.shape)}"
            )
        if images.is_floating_point():
            if not (images.abs() <= 1).all():
                raise ValueError(
                    "floating-point images must lie in [-1, 1], got "
                    f"{images.amin().item():g}...{images.amax().item():g}"
                )
            images = ((images + 1) * 127.5).round()
        elif images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8 or floating-point, got {images.dtype}")
        self.location = "the tensor"
        self.names = Numbered("{:07d}", len(images))
        self._pixels = images.to("cpu", torch.uint8).expand(-1, 3, -1, -1)

    def read(self, index: int) -> bytes:
        pixels = self._pixels[index].permute(1, 2, 0).numpy()
        data = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(data, format="PNG")
        return data.getvalue()


@from_keys(Split)
def tensor_domain(split: Split, *, images: Tensor, name: str, resolution: int) -> TargetDomain:
    """Make a domain of images in memory, divided as those of a folder are.

    Args:
        split: Divides the images.
        images: As for `TensorSource`.
        name: Name of the domain in tables.
        resolution: Side of the images in pixels.

    Raises:
        ValueError: As `TensorSource`, or there are too few images.
    """
    return picture_domain(split, TensorSource(images), None, name=name, resolution=resolution)
