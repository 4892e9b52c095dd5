import math

import pytest
import torch
from toys import Constant, bend, bent, normal, scales

from ood_sampler.diffusion.schedule import CLEAN
from ood_sampler.diffusion.solvers import Flow, MultistepSolver, Point
from ood_sampler.diffusion.solvers.multistep import _weight, continued


def angle(step: int) -> float:
    alpha, sigma = scales(step)
    return math.atan(sigma / alpha)


@pytest.mark.parametrize(("t", "s"), [(CLEAN, 0), (CLEAN, 300), (300, 301), (400, 999), (999, 20)])
def test_the_weight_is_the_integral(t: int, s: int) -> None:
    s_t, s_s = math.tan(angle(t)), math.tan(angle(s))
    points = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    share = ((s_t + (s_s - s_t) * points).atan() - angle(t)) / (angle(s) - angle(t))
    weight = _weight(Flow(bent()), t, s)
    assert weight == pytest.approx(float(torch.trapezoid(share, points)), rel=1e-6)
    # the formula reads the same in both directions
    assert weight + _weight(Flow(bent()), s, t) == pytest.approx(1, abs=1e-9)


def test_noise_that_turns_evenly_is_continued_exactly() -> None:
    slope = normal(1, 3, 2, 2)
    before = Point(slope, 100, estimate=slope * angle(100))
    point = Point(slope, 300, before=before, estimate=slope * angle(300))
    flow = Flow(Constant(slope))
    for s in (650, 250, CLEAN):
        torch.testing.assert_close(continued(flow, point, s), slope * angle(s), rtol=0, atol=1e-12)
    assert torch.equal(continued(flow, before, 300), slope * angle(100))


@pytest.mark.parametrize("corrections", [0, 1, 2])
def test_two_moves_written_out(corrections: int) -> None:
    x_0, visited = normal(2, 3, 4, 4), (CLEAN, 249, 499)
    s = [math.tan(angle(step)) for step in visited]
    alpha = [scales(step)[0] for step in visited]
    weights = [_weight(Flow(bent()), *pair) for pair in ((CLEAN, 249), (249, 499))]

    def ask(x_bar: torch.Tensor, i: int) -> torch.Tensor:
        return bend(alpha[i] * x_bar, torch.tensor(max(visited[i], 0)))

    x_bar, eps = x_0, [ask(x_0, 0)]
    for i in (0, 1):
        guess = (
            eps[0]
            if i == 0
            else eps[1]
            + (eps[1] - eps[0])
            * (angle(visited[2]) - angle(visited[1]))
            / (angle(visited[1]) - angle(visited[0]))
        )
        following, found = x_bar, None
        for k in range(corrections + 1):
            answer = guess if k == 0 else ask(following, i + 1)
            found = None if k == 0 else answer
            mean = (1 - weights[i]) * eps[i] + weights[i] * answer
            following = x_bar + (s[i + 1] - s[i]) * mean
        x_bar = following
        eps.append(ask(x_bar, i + 1) if found is None else found)
    solver = MultistepSolver(steps=4, power=1, corrections=corrections)
    latents = solver.invert(bent(), x_0, [499])[499]
    torch.testing.assert_close(latents, alpha[2] * x_bar, rtol=0, atol=1e-11)


def test_corrections_make_the_round_trip_exact() -> None:
    x_0 = 0.3 * normal(2, 3, 4, 4)

    def error(corrections: int) -> float:
        solver = MultistepSolver(steps=30, power=2, corrections=corrections)
        latents = solver.invert(bent(), x_0, [300])[300]
        return float((solver.decode(bent(), latents, step=300) - x_0).abs().max())

    errors = [error(corrections) for corrections in (1, 3, 6)]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert error(60) < 1e-12
