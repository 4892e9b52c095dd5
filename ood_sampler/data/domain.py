"""A target domain: few-shot images to invert, held-out images to compare with."""

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from ood_sampler.data.contrast import warn_of_narrow_range
from ood_sampler.data.images import READER_VERSION, ImageError, fit_square, read_rgb
from ood_sampler.data.options import from_keys
from ood_sampler.data.radiation import FieldScale, FluxScale
from ood_sampler.data.sources import ImageSource, open_source
from ood_sampler.data.split import Picture, Split, check_counts, inspect
from ood_sampler.faults import printable

_ASSETS = Path(__file__).parents[1] / "assets"

_KEPT_BYTES = 2**28
"""Memory for decoded images of a set: 87,000 of them at 32x32, 1,300 at 256x256."""

_FEW_SHOT = 500
"""Images of a shipped data set before this index are few-shot, the others held-out."""


class ImageSet(Dataset[Tensor], ABC):
    """Square images of one resolution $R$; item $i$ is float32 in [-1, 1], shape $(3, R, R)$."""

    names: list[str]
    """One printable name per image, in the order of the items."""

    resolution: int
    """$R$ in pixels."""

    digest: str
    """SHA-256 over the names, the stored bytes, the resolution and `READER_VERSION`.

    Equal digests mean equal items, so it can be the key of cached results.
    """

    upsampled: list[str]
    """Names of the images whose shorter side is less than the resolution."""

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def __getitem__(self, index: int) -> Tensor: ...


class InspectedImages(ImageSet):
    """Images made of inspected items of a source; a subclass reads them again.

    Args:
        images: Metadata of the items.
        resolution: $R$ in pixels.
    """

    def __init__(self, pictures: Sequence[Picture], *, resolution: int) -> None:
        self.names = [printable(picture.name) for picture in pictures]
        self.resolution = checked_resolution(resolution)
        self.upsampled = [printable(p.name) for p in pictures if p.shorter_side < resolution]
        self.digest = digest_of(
            [picture.name for picture in pictures],
            (picture.sha256 for picture in pictures),
            resolution=resolution,
        )


class SourceImages(InspectedImages):
    """Inspected images of a source, decoded at first access and kept, up to `_KEPT_BYTES`."""

    def __init__(
        self, source: ImageSource, pictures: Sequence[Picture], *, resolution: int
    ) -> None:
        super().__init__(pictures, resolution=resolution)
        self._source = source
        self._pictures = list(pictures)
        self._decoded: dict[int, Tensor] = {}

    def __getitem__(self, index: int) -> Tensor:
        pixels = self._decoded.get(index)
        if pixels is None:
            pixels = self._decode(self._pictures[index])
            # Images are read in whole passes, so the first that fit are as good as any others.
            if (len(self._decoded) + 1) * pixels.numel() <= _KEPT_BYTES:
                self._decoded[index] = pixels
        return _to_float(pixels)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_decoded": {}}

    def _decode(self, picture: Picture) -> Tensor:
        data = self._source.read(picture.index)
        path = self._source.path(picture.index)
        check_unchanged(picture, hashlib.sha256(data).hexdigest(), path)
        return fit_square(read_rgb(data, name=path), self.resolution)


