"""Denoisers with known answers, for the tests of all solvers."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ood_sampler.codecs.diffusion import DiffusionCodec
from ood_sampler.diffusion.denoiser import Denoiser, EpsilonDenoiser, GaussianDenoiser
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers import (
    BdiaSolver,
    BelmSolver,
    DdimSolver,
    FixedPointSolver,
    HeunSolver,
    MultistepSolver,
    Solver,
)

SCHEDULE = Schedule.linear()
MEAN = torch.tensor([0.3, -0.2, 0.6], dtype=torch.float64).reshape(3, 1, 1)


def every_solver(steps: int, *, power: int = 1) -> list[Solver]:
    """Each solver, and each of its variants that walks differently."""
    return [
        DdimSolver(steps=steps, power=power),
        DdimSolver(steps=steps, power=power, noise_at="target"),
        FixedPointSolver(steps=steps, power=power, iterations=1),
        FixedPointSolver(steps=steps, power=power, iterations=3, memory=2, damping=0.2),
        FixedPointSolver(steps=steps, power=power, iterations=9, tolerance=1e-3),
        HeunSolver(steps=steps, power=power),
        MultistepSolver(steps=steps, power=power, corrections=0),
        MultistepSolver(steps=steps, power=power),
        MultistepSolver(steps=steps, power=power, corrections=2),
        BelmSolver(steps=steps, power=power),
        BdiaSolver(steps=steps, power=power),
        BdiaSolver(steps=steps, power=power, gamma=0.9),
    ]


def named(solver: Solver) -> str:
    others = [f"{k}={v}" for k, v in vars(solver).items() if k not in ("steps", "power")]
    return " ".join([type(solver).__name__.removesuffix("Solver"), *others])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scales(step: int, schedule: Schedule = SCHEDULE) -> tuple[float, float]:
    alpha, sigma = schedule(torch.tensor(step))
    return float(alpha), float(sigma)


def gaussian(variance: float, schedule: Schedule = SCHEDULE) -> GaussianDenoiser:
    return GaussianDenoiser(MEAN, variance, schedule)


def bend(x_t: Tensor, t: Tensor) -> Tensor:
    """Stand in for a network: not linear, and different at every step."""
    return torch.sin(2 * x_t + t.reshape(-1, 1, 1, 1) / 150) + 0.2 * x_t


def bent() -> EpsilonDenoiser:
    return EpsilonDenoiser(bend, SCHEDULE)


class Constant(Denoiser):
    """The same noise everywhere: straight trajectories."""

    def __init__(self, eps: Tensor, schedule: Schedule = SCHEDULE) -> None:
        super().__init__()
        self.schedule = schedule
        self.constant = eps

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.constant.to(x_t).expand_as(x_t)


class Counting(Denoiser):
    """Record the steps that the network is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = SCHEDULE
        self.asked: list[int] = []

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.asked.append(int(t))
        return bend(x_t, t)


def smooth_schedule(T: int = 4096, s_max: float = 4.0) -> Schedule:
    r"""Levels $s_t = s_{\max} ((t + 1) / T)^2$, so fine that orders of convergence show.

    On the models' own schedules clean data is asked about as if it had the noise of step 0; here
    that is next to nothing.
    """
    s = s_max * (torch.arange(T + 1, dtype=torch.float64) / T).square()
    alpha_bars = 1 / (1 + s.square())
    return Schedule(1 - alpha_bars[1:] / alpha_bars[:-1])


def on_trajectory(x_0: Tensor, variance: float, step: int, schedule: Schedule = SCHEDULE) -> Tensor:
    """The exact latent: the distance from the mean scales with its standard deviation."""
    alpha, sigma = scales(step, schedule)
    return alpha * MEAN + (x_0 - MEAN) * math.sqrt((alpha**2 * variance + sigma**2) / variance)


@dataclass(frozen=True)
class ToyModel:
    """A denoiser in memory as a frozen model."""

    denoiser: Denoiser
    latent_shape: tuple[int, int, int] = (1, 2, 2)
    digest: str = "toy"
    makers: tuple[type, ...] = ()

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule


def toy_codec(denoiser: Denoiser, solver: Solver | None = None) -> DiffusionCodec:
    """A codec around a denoiser in memory."""
    return DiffusionCodec(ToyModel(denoiser), solver or DdimSolver(steps=5, power=1))
