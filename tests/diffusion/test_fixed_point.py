import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from toys import SCHEDULE, Counting, bend, bent, gaussian, normal, scales

from ood_sampler.diffusion.denoiser import Denoiser, EpsilonDenoiser
from ood_sampler.diffusion.solvers import DdimSolver, FixedPointSolver, Flow, Point

START = Point(0.3 * normal(3, 3, 4, 4), 300)


def solver(iterations: int, **options: object) -> FixedPointSolver:
    return FixedPointSolver(steps=20, power=1, iterations=iterations, **options)  # type: ignore[arg-type]


def steep(slope: float) -> EpsilonDenoiser:
    """Noise so steep that the plain iteration of a long move diverges or turns slowly."""
    scale = torch.linspace(0.2, 1, 16, dtype=torch.float64).reshape(1, 4, 4)
    return EpsilonDenoiser(lambda x, t: slope * scale * torch.tanh(x), SCHEDULE)


def residual(denoiser: Denoiser, moved: Tensor, s: int) -> float:
    r"""How far a latent is from the implicit equation of its move from `START`."""
    flow = Flow(denoiser)
    again = flow.carry(START.x, flow.eps(moved, s), START.step, s)
    return float((again - moved).square().mean().sqrt())


def test_the_fixed_point_solves_the_implicit_equation() -> None:
    alpha_t, sigma_t = scales(300)
    alpha_s, sigma_s = scales(350)
    x_s = solver(60).move(Flow(bent()), START, 350).x
    eps = bend(x_s, torch.tensor(350))
    clean = (START.x - sigma_t * eps) / alpha_t
    torch.testing.assert_close(x_s, alpha_s * clean + sigma_s * eps, rtol=0, atol=1e-12)


def test_the_fixed_point_of_a_gaussian_in_closed_form() -> None:
    variance, denoiser = 0.5, gaussian(0.5)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = scales(300), scales(350)
    # eps = k (x_s - alpha_s mu), linear, so that the implicit equation can be solved
    k, c = sigma_s / (alpha_s**2 * variance + sigma_s**2), sigma_s - sigma_t * alpha_s / alpha_t
    offset = alpha_s * denoiser.mean
    expected = offset + (alpha_s / alpha_t * START.x - offset) / (1 - c * k)
    moved = solver(60).move(Flow(denoiser), START, 350).x
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)


def test_ddim_decodes_it_exactly() -> None:
    x_0 = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(1, 3, 2, 2)

    def error(iterations: int) -> float:
        x_t = solver(iterations).invert(gaussian(0.5), x_0, [600])[600]
        images = solver(iterations).decode(gaussian(0.5), x_t, step=600)
        assert torch.equal(
            images, DdimSolver(steps=20, power=1).decode(gaussian(0.5), x_t, step=600)
        )
        return float((images - x_0).abs().max())

    errors = [error(iterations) for iterations in (1, 2, 3, 4)]
    # the iteration contracts: each one leaves less than half of the error
    assert all(later < earlier / 2 for earlier, later in pairwise(errors))
    assert error(60) < 1e-12


def test_iterations_start_from_noise_continued_along_the_trajectory() -> None:
    flow = Flow(bent())
    before = Point(START.x, 200, estimate=bend(START.x, torch.tensor(200)))
    point = Point(START.x, 300, before=before, estimate=bend(START.x, torch.tensor(300)))
    angles = [math.atan2(*reversed(scales(step))) for step in (200, 300, 350)]
    share = (angles[2] - angles[0]) / (angles[1] - angles[0])
    guess = flow.carry(START.x, before.eps(flow).lerp(point.eps(flow), share), 300, 350)
    eps = bend(guess, torch.tensor(350))
    moved = solver(1).move(flow, point, 350)
    torch.testing.assert_close(moved.x, flow.carry(START.x, eps, 300, 350), rtol=0, atol=1e-12)
    # the answer serves the next move too
    assert torch.equal(moved.eps(flow), eps)


def test_anderson_needs_fewer_evaluations_for_the_same_residual() -> None:
    denoiser = steep(-1.0)

    def needed(memory: int) -> int:
        return next(
            k
            for k in range(1, 200)
            if residual(denoiser, solver(k, memory=memory).move(Flow(denoiser), START, 600).x, 600)
            < 1e-9
        )

    plain, one, three = needed(0), needed(1), needed(3)
    assert three < one < plain
    assert three <= plain / 2


def test_damping_and_anderson_converge_where_the_plain_iteration_does_not() -> None:
    denoiser = steep(-3.0)

    def left(**options: object) -> float:
        return residual(denoiser, solver(60, **options).move(Flow(denoiser), START, 600).x, 600)

    assert left() > 0.1
    assert left(damping=0.6) < 1e-10
    assert left(memory=3) < 1e-8


