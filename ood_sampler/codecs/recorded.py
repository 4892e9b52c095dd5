"""A frozen diffusion model that remembers the trajectory it was last walked along."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ood_sampler.codecs.autoencoder import AutoencoderCodec
from ood_sampler.codecs.base import Codec
from ood_sampler.codecs.diffusion import DiffusionCodec, DiffusionModel, ModelAround
from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.schedule import Schedule


class State(NamedTuple):
    r"""A point of a trajectory: $x_t$ and its denoised image $\hat x_0$, shape $(B, C, H, W)$."""

    x_t: Tensor
    x_0_hat: Tensor


@dataclass
class Trail:
    """States of a trajectory by step, in the order in which they were first reached.

    A solver that evaluates the network several times at a step leaves the last state there.
    """

    states: dict[int, State] = field(default_factory=dict)


class RecordingDenoiser(Denoiser):
    """Estimate the noise with another denoiser, and note each state.

    Args:
        denoiser: the frozen model, whose estimates are returned bit for bit.
        trail: takes the states.
    """

    def __init__(self, denoiser: Denoiser, trail: Trail) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.trail = trail

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        eps = self.denoiser.eps(x_t, t)
        alpha, sigma = self.schedule.scales(int(t))
        self.trail.states[int(t)] = State(x_t, (x_t - sigma * eps) / alpha)
        return eps

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        x_0_hat: Tensor = self.denoiser(x_t, t)
        self.trail.states[int(t)] = State(x_t, x_0_hat)
        return x_0_hat


@dataclass(frozen=True)
class RecordedModel(ModelAround):
    """A diffusion model whose denoiser notes the states that it is asked about.

    Attributes:
        model: the frozen model.
        trail: takes the states.
    """

    model: DiffusionModel
    trail: Trail

    @property
    def digest(self) -> str:
        """SHA-256 of the frozen model: recording changes no result."""
        return self.model.digest

    @property
    def makers(self) -> tuple[type, ...]:
        """Classes whose code its results depend on."""
        return (type(self), *self.model.makers)

    @cached_property
    def denoiser(self) -> RecordingDenoiser:
        """The network that notes its states."""
        return RecordingDenoiser(self.model.denoiser, self.trail)


def is_recordable(codec: Codec) -> bool:
    """Whether a codec walks along trajectories."""
    return isinstance(_inner(codec), DiffusionCodec)


def recorded(codec: Codec, trail: Trail) -> Codec:
    """The same codec, whose states end up in `trail`; codes of an autoencoder are states, too.

    Raises:
        TypeError: the codec is that of another kind of model.
    """
    if isinstance(codec, AutoencoderCodec):
        return replace(codec, inside=recorded(codec.inside, trail))
    if not isinstance(codec, DiffusionCodec):
        raise TypeError(f"codec must be that of a diffusion model, got {type(codec).__name__}")
    return replace(codec, model=RecordedModel(codec.model, trail))


def visited(codec: Codec, level: int, *, decoding: bool, noised_moves: int = 0) -> list[int]:
    """Steps whose states `recorded` notes on the way to a level or back, without the network.

    Args:
        codec: the codec.
        level: of the latents.
        decoding: from the level to images; else the other way.
        noised_moves: moves from clean data on that noise replaces; none of them is noted.

    Raises:
        TypeError: the codec is that of another kind of model.
    """
    inner = _inner(codec)
    if not isinstance(inner, DiffusionCodec):
        raise TypeError(f"codec must be that of a diffusion model, got {type(codec).__name__}")
    trail, solver = Trail(), inner.solver
    blank = RecordingDenoiser(_Blank(inner.schedule), trail)
    if decoding:
        solver.decode(blank, torch.zeros(1, 1, 1, 1), step=level)
    else:
        still = torch.zeros(1, 1, 1, 1)
        solver.invert(blank, still, [level], noised_moves=noised_moves, noise=lambda: still)
    return list(trail.states)


def _inner(codec: Codec) -> Codec:
    return _inner(codec.inside) if isinstance(codec, AutoencoderCodec) else codec


class _Blank(Denoiser):
    """Estimate no noise, as the grid does not depend on the network."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        # NaN never stops an iteration early
        return torch.full_like(x_t, torch.nan)
