r"""A generator of a GAN as a codec: codes are found by optimisation (Abdal et al., 2019)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from ood_sampler.codecs.base import Codec, Weights
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.store.versions import Maker

Space = Literal["w", "w_plus"]
"""One code for all layers, or one for each."""

PRIOR = 0
"""Level of the latents $z$ that the model was trained on; all other levels are the codes."""

BACKWARD = 2
"""Evaluations of the generator that its backward pass counts as."""

_MEAN_OF = 4096
"""Draws of the prior whose mean code is the first start."""

_WARM, _COOL = 0.05, 0.5
"""Shares of the steps in which the rate rises, and falls to zero along a cosine."""


class Generator(nn.Module, ABC):
    r"""Map $z \sim \mathcal{N}(0, I)$ to a code $w$, and codes to images in $[-1, 1]$.

    Attributes:
        width: $D$, of $z$ and of $w$.
        layers: $L$, codes of an image.
    """

    width: int
    layers: int

    @abstractmethod
    def map(self, z: Tensor) -> Tensor:
        """Map $z$ to $w$, both of shape $(B, D)$."""

    @abstractmethod
    def synthesize(self, w: Tensor) -> Tensor:
        """Make images of one code, shape $(B, D)$, or one per layer, shape $(B, L, D)$."""

    def forward(self, z: Tensor) -> Tensor:
        """Make images of $z$, shape $(B, D)$."""
        return self.synthesize(self.map(z))


class GanModel(Weights, Protocol):
    """A frozen generator, as a codec needs it."""

    @property
    def generator(self) -> Generator:
        """The network."""

    @property
    def judge(self) -> nn.Module:
        """Maps images to features, shape $(B, F)$, with a gradient."""


@dataclass(frozen=True)
class Fitting:
    r"""How a code is fitted to an image by Adam.

    $$\lambda_p \lVert G(w) - x_0 \rVert^2 / d + \lambda_f \lVert f(G(w)) - f(x_0) \rVert^2 / F$$

    is minimised from the mean code and, if there are more starts, from codes of the prior, the same
    for all images. The start whose end has the least loss is taken. The rate rises over the first
    5% of the steps and falls over the last half (Karras et al., 2020, appendix D, without noise).

    Attributes:
        steps: of Adam, from each start; in w+ as many again from the best code in w.
        starts: of each image, at least 1.
        learning_rate: of Adam.
        pixels: weight of the pixels' error, >= 0.
        features: weight of the features' error, >= 0.
    """

    steps: int
    starts: int
    learning_rate: float
    pixels: float
    features: float

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("starts", 1), ("pixels", 0), ("features", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"model.{name} must be >= {least}, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"model.learning_rate must be above 0, got {self.learning_rate}")
        if not self.pixels + self.features > 0:
            raise ValueError("model.pixels or model.features must be above 0, got 0 for both")

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        done = step / self.steps
        cosine = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - done) / _COOL))
        return self.learning_rate * cosine * min(1.0, (step + 1) / (_WARM * self.steps))


@dataclass(frozen=True)
class GanCodec(Codec):
    """Fit codes to images, and decode them in one pass of the generator.

    A level other than `PRIOR` has no meaning: a GAN has no steps.

    Attributes:
        model: the frozen generator.
        space: of the codes.
        fitting: of codes to images.
    """

    model: GanModel
    space: Space
    fitting: Fitting

    def __post_init__(self) -> None:
        if self.space not in get_args(Space):
            raise ValueError(f"model.space must be w or w_plus, got {self.space}")

    @property
    def identity(self) -> dict[str, Any]:
        return {"model": self.model.digest, "space": self.space, "fitting": asdict(self.fitting)}

    @property
    def makers(self) -> tuple[Maker, ...]:
        return (type(self), *self.model.makers)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        judge = {"judge": self.model.judge} if self.fitting.features else {}
        return {"generator": self.model.generator, **judge}

    @property
    def label(self) -> str:
        space = "w+" if self.space == "w_plus" else self.space
        return f"{space} ({self.fitting.steps} steps, {self.fitting.starts} starts)"

    @property
    def settings(self) -> dict[str, Any]:
        return {"space": self.space, **asdict(self.fitting)}

    @property
    def last_level(self) -> int:
        return PRIOR

    def shape(self, level: int) -> tuple[int, ...]:
        generator = self.model.generator
        if level == PRIOR or self.space == "w":
            return (generator.width,)
        return (generator.layers, generator.width)

    def check(self, levels: Iterable[int], *, eta: float = 0.0) -> None:
        _ = self.model.digest
        if PRIOR in levels:
            raise ValueError(
                f"inversion.step must be above {PRIOR} for a GAN, which has no steps, got {PRIOR}: "
                "that is its prior, and images are inverted to codes"
            )
        if eta:
            raise ValueError(f"decode.eta must be 0 for a GAN, which decodes at once, got {eta}")

    def encode(
        self,
        x_0: Tensor,
        levels: Iterable[int],
        *,
        noised_moves: int = 0,
        noise: SampleNoise | None = None,
    ) -> dict[int, Tensor]:
        return dict.fromkeys(levels, self.fit(x_0))

    def decode(
        self,
        z: Tensor,
        level: int,
        *,
        eta: float = 0.0,
        noise: SampleNoise | None = None,
        clip_x_0: bool = False,
    ) -> Tensor:
        with torch.no_grad():
            generator = self.model.generator
            return generator(z) if level == PRIOR else generator.synthesize(z)

    def encoding_evaluations(self, levels: Iterable[int], *, noised_moves: int = 0) -> int:
        each = self.fitting.steps * (1 + BACKWARD)
        # the loss at the end of each start is one more
        in_w = self.fitting.starts * (each + (self.fitting.starts > 1))
        return in_w + (each if self.space == "w_plus" else 0)

    def decoding_evaluations(self, level: int) -> int:
        return 1

    def probe(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            images: Tensor = self.model.generator(z)
        return images

    def fit(self, x_0: Tensor) -> Tensor:
        """Fit a code to each image, whatever others are in the batch."""
        x_0 = x_0.float()
        wanted = self._features(x_0).detach() if self.fitting.features else None
        ends = [self._descend(w, x_0, wanted) for w in self._starts(x_0)]
        code = ends[0]
        if len(ends) > 1:
            with torch.no_grad():
                losses = torch.stack([self._losses(end, x_0, wanted) for end in ends])
            code = torch.stack(ends)[losses.argmin(dim=0), torch.arange(len(x_0))]
        if self.space == "w":
            return code
        layers = self.model.generator.layers
        return self._descend(code[:, None].repeat(1, layers, 1), x_0, wanted)

    def _starts(self, x_0: Tensor) -> list[Tensor]:
        """The mean code and codes of the prior, each for all images."""
        starts = self._codes[: self.fitting.starts].to(x_0)
        return [w.expand(len(x_0), -1) for w in starts]

    @cached_property
    def _codes(self) -> Tensor:
        """The mean of codes of the prior, followed by them."""
        codes = prior_codes(self.model.generator, _MEAN_OF)
        return torch.cat([codes.mean(dim=0, keepdim=True), codes])

    def _descend(self, start: Tensor, x_0: Tensor, wanted: Tensor | None) -> Tensor:
        """Minimise the loss of each image from a start, shape $(B, ...)$."""
        with torch.enable_grad():
            code = start.detach().clone().requires_grad_()
            adam = torch.optim.Adam([code], betas=(0.9, 0.999))
            for step in range(self.fitting.steps):
                adam.param_groups[0]["lr"] = self.fitting.rate(step)
                # the gradient of a sum is that of each image alone
                loss = self._losses(code, x_0, wanted).sum()
                (code.grad,) = torch.autograd.grad(loss, code)
                adam.step()
        return code.detach()

    def _losses(self, code: Tensor, x_0: Tensor, wanted: Tensor | None) -> Tensor:
        """Loss of each image, shape (B,)."""
        made = self.model.generator.synthesize(code)
        losses = self.fitting.pixels * (made - x_0).square().flatten(1).mean(dim=1)
        if wanted is not None:
            apart = (self._features(made) - wanted).square().mean(dim=1)
            losses = losses + self.fitting.features * apart
        return losses

    def _features(self, images: Tensor) -> Tensor:
        features: Tensor = self.model.judge(images)
        return features


@torch.no_grad()
def prior_codes(generator: Generator, count: int, *, seed: int = 0) -> Tensor:
    """Map draws of the prior to codes $w$, shape (count, D): draw i depends on (seed, i) alone."""
    noise = SampleNoise(seed, range(count), stream=Stream.FIT)
    weight = next(generator.parameters())
    return generator.map(noise.normal(generator.width).to(weight)).cpu()
