"""The correction of a run's flow: its settings and its Gaussians."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ood_sampler.codecs.base import Codec
from ood_sampler.data.domain import ImageSet
from ood_sampler.data.in_domain import in_domain_images
from ood_sampler.diffusion.gaussian import SMALLEST, fit_gaussian
from ood_sampler.pipeline.session import Session
from ood_sampler.store.files import save_state
from ood_sampler.store.node import Computed, Node, StoredState
from ood_sampler.store.sets import TensorSet
from ood_sampler.store.versions import code_version

OWN = "the model's own domain"


@dataclass(frozen=True)
class GaussianCorrection:
    """Replace the in-domain Gaussian of the model's score by that of the few-shot images.

    Attributes:
        weight: of the correction; 0 is the plain flow.
        fade: step below which the weight falls, to 0 at clean data.
        in_domain: images or samples to which the model's own Gaussian is fitted, at most.
        in_domain_root: folder, zip archive or LMDB database with images of the model's own
            domain; None takes samples of the model.
        resolution: of the model.

    Raises:
        ValueError: a number is out of its range.
    """

    weight: float
    fade: int
    in_domain: int
    in_domain_root: str | None
    resolution: int

    def __post_init__(self) -> None:
        if not (isinstance(self.weight, int | float) and 0 <= self.weight < math.inf):
            raise ValueError(f"correction.weight must be >= 0 and finite, got {self.weight!r}")
        for name, least in (("fade", 0), ("in_domain", SMALLEST)):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= least):
                raise ValueError(
                    f"correction.{name} must be a whole number >= {least}, got {value!r}"
                )

    @property
    def label(self) -> str:
        """Short description of the correction."""
        return f"gaussian (weight {self.weight:g}, fade {self.fade})"

    @cached_property
    def pictures(self) -> ImageSet | None:
        """Images of the model's own domain in a fixed order; None if no folder is set.

        Unreadable ones and duplicates are left out.

        Raises:
            FileNotFoundError: `in_domain_root` does not exist.
        """
        if self.in_domain_root is None:
            return None
        return in_domain_images(
            str(self.in_domain_root),
            self.in_domain,
            resolution=self.resolution,
            key="correction.in_domain_root",
        )

    def check(self, few_shot: int, *, T: int) -> None:
        """Refuse too few images, and a fade beyond the chain.

        Raises:
            ValueError: there are too few, or `fade` is not a step of the model.
            FileNotFoundError: `in_domain_root` does not exist.
        """
        if self.fade >= T - 1:
            raise ValueError(f"correction.fade must be in 0..{T - 2}, got {self.fade}")
        if few_shot < SMALLEST:
            raise ValueError(
                f"correction=gaussian needs at least {SMALLEST} few-shot images, got {few_shot}: "
                "add images, raise data.few_shot or set correction=none"
            )
        if self.pictures is not None and len(self.pictures) < SMALLEST:
            raise ValueError(
                f"correction.in_domain_root must hold at least {SMALLEST} readable images, got "
                f"{len(self.pictures)} in {self.in_domain_root}: add images, or set it to null"
            )

    def gaussian(
        self,
        name: str,
        session: Session,
        codec: Codec,
        images: Callable[[], TensorSet],
        key: Mapping[str, Any],
        count: int,
        *,
        inputs: Sequence[Node],
    ) -> Node:
        """Node of a Gaussian fitted to images in the space of a codec's flow.

        Args:
            name: of the images.
            session: makes the node.
            codec: of the plain flow.
            images: opens the images.
            key: all that determines each image.
            count: number of images.
            inputs: nodes that make the images.

        Raises:
            ValueError: the codec has no flow to correct.
        """
        noise, shape = self._noise(codec), codec.shape(codec.last_level)
        space = codec.identity.get("autoencoder")
        code = code_version(fit_gaussian)
        key = {**key, "count": count, "space": space, "noise": noise, "code": code}
        # deviations of each image, and the stationary part
        size = 4 * (count + 5) * math.prod(shape)
        state = StoredState(session.root, "gaussian", key, count, size=size)

        def make(_: Mapping[str, Any]) -> None:
            save_state(state.path, self.fit(codec, images()))

        return Node("fit Gaussian", {"state": state}, make, inputs=inputs, of=name)

    def fit(self, codec: Codec, images: TensorSet) -> dict[str, Tensor]:
        """Fit a Gaussian to images in the space of a codec's flow; see `fit_gaussian`.

        Raises:
            ValueError: the codec has no flow to correct, or there are too few images.
        """
        shape = codec.shape(codec.last_level)
        clean = Computed(images, torch.no_grad()(codec.clean), shape)
        return fit_gaussian(clean, noise=self._noise(codec))

    def _noise(self, codec: Codec) -> float:
        """Variance of the noise at the lowest noise level with the full weight."""
        if codec.schedule is None:
            raise ValueError(
                "correction must be none for this model: there is no score to correct in "
                f"{type(codec).__name__}"
            )
        alpha, sigma = codec.schedule.scales(self.fade)
        return (sigma / alpha) ** 2


def no_correction() -> None:
    """The plain flow, for `correction=none`."""
