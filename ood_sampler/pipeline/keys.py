"""What strategies and sets of images bring into the keys of nodes, and their labels."""

from collections.abc import Sequence
from typing import Any

from ood_sampler.data.domain import ImageSet, Part
from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.samplers.base import Sampler
from ood_sampler.store.node import Node
from ood_sampler.store.sets import Selected, Taken, TensorSet
from ood_sampler.store.versions import code_version


def configuration(part: Sampler) -> dict[str, Any]:
    """Name and arguments of a strategy."""
    return {"type": type(part).__name__, **vars(part)}


def label(sampler: Sampler) -> str:
    """Name a strategy with its arguments, for tables."""
    arguments = ", ".join(str(value) for value in vars(sampler).values() if value is not None)
    if sampler.recipe:
        arguments = f"{sampler.recipe}: {arguments}"
    name = type(sampler).__name__.removesuffix("Sampler").lower()
    return f"{name} ({arguments})" if arguments else name


def reader(images: ImageSet) -> str:
    """Hash of the code that reads images from a set, or from the set behind a part."""
    made = [type(images)]
    while isinstance(images, Part):
        images = images.images
        made.append(type(images))
    return code_version(*made)


def made_by(images: ImageSet) -> list[Node]:
    """Nodes that make a set of images; none for real images."""
    node: Node | None = getattr(images, "node", None)
    return [] if node is None else [node]


def selected(items: TensorSet, kept: Sequence[int]) -> TensorSet:
    """Some items of a set; the set itself if these are all."""
    return items if len(kept) == len(items) else Selected(items, kept)


def taken(images: ImageSet) -> Taken:
    """Images as a tensor set."""
    return Taken(images, len(images))


def drawing(sampler: Sampler) -> str:
    """Hash of the code that fits and draws, and of the classes handed to it."""
    return code_version(type(sampler), SampleNoise, TensorSet)
