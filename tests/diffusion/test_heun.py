import math

import pytest
import torch
from diffusers import HeunDiscreteScheduler
from toys import bend, bent, normal, scales

from ood_sampler.diffusion.solvers import Flow, HeunSolver, Point


def test_a_move_written_out() -> None:
    x_0 = normal(2, 3, 4, 4)
    alpha, sigma = scales(249)
    first = bend(x_0, torch.tensor(0))
    second = bend(alpha * x_0 + sigma * first, torch.tensor(249))
    expected = alpha * x_0 + sigma * (first + second) / 2
    moved = HeunSolver(steps=4, power=1).invert(bent(), x_0, [249])[249]
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
def test_decoding_equals_diffusers() -> None:
    theirs, visited = (
        HeunDiscreteScheduler(1000, beta_start=1e-4, beta_end=0.02),
        [999, 700, 300, 20],
    )
    theirs.set_timesteps(timesteps=visited)
    # theirs carries x / alpha, and takes the table and the sigmas in float32
    s = [math.sqrt(1 / scales(step)[0] ** 2 - 1) for step in visited]
    twice = [level for level in s[1:] for _ in range(2)]
    theirs.sigmas = torch.tensor([s[0], *twice, 0], dtype=torch.float64)
    x_T = normal(2, 3, 4, 4)
    alpha, _ = scales(999)
    expected = x_T / alpha
    for t in theirs.timesteps[:-1]:
        eps = bend(theirs.scale_model_input(expected, t), t)
        expected = theirs.step(eps, t, expected).prev_sample
    solver, flow, point = HeunSolver(steps=4, power=1), Flow(bent()), Point(x_T, 999)
    for s in visited[1:]:
        point = solver.move(flow, point, s)
    alpha, _ = scales(20)
    torch.testing.assert_close(point.x, alpha * expected, rtol=0, atol=1e-9)
