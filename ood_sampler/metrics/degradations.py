"""Degradations of known strength, to measure the sensitivity of a judge."""

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d, pad

from ood_sampler.metrics.features import quantise
from ood_sampler.statistics.clusters import k_means
from ood_sampler.store.sets import TensorSet

MIXED_IN = 0.1
"""Share of in-domain images mixed into images of the target domain."""

_REACH = 4
"""Radius of a blur kernel in standard deviations."""

_CLUSTERED = 8
"""Side in pixels to which images are averaged before the search for modes."""

_MODES, _LEAST_MODE = 5, 0.1
"""Clusters in the search for a mode, and the least share of images that a mode has."""


@dataclass(frozen=True)
class Degradation(ABC):
    """A change to a set of images. Each image depends on (set, seed, its index) alone."""

    kind: ClassVar[str]
    """Name shared by degradations that differ only in strength."""

    beyond: ClassVar[str] = "or more"
    """Words appended to `words` if stronger ones are meant too."""

    @property
    @abstractmethod
    def strength(self) -> float:
        """Strength; larger is stronger within a kind."""

    @property
    @abstractmethod
    def words(self) -> str:
        """The degradation in words, with strength and unit."""

    def kept(self, pictures: TensorSet, *, seed: int) -> Sequence[int]:
        """Indices of the images in the degraded set."""
        return range(len(pictures))

    @abstractmethod
    def picture(self, pictures: TensorSet, number: int, *, seed: int) -> Tensor:
        """Degrade one image of a set, shape $(3, H, W)$, in $[-1, 1]$ or beyond."""


def degrade(
    degradation: Degradation,
    pictures: TensorSet,
    *,
    seed: int,
    numbers: Sequence[int] | None = None,
) -> Tensor:
    """Degrade images of a set and round them to 8 bits, as in image files.

    Args:
        degradation: to apply.
        pictures: images in $[-1, 1]$, shape $(3, H, W)$ each; some degradations mix them.
        seed: of all random choices.
        numbers: $n$ indices of images to degrade; None takes all that the degradation keeps.

    Returns:
        Shape $(n, 3, H, W)$, uint8.
    """
    if numbers is None:
        numbers = degradation.kept(pictures, seed=seed)
    made = [quantise(degradation.picture(pictures, number, seed=seed)) for number in numbers]
    return torch.stack(made)


@dataclass(frozen=True)
class Blend(Degradation):
    """Double exposures: the mean of each image and `count` - 1 others of the set."""

    count: int
    kind: ClassVar[str] = "blend"

    @property
    def strength(self) -> float:
        return self.count

    @property
    def words(self) -> str:
        return f"blends of {self.count}"

    def picture(self, pictures: TensorSet, number: int, *, seed: int) -> Tensor:
        others = _others(pictures, number, self.count - 1, _generator(seed, number))
        return pictures.take([number, *others]).mean(dim=0)


@dataclass(frozen=True)
class Blur(Degradation):
    """Gaussian blur with a standard deviation of `sigma` times the side."""

    sigma: float
    kind: ClassVar[str] = "blur"

    @property
    def strength(self) -> float:
        return self.sigma

    @property
    def words(self) -> str:
        return f"blur of {100 * self.sigma:g}% of the side"

    def picture(self, pictures: TensorSet, number: int, *, seed: int) -> Tensor:
        picture = pictures.take([number])
        return gaussian_blur(picture, self.sigma * picture.shape[-1])[0]


@dataclass(frozen=True)
class Noise(Degradation):
    """White Gaussian noise with a standard deviation of `deviation` times the value range."""

    deviation: float
    kind: ClassVar[str] = "noise"

    @property
    def strength(self) -> float:
        return self.deviation

    @property
    def words(self) -> str:
        return f"noise of {100 * self.deviation:g}% of the range"

    def picture(self, pictures: TensorSet, number: int, *, seed: int) -> Tensor:
        picture = pictures.take([number])[0]
        draws = _generator(seed, number).standard_normal(picture.shape, dtype=np.float32)
        # values range from -1 to 1
        return picture + 2 * self.deviation * torch.from_numpy(draws)


