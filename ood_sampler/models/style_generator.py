r"""A style-based generator (Karras et al., 2020, StyleGAN2).

Latents $z \sim N(0, I)$ are mapped to codes $w$, which scale the channels of every convolution.
Without noise inputs, so that an image is a function of its codes alone.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ood_sampler.codecs.gan import Generator

GAIN = math.sqrt(2)
"""Keeps the variance of what a leaky ReLU of slope 0.2 lets through near 1."""

_SLOPE = 0.2
_SMALLEST = 4
_EPSILON = 1e-8


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2, with `GAIN`."""
    return functional.leaky_relu(x, _SLOPE) * GAIN


class EqualizedLinear(nn.Module):
    r"""Compute $y = l W x / \sqrt{n} + l b$ with $W \sim N(0, 1/l^2)$.

    So the steps of Adam are alike in all layers (Karras et al., 2018, sec. 4.1).

    Args:
        inputs: $n$.
        outputs: size of $y$.
        bias: initial value of $b l$.
        rate: $l$, the learning rate of this layer relative to others.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.scale = rate / math.sqrt(inputs)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * self.scale, self.bias * self.rate)


class ModulatedConvolution(nn.Module):
    r"""Scale the weights of a convolution by a style per image (Karras et al., 2020, eq. 1, 3).

    $$w'_{oik} = s_i w_{oik}, \qquad
    w''_{oik} = w'_{oik} / \sqrt{\textstyle\sum_{i,k} w'^2_{oik} + \epsilon}$$

    Scaling the inputs by $s$ and the outputs by the root is the same, with one set of weights for
    all images of a batch.

    Args:
        inputs: channels.
        outputs: channels.
        width: of the style's code.
        kernel: side in pixels, odd.
        demodulate: divide by the root.
    """

    def __init__(
        self, inputs: int, outputs: int, *, width: int, kernel: int = 3, demodulate: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = EqualizedLinear(width, inputs, bias=1.0)
        self.scale = 1 / math.sqrt(inputs * kernel**2)
        self.demodulate = demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Convolve `x`, shape $(B, C, H, W)$, in the style of `w`, shape $(B, D)$."""
        style = self.style(w)
        weight = self.weight * self.scale
        y = functional.conv2d(
            x * style[:, :, None, None].to(x), weight, padding=weight.shape[-1] // 2
        )
        if self.demodulate:
            norms = functional.linear(style.float().square(), weight.square().sum((2, 3)))
            y = y * (norms + _EPSILON).rsqrt()[:, :, None, None].to(y)
        return y + self.bias[:, None, None].to(y)


class Block(nn.Module):
    """One resolution: a convolution that enlarges (none at the smallest), another, and colours."""

    def __init__(self, inputs: int | None, outputs: int, *, width: int) -> None:
        super().__init__()
        self.up = None if inputs is None else ModulatedConvolution(inputs, outputs, width=width)
        self.convolution = ModulatedConvolution(outputs, outputs, width=width)
        self.colours = ModulatedConvolution(outputs, 3, width=width, kernel=1, demodulate=False)

    def forward(self, x: Tensor, image: Tensor | None, w: Tensor) -> tuple[Tensor, Tensor]:
        """Carry features and image on, in the styles `w` of its layers, shape $(B, L, D)$."""
        first = 0
        if self.up is not None:
            x = activate(_doubled(self.up(x, w[:, 0])))
            first = 1
        x = activate(self.convolution(x, w[:, first]))
        colours = self.colours(x, w[:, first + 1])
        return x, colours if image is None else _doubled(image) + colours


def _doubled(x: Tensor) -> Tensor:
    """Enlarge twice by linear interpolation, the filter [1, 3, 3, 1] of the source."""
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class StyleGenerator(Generator):
    r"""Map $z$ to $w$ and $w$, or one $w$ per layer, to images.

    A layer of colours shares the code of the next resolution's first layer, as in the source.

    Args:
        channels: of each resolution from 4x4 on, which doubles.
        width: of $z$ and of $w$.
        mapping: layers between them.
    """

    def __init__(self, *, channels: Sequence[int], width: int, mapping: int) -> None:
        super().__init__()
        if not channels or width < 1 or mapping < 1:
            raise ValueError(
                "channels must name at least one number, width and mapping be at least 1, got "
                f"channels={list(channels)}, width={width}, mapping={mapping}"
            )
        self.channels = tuple(channels)
        self.width = width
        self.resolution = _SMALLEST * 2 ** (len(channels) - 1)
        self.layers = 2 * len(channels)
        self.mapping = nn.ModuleList(
            [EqualizedLinear(width, width, rate=0.01) for _ in range(mapping)]
        )
        self.constant = nn.Parameter(torch.randn(channels[0], _SMALLEST, _SMALLEST))
        pairs = zip([None, *channels[:-1]], channels, strict=True)
        self.blocks = nn.ModuleList([Block(a, b, width=width) for a, b in pairs])

    def map(self, z: Tensor) -> Tensor:
        r"""Map $z$ to $w$, both of shape $(B, D)$; only the direction of $z$ counts."""
        w = z * (z.square().mean(dim=1, keepdim=True) + _EPSILON).rsqrt()
        for layer in self.mapping:
            w = activate(layer(w))
        return w

    def synthesize(self, w: Tensor) -> Tensor:
        """Make images of one code, shape $(B, D)$, or one per layer, shape $(B, L, D)$."""
        if w.ndim == 2:
            w = w[:, None].expand(-1, self.layers, -1)
        x = self.constant.expand(len(w), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        image, first = None, 0
        for block in self.blocks:
            # the first resolution has a layer less
            count = 2 if block.up is None else 3
            x, image = block(x, image, w[:, first : first + count])
            first += count - 1
        if image is None:
            raise RuntimeError("a generator has at least one resolution")
        made: Tensor = image.float()
        return made
