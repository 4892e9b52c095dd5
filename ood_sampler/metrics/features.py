"""Feature extractors: the spaces in which metrics compare sets of images."""

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from ood_sampler.metrics.weights import find_weights

EMBEDDED = Path(__file__).parents[1] / "assets" / "features32"
_TINY = 1e-6
"""Least size by which features are divided: smaller ones stay small."""

INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"


class FeatureExtractor(nn.Module, ABC):
    r"""Map images to feature vectors with a frozen network.

    `name` and `width` identify the space; `protocol` says how images enter the network. Metrics
    under different protocols are not comparable.
    """

    name: str
    width: int
    protocol: str

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the names, types, shapes and bytes of all weights, in hex."""
        sha256 = hashlib.sha256()
        for name, weight in sorted(self.state_dict().items()):
            sha256.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
            sha256.update(weight.detach().cpu().contiguous().numpy().tobytes())
        return sha256.hexdigest()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode whatever `mode` is: the extractor is frozen."""
        return super().train(False)

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        r"""Map float images in $[-1, 1]$, $(B, 3, H, W)$, to float32 features, $(B, width)$.

        Raises:
            ValueError: `images` have another shape.
        """


def check_images(images: Tensor) -> None:
    """Raise a `ValueError` unless `images` have the shape $(B, 3, H, W)$."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images must have shape (B, 3, H, W), got {tuple(images.shape)}; "
            "repeat a grey channel three times"
        )


def unit_size(features: Tensor) -> Tensor:
    """Divide each feature vector, (B, D), by its root mean square."""
    return features / features.square().mean(1, keepdim=True).sqrt().clamp(min=_TINY)


def normalised_convolution(channels_in: int, channels_out: int, *, pool: bool) -> nn.Sequential:
    """Return a 3x3 convolution, halving if `pool`, batch normalisation and GELU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.MaxPool2d(2) if pool else nn.Identity(),
        nn.BatchNorm2d(channels_out),
        nn.GELU(),
    )


class FeatureNetwork(nn.Module):
    r"""Classify $32 \times 32$ images with a stem and three blocks of two convolutions.

    The stem convolves $2 \times 2$ patches, each block halves the resolution
    ($31 \to 15 \to 7 \to 3$), and the maximum over the last $3 \times 3$ positions gives the
    features. 2.0 M parameters.
    """

    size = 32
    width = 256

    def __init__(self, num_classes: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 2), nn.GELU())
        blocks = []
        for channels_in, channels_out in ((24, 64), (64, 256), (256, self.width)):
            blocks.append(normalised_convolution(channels_in, channels_out, pool=True))
            blocks.append(normalised_convolution(channels_out, channels_out, pool=False))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(self.width, num_classes, bias=False)

    def features(self, images: Tensor) -> Tensor:
        """Return the penultimate layer, $(B, 256)$, of images $(B, 3, 32, 32)$."""
        maps: Tensor = self.blocks(self.stem(images))
        return maps.amax((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, $(B, classes)$."""
        logits: Tensor = self.head(self.features(images))
        return logits


class EmbeddedFeatures(FeatureExtractor):
    r"""The penultimate layer of the classifier that ships with the package.

    Features are averaged over an image and its mirror image, which makes them mirror-invariant, and
    divided by their root mean square, so that all images have equal weight: the kernel of KID
    becomes $(1 + \cos(f, f'))^3$. Weights are stored in float16 and computed in float32.
    """

    name = "features32"
    width = FeatureNetwork.width
    protocol = (
        "features32: penultimate layer (256) of a classifier of eight CIFAR-10 classes, mean over "
        "an image and its mirror image, of root mean square 1; images of other sizes resized to "
        "32x32 by antialiased bicubic interpolation and clipped; float32, not quantised"
    )

    def __init__(self) -> None:
        super().__init__()
        # Twice as fast on a CPU as the default layout.
        self.network = FeatureNetwork().to(memory_format=torch.channels_last)
        path = EMBEDDED / "features32.safetensors"
        try:
            self.network.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"{path} is damaged ({error}): install the package again") from error
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        check_images(images)
        size = (self.network.size, self.network.size)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            images = images.float()
            if images.shape[2:] != size:
                images = functional.interpolate(images, size, mode="bicubic", antialias=True)
                images = images.clamp(-1, 1)
            features = self.network.features(images) + self.network.features(images.flip(3))
            return unit_size(features)


def in_domain_features(domain: str) -> Tensor:
    """Return an in-domain reference: `EmbeddedFeatures` of 1,000 real images, (1000, 256).

    Args:
        domain: class of the test images in CIFAR-10, `dog` or `ship`.
    """
    features: Tensor = load_file(EMBEDDED / f"{domain}_test_features.safetensors")["features"]
    return features


def read_reference(file: Path, extractor: FeatureExtractor) -> Tensor:
    """Read stored features of real in-domain images, (N, width).

    Raises:
        ValueError: the file is damaged, or its features were made with other weights.
    """
    digest = extractor.digest
    try:
        with safe_open(file, "pt") as stored:
            made_with = (stored.metadata() or {}).get("digest", digest)
            features: Tensor = stored.get_tensor("features").float()
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}): install the package again") from error
    if made_with != digest:
        raise ValueError(
            f"{file} holds features of other weights of {extractor.name}: make it again, or leave "
            "it out of model.in_domain_features"
        )
    return features


def quantise(images: Tensor) -> Tensor:
    r"""Round images in $[-1, 1]$ to the 256 levels of an image file, uint8."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def find_inception(weights: str | Path | None, *, download: bool) -> Path:
    """Return the path of clean-fid's Inception, verified; see `find_weights`.

    A TorchScript file is a program: only the file with the known SHA-256 is run.
    """
    # clean-fid and its dependencies take seconds to import, and most runs do not need them.
    from cleanfid.downloads_helper import inception_url

    return find_weights(
        weights,
        key="metrics.spaces.inception",
        address=inception_url,
        download=download,
        sha256=INCEPTION_SHA256,
    )


class InceptionFeatures(FeatureExtractor):
    """The pool3 layer of Inception with the resizing of clean-fid (Parmar et al., 2022).

    The TensorFlow network of 2015 as TorchScript, on uint8 images resized by PIL's antialiased
    bicubic interpolation: the space of published FID and KID.
    """

    name = "inception"
    width = 2048
    protocol = (
        "inception: clean-fid pool3 (2048) of inception-2015-12-05; images quantised to uint8, "
        "resized to 299x299 by PIL bicubic interpolation (clean-fid mode clean)"
    )

    def __init__(self, *, weights: str | Path | None = None, download: bool = False) -> None:
        super().__init__()
        path = find_inception(weights, download=download)

        from cleanfid.inception_torchscript import InceptionV3W
        from cleanfid.resize import build_resizer

        self.resize: Callable[[np.ndarray], np.ndarray] = build_resizer("clean")
        with warnings.catch_warnings():
            # torch has deprecated TorchScript, which users of this network cannot change.
            warnings.filterwarnings("ignore", r"`torch\.jit\.load`", FutureWarning)
            self.network = InceptionV3W(str(path.parent), download=False)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        check_images(images)
        pictures = quantise(images).permute(0, 2, 3, 1).cpu().numpy()
        resized = torch.from_numpy(np.stack([self.resize(picture) for picture in pictures]))
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            features: Tensor = self.network(resized.permute(0, 3, 1, 2).to(images.device))
        return features.float()
