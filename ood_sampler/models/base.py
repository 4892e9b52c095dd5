"""What a run asks of a model, whatever kind it is."""

from pathlib import Path
from typing import Protocol

from ood_sampler.codecs.base import Codec, Weights
from ood_sampler.diffusion.solvers.base import Solver


class Model(Weights, Protocol):
    """Interface of a frozen model to a run, wherever its weights come from."""

    @property
    def name(self) -> str:
        """Name in tables."""

    @property
    def resolution(self) -> int:
        """Side of its images in pixels."""

    @property
    def channels(self) -> int:
        """Channels of its images."""

    @property
    def has_own_domain(self) -> bool:
        """Whether it was trained on a domain; one fitted to the few-shot images was not."""

    @property
    def is_here(self) -> bool:
        """Whether its weights are on this machine."""

    @property
    def missing_megabytes(self) -> float | None:
        """Size of what must be fetched before a run, NaN where unknown; None if nothing.

        Raises:
            FileNotFoundError: the weights are missing and no source can be fetched from.
        """

    def codec(self, solver: Solver) -> Codec:
        """The model as a map between images and latents.

        Args:
            solver: of the run's configuration, for models that diffuse.
        """

    def in_domain_file(self, extractor: str) -> Path | None:
        """File with features of real in-domain images under `extractor`, if there is one."""


class ModelInMemory:
    """Base class of models whose weights are not fetched: the rest of `Model` is left to write."""

    @property
    def makers(self) -> tuple[type, ...]:
        """Classes that it is made of, whose code its results depend on."""
        return (type(self),)

    @property
    def has_own_domain(self) -> bool:
        """Whether it was trained on a domain, as most models are."""
        return True

    @property
    def is_here(self) -> bool:
        """Whether its weights are on this machine."""
        return True

    @property
    def missing_megabytes(self) -> float | None:
        """Size of what must be fetched before a run."""
        return None

    def in_domain_file(self, extractor: str) -> Path | None:
        """File with features of real in-domain images: none, samples stand for them."""
        return None