class TensorImages(ImageSet):
    """Images held in memory, resized at each access if their side differs from the resolution.

    Images of type uint8 are resized by `fit_square` (Lanczos), those of type float32 by antialiased
    bicubic interpolation, clamped to [-1, 1].

    Args:
        images: uint8, or float32 in [-1, 1], shape $(N, 3, S, S)$.
        names: $N$ names.
        resolution: $R$, the side of the items.
    """

    def __init__(self, images: Tensor, names: Sequence[str], *, resolution: int) -> None:
        if images.dtype not in (torch.uint8, torch.float32):
            raise ValueError(f"images must be uint8 or float32, got {images.dtype}")
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must have shape (N, 3, S, S), got {tuple(images.shape)}")
        if images.is_floating_point() and not (images.abs() <= 1).all():
            raise ValueError(
                "float images must lie in [-1, 1], "
                f"got {images.amin().item()}...{images.amax().item()}"
            )
        if len(names) != len(images):
            raise ValueError(f"names must be {len(images)}, one per image, got {len(names)}")
        self.names = list(names)
        self.resolution = checked_resolution(resolution)
        self.upsampled = self.names if images.shape[-1] < resolution else []
        self.digest = digest_of(
            self.names,
            (hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images),
            resolution=resolution,
        )
        self._images = images

    def __getitem__(self, index: int) -> Tensor:
        image = self._images[index]
        if not image.is_floating_point():
            return _to_float(fit_square(image.permute(1, 2, 0).numpy(), self.resolution))
        if image.shape[-1] == self.resolution:
            return image.clone()
        size = (self.resolution, self.resolution)
        resized = interpolate(image[None], size=size, mode="bicubic", antialias=True)
        return resized[0].clamp(-1, 1)


class Part(ImageSet):
    """Some images of another set.

    Args:
        images: The other set.
        indices: Of the images, in order.
    """

    def __init__(self, images: ImageSet, indices: Sequence[int]) -> None:
        self.names = [images.names[index] for index in indices]
        self.resolution = images.resolution
        upsampled = set(images.upsampled)
        self.upsampled = [name for name in self.names if name in upsampled]
        numbers = (f"{images.digest} {index}" for index in indices)
        self.digest = digest_of(self.names, numbers, resolution=images.resolution)
        self.indices = list(indices)
        self.images = images

    def __getitem__(self, index: int) -> Tensor:
        return self.images[self.indices[index]]