@dataclass(frozen=True)
class Jpeg(Degradation):
    """JPEG at a quality from 1 to 95, with colours at half the resolution (4:2:0)."""

    quality: int
    kind: ClassVar[str] = "JPEG"
    beyond: ClassVar[str] = "or less"

    @property
    def strength(self) -> float:
        return 100 - self.quality

    @property
    def words(self) -> str:
        return f"JPEG of quality {self.quality}"

    def picture(self, pictures: TensorSet, number: int, *, seed: int) -> Tensor:
        levels = quantise(pictures.take([number])[0]).permute(1, 2, 0).contiguous().numpy()
        data = io.BytesIO()
        Image.fromarray(levels).save(data, "JPEG", quality=self.quality, subsampling="4:2:0")
        with Image.open(data) as decoded:
            return torch.from_numpy(np.array(decoded)).permute(2, 0, 1).float() / 127.5 - 1


@dataclass(frozen=True)
class Paste(Degradation):
    """A square of another image of the set, `share` of the area, pasted at the same place."""

    share: float
    kind: ClassVar[str] = "paste"

    @property
    def strength(self) -> float:
        return self.share

    @property
    def words(self) -> str:
        return f"{100 * self.share:g}% of another image pasted in"

    def picture(self, pictures: TensorSet, number: int, *, seed: int) -> Tensor:
        generator = _generator(seed, number)
        picture, other = pictures.take([number, *_others(pictures, number, 1, generator)])
        side = round(math.sqrt(self.share) * picture.shape[-1])
        top, left = (int(generator.integers(size - side + 1)) for size in picture.shape[1:])
        place = (slice(None), slice(top, top + side), slice(left, left + side))
        pasted: Tensor = picture.clone()
        pasted[place] = other[place]
        return pasted


@dataclass(frozen=True)
class Hue(Degradation):
    """Colours turned about the grey axis by an angle in degrees."""

    angle: float
    kind: ClassVar[str] = "hue"

    @property
    def strength(self) -> float:
        return self.angle

    @property
    def words(self) -> str:
        return f"hue turned by {self.angle:g}°"

    def picture(self, pictures: TensorSet, number: int, *, seed: int) -> Tensor:
        return turn_hue(pictures.take([number]), self.angle)[0]


@dataclass(frozen=True)
class MissingMode(Degradation):
    """`share` of the images left out: those nearest to the centre of a mode.

    Modes are k-means clusters of images averaged to 8x8 pixels, independent of any judge. Of those
    with at least a tenth of the images, the one farthest from the mean is taken.
    """

    share: float
    kind: ClassVar[str] = "missing mode"

    @property
    def strength(self) -> float:
        return self.share

    @property
    def words(self) -> str:
        return f"a missing mode of {100 * self.share:g}%"

    def kept(self, pictures: TensorSet, *, seed: int) -> Sequence[int]:
        small = [adaptive_avg_pool2d(block, _CLUSTERED) for block in pictures.blocks()]
        points = torch.cat(small).flatten(start_dim=1).double()
        cluster = k_means(points, _MODES, seed=seed)
        sizes = cluster.bincount(minlength=_MODES).tolist()
        centres = [
            points[cluster == k].mean(dim=0)
            for k, size in enumerate(sizes)
            if size >= _LEAST_MODE * len(points)
        ]
        mean = points.mean(dim=0)
        centre = max(centres, key=lambda each: float((each - mean).square().sum()))
        order = (points - centre).square().sum(dim=1).argsort(stable=True)
        return sorted(order[round(self.share * len(points)) :].tolist())

    def picture(self, pictures: TensorSet, number: int, *, seed: int) -> Tensor:
        return pictures.take([number])[0]


