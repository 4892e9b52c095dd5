"""Side by side with diffusers over the same network: equal evaluations, then equal accuracy."""

from collections.abc import Iterator
from typing import Any

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from experiments.bench.network import STEP, best_batch, default_solver, network, some
from experiments.bench.table import Ratio, in_turn
from experiments.solvers.measure import Trip, converged, trips
from ood_sampler.diffusion.solvers import DdimSolver, Solver
from ood_sampler.models.process import PREDICTIONS

PAIRS = {1: 11}
"""At a batch size, else three."""
LAST = 999
IMAGES = 8
"""Inverted and decoded by 500-step DDIM."""
CONVERGED, MOVES = 2, 100
"""Images whose latents are found in float64, and the moves of Heun's method that it takes."""


def measure() -> Iterator[Ratio]:
    """Yield times at equal evaluations, then errors and evaluations against 500-step DDIM."""
    for batch_size in (1, best_batch()):
        yield at_equal_evaluations(batch_size)
    yield from at_equal_accuracy()


def at_equal_evaluations(batch_size: int) -> Ratio:
    """Time the way to pure noise and back in memory, with as many evaluations on both sides."""
    solver, denoiser, x_0 = default_solver(), network(), some(batch_size)
    T = denoiser.schedule.T
    up, down = solver.inversion_evaluations([LAST], T=T), solver.decoding_evaluations(LAST, T=T)

    def ours() -> Tensor:
        x_T = solver.invert(denoiser, x_0, [LAST])[LAST]
        return solver.decode(denoiser, x_T, step=LAST)

    ours()
    timed = in_turn(ours, lambda: diffusers_trip(x_0, up, down), pairs=PAIRS.get(batch_size, 3))
    return Ratio(
        name=f"time ours / diffusers at equal evaluations, batch {batch_size}",
        measured=timed.ratio(),
        goal=1.0,
        at_most=True,
        detail=f"{up} + {down} evaluations to t = {LAST} and back; "
        + timed.detail("ours", "diffusers"),
    )


@torch.no_grad()
def diffusers_trip(x: Tensor, up: int, down: int) -> Tensor:
    """Invert and decode as `DDIMPipeline` loops, over the same network in the same layout.

    Its own pipeline starts from noise and ends in images, so its loop stands here.
    """
    denoiser: Any = network()
    unet = denoiser.network.unet
    prediction = next(name for name, kind in PREDICTIONS.items() if isinstance(denoiser, kind))
    settings: dict[str, Any] = {
        "clip_sample": False,
        "timestep_spacing": "leading",
        "prediction_type": prediction,
    }
    for scheduler, evaluations in (
        (DDIMInverseScheduler(**settings), up),
        (DDIMScheduler(**settings), down),
    ):
        scheduler.set_timesteps(evaluations)
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t).sample, t, x).prev_sample
    return x


def at_equal_accuracy() -> Iterator[Ratio]:
    """Compare round trips and latents with those of 500-step DDIM, on the same galaxies."""
    denoiser, x_0 = network(), some(IMAGES)
    exact = converged(denoiser, x_0[:CONVERGED], [STEP], None, moves=MOVES)[STEP]

    def trip(solver: Solver) -> Trip:
        (found,) = trips(denoiser, solver, x_0, [STEP], IMAGES)
        return found

    ours, ddim = trip(default_solver()), trip(DdimSolver(steps=500, power=1))
    figures = {
        "round-trip RMSE": (ours.rmse(), ddim.rmse(), 1.0),
        "latent error": (ours.latent_error(exact), ddim.latent_error(exact), 1.0),
        "evaluations": (float(sum(ours.cost)), float(sum(ddim.cost)), 1 / 8),
    }
    for name, (mine, theirs, goal) in figures.items():
        yield Ratio(
            name=f"{name} ours / 500-step DDIM, t = {STEP}",
            measured=mine / theirs,
            goal=goal,
            at_most=True,
            detail=f"{mine:.3g} against {theirs:.3g}, {IMAGES} galaxies"
            + f", latents of {CONVERGED} by {MOVES} moves of Heun's method in float64"
            * (name == "latent error"),
        )
