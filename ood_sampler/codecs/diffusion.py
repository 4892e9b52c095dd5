"""A pixel diffusion model and a solver as a codec."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ood_sampler.codecs.base import Codec, Weights
from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.diffusion.schedule import Schedule, check_latent_step
from ood_sampler.diffusion.solvers.base import Solver
from ood_sampler.store.versions import Maker


class DiffusionModel(Weights, Protocol):
    """A frozen diffusion model, as a codec needs it."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of one input of the denoiser."""

    @property
    def schedule(self) -> Schedule:
        """The noise schedule."""

    @property
    def denoiser(self) -> Denoiser:
        """The network."""


class ModelAround:
    """Base class of a diffusion model that wraps another: its shape and schedule are the same."""

    model: DiffusionModel

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of one input of the denoiser."""
        return self.model.latent_shape

    @property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        return self.model.schedule


@dataclass(frozen=True)
class DiffusionCodec(Codec):
    """Invert and decode along the trajectories of a diffusion model; a level is a step $t$.

    Attributes:
        model: the frozen model.
        solver: grid and moves in both directions.
    """

    model: DiffusionModel
    solver: Solver

    @property
    def identity(self) -> dict[str, Any]:
        solver = {"type": type(self.solver).__name__, **vars(self.solver)}
        return {"model": self.model.digest, "solver": solver}

    @property
    def makers(self) -> tuple[Maker, ...]:
        return (type(self), type(self.solver), *self.model.makers)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"denoiser": self.model.denoiser}

    @property
    def label(self) -> str:
        name = type(self.solver).__name__.removesuffix("Solver").lower()
        given = [f"{key} {value}" for key, value in self.settings.items() if value is not None]
        return f"{name} ({', '.join(given)})"

    @property
    def settings(self) -> dict[str, Any]:
        return dict(vars(self.solver))

    @property
    def schedule(self) -> Schedule:
        return self.model.schedule

    @property
    def last_level(self) -> int:
        return self.schedule.T - 1

    def shape(self, level: int) -> tuple[int, ...]:
        return self.model.latent_shape

    def check(self, levels: Iterable[int], *, eta: float = 0.0) -> None:
        _ = self.model.digest
        # the file of weights is read here, so that its faults are not taken for those of a key
        schedule = self.schedule
        for level in levels:
            try:
                check_latent_step(level, schedule)
            except ValueError as error:
                raise ValueError(f"inversion.{error}") from error
        try:
            self.solver.check(schedule.T)
        except ValueError as error:
            raise ValueError(f"solver.{error}") from error
        try:
            self.solver.check_eta(eta)
        except ValueError as error:
            raise ValueError(f"decode.{error}") from error

    def encode(
        self,
        x_0: Tensor,
        levels: Iterable[int],
        *,
        noised_moves: int = 0,
        noise: SampleNoise | None = None,
    ) -> dict[int, Tensor]:
        return self.solver.invert(
            self.model.denoiser,
            x_0,
            levels,
            noised_moves=noised_moves,
            noise=None if noise is None else lambda: noise.normal(*x_0.shape[1:]),
        )

    def decode(
        self,
        z: Tensor,
        level: int,
        *,
        eta: float = 0.0,
        noise: SampleNoise | None = None,
        clip_x_0: bool = False,
    ) -> Tensor:
        return self.solver.decode(
            self.model.denoiser,
            z,
            step=level,
            eta=eta,
            noise=None if noise is None else lambda: noise.normal(*z.shape[1:]),
            clip_x_0=clip_x_0,
        )

    def encoding_evaluations(self, levels: Iterable[int], *, noised_moves: int = 0) -> int:
        return self.solver.inversion_evaluations(
            levels, T=self.schedule.T, noised_moves=noised_moves
        )

    def decoding_evaluations(self, level: int) -> int:
        return self.solver.decoding_evaluations(level, T=self.schedule.T)

    def probe(self, z: Tensor) -> Tensor:
        t = torch.full((), self.schedule.T // 2, device=z.device)
        return self.model.denoiser.eps(z, t)
