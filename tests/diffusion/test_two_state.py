import pytest
import torch
from torch import Tensor
from toys import Counting, bent, gaussian, named, normal, scales

from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.schedule import CLEAN
from ood_sampler.diffusion.solvers import (
    BdiaSolver,
    BelmSolver,
    Flow,
    HeunSolver,
    Point,
    TwoStateSolver,
)

SOLVERS = [
    BelmSolver(steps=40, power=1),
    BdiaSolver(steps=40, power=1),
    BdiaSolver(steps=40, power=2),
    BdiaSolver(steps=40, power=1, gamma=0.8),
]


def round_trip_error(solver: TwoStateSolver, denoiser: Denoiser, x_0: Tensor, step: int) -> float:
    x_t, below = solver.invert_pairs(denoiser, x_0, [step])[step]
    return float((solver.decode(denoiser, x_t, step=step, below=below) - x_0).abs().max())


@pytest.mark.parametrize("solver", SOLVERS, ids=named)
@pytest.mark.parametrize("step", [0, 24, 400, 505, 999])
def test_pairs_decode_exactly(solver: TwoStateSolver, step: int) -> None:
    x_0 = normal(2, 3, 4, 4)
    assert round_trip_error(solver, gaussian(0.25), x_0, step) < 1e-12
    assert round_trip_error(solver, gaussian(0.25), x_0.float(), step) < 1e-5
    if step < 999:
        assert round_trip_error(solver, bent(), x_0, step) < 1e-12
        assert round_trip_error(solver, bent(), x_0.float(), step) < 1e-5


@pytest.mark.parametrize("solver", SOLVERS, ids=named)
def test_a_steep_network_amplifies_rounding_alone(solver: TwoStateSolver) -> None:
    # near pure noise alpha is 0.006: exact in formula, and still not in float32
    x_0 = normal(2, 3, 4, 4)
    double = round_trip_error(solver, bent(), x_0, 999)
    assert double < 1e-8
    assert double < 1e-6 * round_trip_error(solver, bent(), x_0.float(), 999)


@pytest.mark.parametrize("solver", SOLVERS, ids=named)
def test_single_latents_do_not(solver: TwoStateSolver) -> None:
    x_0 = normal(2, 3, 4, 4)
    latents = solver.invert(gaussian(0.25), x_0, [400])[400]
    pairs = solver.invert_pairs(gaussian(0.25), x_0, [400, 200])
    assert torch.equal(latents, pairs[400][0])
    error = (solver.decode(gaussian(0.25), latents, step=400) - x_0).abs().max()
    assert 1e-9 < error < 0.1


def test_a_latent_alone_starts_with_a_move_of_heun() -> None:
    solver, x_t = BdiaSolver(steps=40, power=1), normal(2, 3, 4, 4)
    flow = Flow(bent())
    below = HeunSolver(steps=40, power=1).move(flow, Point(x_t, 399), 374).x
    expected = solver.decode(bent(), x_t, step=399, below=below)
    torch.testing.assert_close(solver.decode(bent(), x_t, step=399), expected, rtol=0, atol=1e-12)


def test_partners_save_the_evaluations_of_the_start() -> None:
    solver, x = BelmSolver(steps=40, power=1), normal(1, 3, 2, 2)
    with_partner, alone = Counting(), Counting()
    solver.decode(with_partner, x, step=399, below=x)
    solver.decode(alone, x, step=399)
    assert (len(with_partner.asked), len(alone.asked)) == (15, 17)


@pytest.mark.parametrize("visited", [(CLEAN, 200, 500), (900, 500, 200), (300, 100, CLEAN)])
def test_leaps_written_out(visited: tuple[int, int, int]) -> None:
    p, t, s = visited
    x_p, x_t, eps = normal(3, 2, 3, 4, 4)
    (alpha_p, sigma_p), (alpha_t, sigma_t), (alpha_s, sigma_s) = (scales(i) for i in visited)

    def ddim(alpha: float, sigma: float) -> torch.Tensor:
        return alpha * (x_t - sigma_t * eps) / alpha_t + sigma * eps

    for gamma in (1.0, 0.7):
        # BDIA: upwards x_{i+1} is solved for, downwards x_{i-1}
        weight = 1 / gamma if s > t else gamma
        expected = weight * (x_p - ddim(alpha_p, sigma_p)) + ddim(alpha_s, sigma_s)
        solver = BdiaSolver(steps=4, power=1, gamma=gamma)
        point = Point(x_t, t, before=Point(x_p, p), estimate=eps)
        torch.testing.assert_close(
            solver.move(Flow(bent()), point, s).x, expected, rtol=1e-11, atol=1e-11
        )

    # O-BELM in its published form, levels numbered upwards and x_{i-1} left over
    s_p, s_t, s_s = sigma_p / alpha_p, sigma_t / alpha_t, sigma_s / alpha_s
    solver = BelmSolver(steps=4, power=1)
    found = solver.move(Flow(bent()), Point(x_t, t, before=Point(x_p, p), estimate=eps), s).x
    x_high, x_low = (found / alpha_s, x_p / alpha_p) if s > t else (x_p / alpha_p, found / alpha_s)
    h_up, h_down = abs(s_s - s_t), abs(s_t - s_p)
    if s < t:
        h_up, h_down = h_down, h_up
    a_1, a_2 = (h_up**2 - h_down**2) / h_up**2, h_down**2 / h_up**2
    b_1 = -(h_down + h_up) / h_up
    published = a_2 * x_high + a_1 * x_t / alpha_t + b_1 * h_down * eps
    torch.testing.assert_close(x_low, published, rtol=1e-11, atol=1e-11)
