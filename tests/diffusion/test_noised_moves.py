"""The first moves of inversion replaced by noise."""

import math

import pytest
import torch
from toys import (
    MEAN,
    SCHEDULE,
    bent,
    every_solver,
    gaussian,
    named,
    normal,
    scales,
    smooth_schedule,
)

from ood_sampler.diffusion.schedule import trunk
from ood_sampler.diffusion.solvers import HeunSolver, Solver

STEPS = [60, 400, 999]


@pytest.mark.parametrize("moves", [1, 12, 32])
def test_latents_follow_the_flow_from_where_the_noise_ends(moves: int) -> None:
    variance, schedule = 0.25, smooth_schedule()
    solver, step = HeunSolver(steps=256, power=1), schedule.T - 1
    x_0 = MEAN + variance**0.5 * normal(4000, 3, 1, 1)
    eps = normal(4000, 3, 1, 1, seed=1)
    start = int(trunk(schedule.T, 256)[moves])
    (alpha_s, sigma_s), (alpha, sigma) = scales(start, schedule), scales(step, schedule)
    noised = alpha_s * x_0 + sigma_s * eps
    # along the flow the distance from the mean scales with its standard deviation
    spread, before = (
        math.sqrt(a**2 * variance + s**2) for a, s in ((alpha, sigma), (alpha_s, sigma_s))
    )
    expected = alpha * MEAN + (noised - alpha_s * MEAN) * spread / before
    denoiser = gaussian(variance, schedule)
    found = solver.invert(denoiser, x_0, [step], noised_moves=moves, noise=lambda: eps)[step]
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-4)
    # so that their marginal is that of any latent of the data
    error = 5 * spread / math.sqrt(4000)
    assert float((found.mean(0) - alpha * MEAN).abs().max()) < error
    assert float((found.std(0) - spread).abs().max()) < error / math.sqrt(2)


@pytest.mark.parametrize("solver", every_solver(12), ids=named)
def test_none_is_the_inversion_and_all_are_forward_noising(solver: Solver) -> None:
    x_0, eps = normal(2, 3, 2, 2).float(), normal(2, 3, 2, 2, seed=1).float()

    def inverted(moves: int) -> dict[int, torch.Tensor]:
        return solver.invert(bent(), x_0, STEPS, noised_moves=moves, noise=lambda: eps)

    plain, none, all_moves = solver.invert(bent(), x_0, STEPS), inverted(0), inverted(12)
    for step in STEPS:
        assert torch.equal(none[step], plain[step])
        assert torch.equal(all_moves[step], SCHEDULE.diffuse(x_0, eps, step))


@pytest.mark.parametrize("solver", every_solver(12), ids=named)
def test_several_steps_in_one_pass_are_what_they_are_alone(solver: Solver) -> None:
    x_0, eps = normal(2, 3, 2, 2).float(), normal(2, 3, 2, 2, seed=1).float()
    wanted = [10, *STEPS]
    together = solver.invert(bent(), x_0, wanted, noised_moves=3, noise=lambda: eps)
    for step in wanted:
        alone = solver.invert(bent(), x_0, [step], noised_moves=3, noise=lambda: eps)
        assert torch.equal(together[step], alone[step])
    # of a short grid nothing is left
    assert torch.equal(together[10], SCHEDULE.diffuse(x_0, eps, 10))


@pytest.mark.parametrize("solver", every_solver(12), ids=named)
def test_replaced_moves_cost_nothing(solver: Solver) -> None:
    costs = [solver.inversion_evaluations([999], T=1000, noised_moves=k) for k in range(13)]
    assert costs[0] == solver.inversion_evaluations([999], T=1000)
    assert costs == sorted(costs, reverse=True)
    assert costs[3] < costs[0]
    assert costs[12] == 0


def test_they_need_noise() -> None:
    with pytest.raises(ValueError, match="noised_moves=2 needs a source of noise"):
        HeunSolver(steps=4, power=1).invert(bent(), normal(1, 3, 2, 2), [400], noised_moves=2)
