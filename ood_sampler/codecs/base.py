"""The interface of a codec: a frozen model as a map between images and latents."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.store.versions import Maker


class Weights(Protocol):
    """Frozen weights, as keys of stored results name them."""

    @property
    def digest(self) -> str:
        """SHA-256 of everything that results depend on."""

    @property
    def makers(self) -> tuple[type, ...]:
        """Classes whose code results depend on."""


class Codec(ABC):
    r"""Map images to latents of a level and back, with frozen weights.

    Images are float32 in $[-1, 1]$, shape $(B, C, H, W)$. A level is an integer whose meaning the
    codec defines: the inversion step $t$ of a diffusion model, 0 for a model with a single kind of
    latents. Weights are loaded when `networks` is read; cost and identity are known without them.
    """

    stored: ClassVar[bool] = True
    """Whether latents and images are stored; cheap ones are computed when read instead."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Weights and settings that determine latents and images, as JSON."""

    @property
    @abstractmethod
    def makers(self) -> tuple[Maker, ...]:
        """Functions and classes whose code determines them (`code_version`)."""

    @property
    @abstractmethod
    def networks(self) -> Mapping[str, nn.Module]:
        """The frozen networks by name, loaded at first use; a stage moves them to its device.

        Raises:
            FileNotFoundError: weights are missing.
            ValueError: weights do not load.
        """

    @property
    def label(self) -> str:
        """Short description of the method."""
        return ""

    def place(self, level: int) -> str:
        """Where latents of a level lie, in words: the step, or the method of a model without."""
        return f"t = {level}" if self.schedule else self.label

    def at(self, level: int) -> dict[str, int | str]:
        """The same for records and tables: a `step`, or `latents` of a model without steps."""
        return {"step": level} if self.schedule else {"latents": self.label}

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the method, for records and tables."""
        return {}

    @property
    def schedule(self) -> Schedule | None:
        """Noise schedule of a diffusion model; None for other kinds."""
        return None

    @property
    @abstractmethod
    def last_level(self) -> int:
        r"""The level at which latents of the model's own domain are $\mathcal{N}(0, I)$."""

    @abstractmethod
    def shape(self, level: int) -> tuple[int, ...]:
        """Shape of a latent."""

    @abstractmethod
    def check(self, levels: Iterable[int], *, eta: float = 0.0) -> None:
        """Refuse settings that the codec cannot use, before any weight is loaded.

        Raises:
            ValueError: it does not have a level, a setting does not fit the model, or decoding
                cannot add noise; the message begins with the key of the configuration.
            FileNotFoundError: weights are missing.
        """

    @abstractmethod
    def encode(
        self,
        x_0: Tensor,
        levels: Iterable[int],
        *,
        noised_moves: int = 0,
        noise: SampleNoise | None = None,
    ) -> dict[int, Tensor]:
        """Invert images to the latents of some levels in one pass.

        Args:
            x_0: images, shape $(B, C, H, W)$.
            levels: of the latents.
            noised_moves: moves from clean data on that noise replaces (`Solver.invert`); a codec
                without a `schedule` is never asked for any.
            noise: one stream per image; needed if `noised_moves` > 0.
        """

    @abstractmethod
    def decode(
        self,
        z: Tensor,
        level: int,
        *,
        eta: float = 0.0,
        noise: SampleNoise | None = None,
        clip_x_0: bool = False,
    ) -> Tensor:
        """Decode latents of a level to images, not clipped at the end.

        Args:
            z: latents, shape $(B, *shape(level))$.
            level: of the latents.
            eta: noise of decoding; 0 is deterministic.
            noise: one stream per latent; needed if `eta` > 0.
            clip_x_0: clip denoised images on the way, as for samples from pure noise.

        Raises:
            ValueError: `eta` is refused or has no `noise`.
        """

    def clean(self, x_0: Tensor) -> Tensor:
        """Map images to the space of the latents, without noise."""
        return x_0

    @abstractmethod
    def encoding_evaluations(self, levels: Iterable[int], *, noised_moves: int = 0) -> int:
        """Network evaluations per image (NFE) of `encode`, at most."""

    @abstractmethod
    def decoding_evaluations(self, level: int) -> int:
        """Network evaluations per image (NFE) of `decode`."""

    def probe(self, z: Tensor) -> Tensor:
        """Evaluate the network once, to time it."""
        return z
