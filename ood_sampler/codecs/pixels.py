"""Images as their own latents, without a model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ood_sampler.codecs.base import Codec
from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.store.versions import Maker


@dataclass(frozen=True)
class PixelCodec(Codec):
    """The identity; a run with it mixes the images themselves, the control of every strategy.

    Attributes:
        image_shape: $(C, H, W)$.
    """

    image_shape: tuple[int, ...]
    stored: ClassVar[bool] = False

    @property
    def identity(self) -> dict[str, Any]:
        return {"pixels": list(self.image_shape)}

    @property
    def makers(self) -> tuple[Maker, ...]:
        return (type(self),)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {}

    @property
    def last_level(self) -> int:
        return 0

    def shape(self, level: int) -> tuple[int, ...]:
        return self.image_shape

    def check(self, levels: Iterable[int], *, eta: float = 0.0) -> None:
        if eta:
            raise ValueError(f"decode.eta must be 0 without a model, got {eta}")

    def encode(
        self,
        x_0: Tensor,
        levels: Iterable[int],
        *,
        noised_moves: int = 0,
        noise: SampleNoise | None = None,
    ) -> dict[int, Tensor]:
        return dict.fromkeys(levels, x_0)

    def decode(
        self,
        z: Tensor,
        level: int,
        *,
        eta: float = 0.0,
        noise: SampleNoise | None = None,
        clip_x_0: bool = False,
    ) -> Tensor:
        return z

    def encoding_evaluations(self, levels: Iterable[int], *, noised_moves: int = 0) -> int:
        return 0

    def decoding_evaluations(self, level: int) -> int:
        return 0