@dataclass(frozen=True)
class TargetDomain:
    """The unseen domain of a run; no two of its images are equal."""

    name: str
    few_shot: ImageSet
    held_out: ImageSet
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """Images that were left out, each with the reason."""

    scale: FieldScale | None = None
    """For physical fields: the map from values to colours and back."""

    clipped: tuple[float, float] | None = None
    """For physical fields: the shares of few-shot and held-out values outside of `scale`."""

    unit: str | None = None
    """For physical fields: the unit of their values, if their files give it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))


@from_keys(Split)
def folder_domain(
    split: Split, *, name: str, root: str, held_out_root: str | None, resolution: int
) -> TargetDomain:
    """Make a domain of a user's images, in folders, zip archives or LMDB databases.

    Args:
        split: Divides the images.
        name: Name of the domain in tables.
        root: Folder, zip archive or LMDB database.
        held_out_root: The same for the held-out set; None splits `root`.
        resolution: Side of the images in pixels.

    Raises:
        FileNotFoundError: A root does not exist.
        ImageError: `split.on_error` is `raise` and an image is unreadable.
        ValueError: There are too few images, or an argument is out of range.
    """
    few_shot = open_source(str(root))
    held_out = None
    if held_out_root is not None:
        held_out = open_source(str(held_out_root), key="data.held_out_root")
    return picture_domain(split, few_shot, held_out, name=name, resolution=resolution)


def picture_domain(
    split: Split,
    few_shot: ImageSource,
    held_out: ImageSource | None,
    *,
    name: str,
    resolution: int,
) -> TargetDomain:
    """Make a domain of one source of images, or of one for each set; every used one decoded once.

    Args:
        split: Divides the images.
        few_shot: Source of the few-shot set.
        held_out: Source of the held-out set; None splits the first.
        name: Name of the domain in tables.
        resolution: Side of the images in pixels.

    Raises:
        ImageError: `split.on_error` is `raise` and an image is unreadable.
        ValueError: There are too few images, or the resolution is below 1.
    """
    checked_resolution(resolution)
    chosen = split.choose(few_shot, held_out, partial(inspect, resolution=resolution))
    domain = TargetDomain(
        name=name,
        few_shot=SourceImages(few_shot, chosen.few_shot, resolution=resolution),
        held_out=SourceImages(held_out or few_shot, chosen.held_out, resolution=resolution),
        skipped=chosen.skipped,
    )
    warn_of_upsampling(domain)
    warn_of_narrow_range(name, domain.few_shot)
    return domain


def embedded_domain(
    *, name: str, resolution: int, few_shot: int | None, held_out: int | None
) -> TargetDomain:
    """Read a simulated domain that ships with the package: images, or fluxes with their scale.

    The few-shot set takes its first images of 0 to 499, the held-out set those from 500 on.

    Args:
        name: Folder and file name below `assets`.
        resolution: Side of the images in pixels; `TensorImages` resizes them if it differs from
            the stored one.
        few_shot: Number of images to invert; None takes all 500.
        held_out: Number of images to compare with; None takes all.

    Raises:
        FileNotFoundError: The package has no such domain.
        ValueError: A set asks for more images than there are, or the file is damaged.
    """
    check_counts(few_shot=few_shot, held_out=held_out)
    images, scale, unit = _embedded_images(name)
    available = len(images) - _FEW_SHOT
    few_shot = _FEW_SHOT if few_shot is None else few_shot
    held_out = available if held_out is None else held_out
    if few_shot > _FEW_SHOT:
        raise ValueError(
            f"few_shot must be at most {_FEW_SHOT}, the few-shot images of {name}, "
            f"got {few_shot}; lower data.few_shot"
        )
    if held_out > available:
        raise ValueError(
            f"held_out must be at most {available}, the held-out images of {name}, "
            f"got {held_out}; lower data.held_out"
        )

    def images_from(start: int, count: int) -> TensorImages:
        indices = range(start, start + count)
        names = [f"{name}/{index:04d}" for index in indices]
        return TensorImages(images[start : start + count], names, resolution=resolution)

    domain = TargetDomain(
        name=name,
        few_shot=images_from(0, few_shot),
        held_out=images_from(_FEW_SHOT, held_out),
        scale=scale,
        unit=unit,
    )
    warn_of_upsampling(domain)
    return domain


def _embedded_images(name: str) -> tuple[Tensor, FieldScale | None, str | None]:
    path = _ASSETS / name / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; set data.name to a domain that ships with the package, "
            "or install it again"
        )
    try:
        with safe_open(path, framework="pt") as file:
            if "images" in file.keys():  # noqa: SIM118  the file is no mapping
                images: Tensor = file.get_tensor("images")
                return images, None, None
            metadata = file.metadata()
            scale = FluxScale.from_metadata(metadata)
            return scale.to_rgb(file.get_tensor("fields")), scale, metadata.get("units")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); install the package again") from error


def checked_resolution(resolution: int) -> int:
    """Return `resolution`.

    Raises:
        ValueError: It is below 1.
    """
    if resolution < 1:
        raise ValueError(f"resolution must be >= 1, got {resolution}")
    return resolution


def check_unchanged(picture: Picture, sha256: str, path: str) -> None:
    """Compare an item that is read again with the one that was inspected.

    Raises:
        ImageError: It differs: results are cached under the digest of what was inspected.
    """
    if sha256 != picture.sha256:
        raise ImageError(f"{path} has changed since the run began; start the run again")


def warn_of_upsampling(domain: TargetDomain) -> None:
    """Warn once if images of a domain are smaller than its resolution."""
    upsampled = [*domain.few_shot.upsampled, *domain.held_out.upsampled]
    if upsampled:
        warnings.warn(
            f"{len(upsampled)} images of {domain.name} are smaller than the model's "
            f"{domain.few_shot.resolution} pixels and are upsampled, {upsampled[0]} for example; "
            "results show the blur of that",
            stacklevel=5,
        )


def digest_of(names: Sequence[str], hashes: Iterable[str], *, resolution: int) -> str:
    """Hash all that items of a set depend on: names, contents, resolution, `READER_VERSION`."""
    digest = hashlib.sha256(f"{READER_VERSION} {resolution}".encode())
    for name, content in zip(names, hashes, strict=True):
        # A file name may be invalid UTF-8. It cannot contain NUL, which makes the joint unique.
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0" + content.encode())
    return digest.hexdigest()


def _to_float(image: Tensor) -> Tensor:
    return image.float() / 127.5 - 1
