"""A residual discriminator (Karras et al., 2020, sec. 4.1), used while training alone."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ood_sampler.models.style_generator import EqualizedLinear, activate


class _Convolution(nn.Module):
    """A convolution of equalised rate, see `EqualizedLinear`."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (kernel - 1) // 2
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = 1 / math.sqrt(inputs * kernel**2)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.scale
        return functional.conv2d(x, weight, self.bias, stride=self.stride, padding=self.padding)


class _Halving(nn.Module):
    """A residual block that halves the side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = _Convolution(inputs, inputs, 3)
        self.second = _Convolution(inputs, outputs, 3)
        self.skip = _Convolution(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = activate(self.second(functional.avg_pool2d(activate(self.first(x)), 2)))
        halved: Tensor = y + self.skip(functional.avg_pool2d(x, 2))
        return halved / math.sqrt(2)


def batch_deviation(x: Tensor, compared: int) -> Tensor:
    r"""Append a map of how much images of a group differ (Karras et al., 2018, sec. 3).

    The map is the standard deviation over the group, averaged over channels and pixels. Groups are
    consecutive images.

    Args:
        x: features, shape $(B, C, H, W)$.
        compared: images per group; all $B$ if there are fewer.

    Raises:
        ValueError: groups of that size do not make up the batch.
    """
    n, _, height, width = x.shape
    compared = min(compared, n)
    if n % compared:
        raise ValueError(f"compared must divide the batch of {n} images, got {compared}")
    grouped = x.float().reshape(n // compared, compared, *x.shape[1:])
    deviation = (grouped.var(dim=1, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    added = deviation.repeat_interleave(compared)[:, None, None, None]
    return torch.cat([x, added.expand(n, 1, height, width).to(x)], dim=1)


class ResidualDiscriminator(nn.Module):
    """Score images, high if real, shape $(B,)$.

    The first convolution halves the side, which saves half of the work at 32x32.

    Args:
        channels: of each resolution from 4x4 to half of the images' side.
        compared: images that are compared with each other (`batch_deviation`).
    """

    def __init__(self, *, channels: Sequence[int], compared: int) -> None:
        super().__init__()
        last, *_ = channels
        self.compared = compared
        self.colours = _Convolution(3, channels[-1], 4, stride=2)
        pairs = zip(reversed(channels[1:]), reversed(channels[:-1]), strict=True)
        self.halvings = nn.ModuleList([_Halving(a, b) for a, b in pairs])
        self.convolution = _Convolution(last + 1, last, 3)
        self.dense = EqualizedLinear(last * 16, last)
        self.score = EqualizedLinear(last, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = activate(self.colours(images))
        for halving in self.halvings:
            x = halving(x)
        x = activate(self.convolution(batch_deviation(x, self.compared)))
        scores: Tensor = self.score(activate(self.dense(x.flatten(1))))
        return scores.float()[:, 0]