def test_damping_keeps_a_share_of_the_old_iterate() -> None:
    flow = Flow(bent())
    guess = flow.carry(START.x, START.eps(flow), 300, 350)
    plain = flow.carry(START.x, flow.eps(guess, 350), 300, 350)
    damped = solver(1, damping=0.25).move(flow, START, 350).x
    torch.testing.assert_close(damped, 0.25 * guess + 0.75 * plain, rtol=0, atol=1e-12)


def test_anderson_in_one_dimension_is_the_secant_method() -> None:
    denoiser = EpsilonDenoiser(lambda x, t: torch.cos(3 * x), SCHEDULE)
    flow, start = Flow(denoiser), Point(0.2 * normal(5, 1, 1, 1), 300)

    def f(z: Tensor) -> Tensor:
        return flow.carry(start.x, flow.eps(z, 600), 300, 600) - z

    z_0 = flow.carry(start.x, start.eps(flow), 300, 600)
    z_1 = z_0 + f(z_0)
    z_2 = z_1 - f(z_1) * (z_1 - z_0) / (f(z_1) - f(z_0))
    moved = solver(2, memory=1).move(flow, start, 600).x
    torch.testing.assert_close(moved, z_2, rtol=0, atol=1e-8)


def test_the_residual_stop_stops_and_bounds_the_residual() -> None:
    denoiser = Counting()
    moved = solver(100, tolerance=1e-6).move(Flow(denoiser), START, 350).x
    assert 3 < len(denoiser.asked) < 40
    assert residual(bent(), moved, 350) < 1e-6
    loose = Counting()
    solver(100, tolerance=1e-2).move(Flow(loose), START, 350)
    assert len(loose.asked) < len(denoiser.asked)


def test_the_residual_is_a_root_mean_square() -> None:
    image = Point(START.x[:1], 300)
    flow = Flow(bent())
    z, needed, rms = flow.carry(image.x, image.eps(flow), 300, 350), 0, 1.0
    while rms > 1e-4:
        following = flow.carry(image.x, flow.eps(z, 350), 300, 350)
        rms, z, needed = float((following - z).square().mean().sqrt()), following, needed + 1
    denoiser = Counting()
    solver(100, tolerance=1.01 * rms).move(Flow(denoiser), Point(image.x, 300), 350)
    assert len(denoiser.asked) == 1 + needed
    # a little less is not enough
    denoiser = Counting()
    solver(100, tolerance=0.99 * rms).move(Flow(denoiser), Point(image.x, 300), 350)
    assert len(denoiser.asked) == 2 + needed


@pytest.mark.parametrize("options", [{}, {"memory": 2}, {"damping": 0.3}])
def test_an_image_stops_when_it_would_alone(options: dict[str, object]) -> None:
    # one image stops at once, the other takes long
    x = torch.stack([torch.zeros(3, 4, 4, dtype=torch.float64), START.x[0]])
    stopping = solver(100, tolerance=1e-4, **options)
    flow = Flow(EpsilonDenoiser(lambda x, t: torch.sin(2 * x), SCHEDULE))
    together = stopping.move(flow, Point(x, 300), 350)
    for i in range(2):
        alone = stopping.move(flow, Point(x[i : i + 1], 300), 350)
        torch.testing.assert_close(together.x[i], alone.x[0], rtol=0, atol=1e-13)
        torch.testing.assert_close(together.eps(flow)[i], alone.eps(flow)[0], rtol=0, atol=1e-13)


def test_an_image_that_stopped_stays_so() -> None:
    # the iteration diverges: one more evaluation would find the first image open again
    flow = Flow(steep(-3.0))
    x = torch.cat([1e-4 * START.x[:1], START.x[:1]])
    z = flow.carry(x[:1], flow.eps(x[:1], 300), 300, 600)
    first = flow.carry(x[:1], flow.eps(z, 600), 300, 600)
    stopping = solver(10, tolerance=1.01 * float((first - z).square().mean().sqrt()))
    together = stopping.move(flow, Point(x, 300), 600).x
    torch.testing.assert_close(together[:1], first, rtol=0, atol=1e-13)
    again = flow.carry(x[:1], flow.eps(first, 600), 300, 600)
    assert (again - first).norm() > (first - z).norm()


def test_a_converged_batch_survives_memory() -> None:
    # zero differences: nothing to solve for
    zeros = EpsilonDenoiser(lambda x, t: torch.zeros_like(x), SCHEDULE)
    moved = solver(5, memory=3).move(Flow(zeros), START, 350).x
    assert torch.equal(moved, START.x * (scales(350)[0] / scales(300)[0]))