@dataclass(frozen=True)
class InDomain(Degradation):
    """`share` of the images replaced by images of the model's own domain.

    If all are replaced, the set has as many images as `images`.

    Args:
        share: above 0, at most 1.
        images: of the model's own domain.
    """

    share: float
    images: TensorSet
    kind: ClassVar[str] = "in-domain"

    @property
    def strength(self) -> float:
        return self.share

    @property
    def words(self) -> str:
        return f"{100 * self.share:g}% in-domain images"

    def kept(self, pictures: TensorSet, *, seed: int) -> Sequence[int]:
        if self.share == 1:
            return range(min(len(pictures), len(self.images)))
        needed = round(self.share * len(pictures))
        if needed > len(self.images):
            raise ValueError(
                f"in-domain images must be >= {needed} ({self.share:g} of {len(pictures)} "
                f"images), got {len(self.images)}: raise measure.in_domain"
            )
        return range(len(pictures))

    def picture(self, pictures: TensorSet, number: int, *, seed: int) -> Tensor:
        if self.share == 1:
            return self.images.take([number])[0]
        # place of the image in a random order; the first ones are replaced
        order = np.random.default_rng(seed).permutation(len(pictures))
        place = int(np.flatnonzero(order == number)[0])
        if place < round(self.share * len(pictures)):
            return self.images.take([place])[0]
        return pictures.take([number])[0]


def degradations(in_domain: TensorSet) -> list[Degradation]:
    """All degradations shown to a judge, each kind from weak to strong."""
    return [
        *(Blend(count) for count in (2, 3, 5)),
        *(Blur(sigma) for sigma in (0.015, 0.03, 0.06)),
        *(Noise(deviation) for deviation in (0.02, 0.05, 0.1)),
        *(Jpeg(quality) for quality in (90, 60, 30)),
        Paste(0.25),
        *(Hue(angle) for angle in (30, 90, 180)),
        *(MissingMode(share) for share in (0.1, 0.2, 0.5)),
        *(InDomain(share, in_domain) for share in (MIXED_IN, 1.0)),
    ]


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Convolve with a Gaussian of `sigma` pixels, cut at four `sigma`, mirrored at the edges.

    Args:
        images: Shape $(N, C, H, W)$; the kernel's radius must be below $H$ and $W$.
        sigma: above 0.
    """
    radius = math.ceil(_REACH * sigma)
    kernel = (-0.5 * (torch.arange(-radius, radius + 1) / sigma).square()).exp()
    kernel = kernel / kernel.sum()
    channels = images.shape[1]
    padded = pad(images, [radius] * 4, mode="reflect")
    rows = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    across = conv2d(padded, rows, groups=channels)
    return conv2d(across, rows.transpose(2, 3), groups=channels)


def turn_hue(images: Tensor, angle: float) -> Tensor:
    r"""Turn colours about the axis $u = (1, 1, 1) / \sqrt{3}$ of greys (Rodrigues' formula).

    $\cos\theta\, c + \sin\theta\, u \times c + (1 - \cos\theta) (u \cdot c) u$, which keeps the
    mean of the three channels; 120 degrees take red to green, green to blue and blue to red.

    Args:
        images: Shape $(N, 3, H, W)$.
        angle: $\theta$ in degrees.
    """
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    turn = cos * torch.eye(3) + sin * cross + (1 - cos) / 3
    return torch.einsum("ij,njhw->nihw", turn, images)


def _others(
    pictures: TensorSet, number: int, count: int, generator: np.random.Generator
) -> list[int]:
    """Indices of `count` other images of the set; a larger `count` begins with the same ones."""
    if count >= len(pictures):
        raise ValueError(f"images must be more than {count} to be mixed, got {len(pictures)}")
    order: list[int] = generator.permutation(len(pictures) - 1)[:count].tolist()
    return [other + (other >= number) for other in order]


def _generator(seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng((seed, number))
