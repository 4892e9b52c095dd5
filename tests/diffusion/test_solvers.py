"""What holds for every solver: order, cost, shared trunk, independence of the batch."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from toys import (
    MEAN,
    SCHEDULE,
    Constant,
    Counting,
    bent,
    every_solver,
    gaussian,
    named,
    normal,
    on_trajectory,
    scales,
    smooth_schedule,
)

from ood_sampler.diffusion.denoiser import VelocityDenoiser
from ood_sampler.diffusion.schedule import CLEAN, grid
from ood_sampler.diffusion.solvers import (
    BdiaSolver,
    BelmSolver,
    DdimSolver,
    FixedPointSolver,
    Flow,
    HeunSolver,
    MultistepSolver,
    Point,
    Solver,
)

SMOOTH = smooth_schedule()
LAST = SMOOTH.T - 1
ORDERS = [
    (DdimSolver, {}, 1),
    (DdimSolver, {"noise_at": "target"}, 1),
    (FixedPointSolver, {"iterations": 1}, 1),
    (FixedPointSolver, {"iterations": 30}, 1),
    (HeunSolver, {}, 2),
    (MultistepSolver, {"corrections": 0}, 2),
    (MultistepSolver, {"corrections": 1}, 2),
    (MultistepSolver, {"corrections": 3}, 2),
    (BelmSolver, {}, 2),
    (BdiaSolver, {}, 2),
]


@pytest.mark.parametrize("step", [LAST, 2559])
@pytest.mark.parametrize("variance", [0.25, 4.0])
@pytest.mark.parametrize(("solver", "options", "order"), ORDERS)
def test_orders_of_convergence(
    solver: type[Solver], options: dict[str, object], order: int, variance: float, step: int
) -> None:
    denoiser, x_0 = gaussian(variance, SMOOTH), normal(2, 3, 2, 2)
    x_t = on_trajectory(x_0, variance, step, SMOOTH)

    def errors(steps: int) -> tuple[float, float]:
        made = solver(steps=steps, power=1, **options)
        latents = made.invert(denoiser, x_0, [step])[step]
        images = made.decode(denoiser, x_t, step=step)
        return float((latents - x_t).abs().max()), float((images - x_0).abs().max())

    for coarse, fine in zip(errors(128), errors(256), strict=True):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("solver", every_solver(20), ids=named)
def test_straight_trajectories_are_exact(solver: Solver, power: int) -> None:
    solver.power, eps = power, normal(3, 4, 4, seed=1)
    x_0 = normal(2, 3, 4, 4)
    # some two-state solvers amplify the rounding
    tolerance = 1e-8 if isinstance(solver, BelmSolver | BdiaSolver) else 1e-11
    for step, x_t in solver.invert(Constant(eps), x_0, [0, 333, 999]).items():
        alpha, sigma = scales(step)
        torch.testing.assert_close(x_t, alpha * x_0 + sigma * eps, rtol=0, atol=tolerance)
        images = solver.decode(Constant(eps), alpha * x_0 + sigma * eps, step=step)
        torch.testing.assert_close(images, x_0, rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", every_solver(50), ids=named)
@pytest.mark.parametrize("power", [1, 2])
def test_several_steps_in_one_pass_are_what_they_are_alone(solver: Solver, power: int) -> None:
    solver.power, denoiser, x_0 = power, bent(), normal(2, 3, 2, 2).float()
    wanted = [999, 0, 5, 400, 409, 410, 411, 419, 420, 439, 400]
    together = solver.invert(denoiser, x_0, wanted)
    assert sorted(together) == sorted(set(wanted))
    for step in wanted:
        assert torch.equal(together[step], solver.invert(denoiser, x_0, [step])[step])


@pytest.mark.parametrize(
    "solver",
    # those that do not stop early
    [solver for solver in every_solver(12) if getattr(solver, "tolerance", None) is None],
    ids=named,
)
@pytest.mark.parametrize("at", [[0], [5], [400], [999], [300, 420, 421, 500, 700]])
def test_cost_is_counted(solver: Solver, at: list[int]) -> None:
    inverting, decoding = Counting(), Counting()
    solver.invert(inverting, normal(1, 3, 2, 2), at)
    assert solver.inversion_evaluations(at, T=1000) == len(inverting.asked)
    solver.decode(decoding, normal(1, 3, 2, 2), step=at[-1])
    assert solver.decoding_evaluations(at[-1], T=1000) == len(decoding.asked)


def test_cost_in_figures() -> None:
    def cost(solver: Solver, *at: int) -> tuple[int, int]:
        return solver.inversion_evaluations(at, T=1000), solver.decoding_evaluations(at[-1], T=1000)

    size = {"steps": 50, "power": 1}
    # step 499 is 25 intervals from clean data
    assert cost(DdimSolver(**size), 499) == (25, 25)
    assert cost(DdimSolver(**size, noise_at="target"), 499) == (25, 25)
    assert cost(FixedPointSolver(**size, iterations=1), 499) == (26, 25)
    assert cost(FixedPointSolver(**size, iterations=3), 499) == (76, 25)
    # an upper bound
    assert cost(FixedPointSolver(**size, iterations=3, tolerance=1e-4), 499) == (76, 25)
    assert cost(HeunSolver(**size), 499) == (50, 50)
    assert cost(MultistepSolver(**size, corrections=0), 499) == (25, 25)
    assert cost(MultistepSolver(**size), 499) == (26, 26)
    assert cost(MultistepSolver(**size, corrections=2), 499) == (51, 51)
    assert cost(BelmSolver(**size), 499) == (26, 26)
    assert cost(BdiaSolver(**size), 499) == (26, 26)
    # leaves share what the trunk evaluates at their source, and pay for their own moves
    assert cost(DdimSolver(**size), 405, 499) == (25, 25)
    assert cost(HeunSolver(**size), 405, 499) == (51, 50)
    assert cost(MultistepSolver(**size), 405, 499) == (27, 26)
    assert cost(DdimSolver(**size), 0) == (1, 1)
    assert cost(DdimSolver(steps=4, power=2), 562) == (3, 3)


@pytest.mark.parametrize("solver", every_solver(30), ids=named)
@pytest.mark.parametrize("step", [0, 29, 400, 998, 999])
def test_both_directions_visit_the_grid(solver: Solver, step: int) -> None:
    visited = grid(step, T=1000, steps=30).tolist()
    inverting, decoding = Counting(), Counting()
    solver.invert(inverting, normal(1, 3, 2, 2), [step])
    solver.decode(decoding, normal(1, 3, 2, 2), step=step)
    # clean data is asked about at step 0
    assert set(inverting.asked) <= {max(t, 0) for t in visited}
    assert set(decoding.asked) <= {max(t, 0) for t in visited}
    assert sorted(inverting.asked) == inverting.asked or isinstance(solver, HeunSolver)


@pytest.mark.parametrize("solver", every_solver(12), ids=named)
def test_results_ignore_batch_splits(solver: Solver) -> None:
    denoiser, x_0 = bent(), normal(7, 3, 2, 2)
    together = solver.invert(denoiser, x_0, [400])[400]
    split = [solver.invert(denoiser, part, [400])[400] for part in x_0.split(3)]
    # Anderson's small systems may be solved by other kernels in other batches
    torch.testing.assert_close(torch.cat(split), together, rtol=0, atol=1e-11)
    images = solver.decode(denoiser, together, step=400)
    split = [solver.decode(denoiser, part, step=400) for part in together.split(2)]
    assert torch.equal(images, torch.cat(split))


@pytest.mark.parametrize("solver", every_solver(12), ids=named)
def test_input_is_left_alone_and_nothing_is_recorded(solver: Solver) -> None:
    x = normal(1, 3, 2, 2).requires_grad_()
    before = x.detach().clone()
    latents = solver.invert(bent(), x, [400])[400]
    images = solver.decode(bent(), x, step=400)
    assert torch.equal(x, before)
    # no gradient is asked for, and a denoiser may still take one of its own
    assert not latents.requires_grad
    assert not images.requires_grad
    assert not latents.is_inference()
    assert not images.is_inference()


@pytest.mark.parametrize("solver", every_solver(12), ids=named)
def test_precision_of_the_images_is_kept(solver: Solver) -> None:
    x_0 = normal(1, 3, 2, 2).float()
    latents = solver.invert(bent(), x_0, [400])[400]
    assert latents.dtype == solver.decode(bent(), latents, step=400).dtype == torch.float32


@pytest.mark.parametrize("solver", every_solver(12), ids=named)
def test_clipping_bounds_the_images(solver: Solver) -> None:
    x_T = 3 * normal(2, 3, 4, 4)
    images = solver.decode(bent(), x_T, step=999, clip_x_0=True)
    assert float(images.abs().max()) <= 1
    assert float(solver.decode(bent(), x_T, step=999).abs().max()) > 1


@pytest.mark.parametrize("step", [0, 300])
def test_clipping_takes_the_noise_that_agrees(step: int) -> None:
    x_t, eps = 5 * normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    alpha, sigma = scales(step)
    clean = ((x_t - sigma * eps) / alpha).clamp(-1, 1)
    agreeing = Flow(Constant(eps), clip_x_0=True).eps(x_t, step)
    torch.testing.assert_close(alpha * clean + sigma * agreeing, x_t, rtol=0, atol=1e-12)
    assert torch.equal(Flow(Constant(eps), clip_x_0=True).eps(x_t, CLEAN), eps)


@pytest.mark.parametrize("t", [CLEAN, 0, 500, 999])
def test_to_carry_nowhere_is_the_identity(t: int) -> None:
    x_t, eps = normal(2, 2, 3, 4, 4)
    assert torch.equal(Flow(bent()).carry(x_t, eps, t, t), x_t)


def test_a_place_remembers_one_move_and_asks_once() -> None:
    denoiser = Counting()
    flow, first = Flow(denoiser), Point(normal(1, 3, 2, 2), CLEAN)
    second = first.then(first.x, 100)
    third = second.then(first.x, 200)
    assert third.before is not None
    assert third.before.before is None
    assert second.eps(flow) is second.eps(flow)
    assert denoiser.asked == [100]


@pytest.mark.parametrize("solver", every_solver(20), ids=named)
@pytest.mark.parametrize("step", [-1, 1000])
def test_step_out_of_range(solver: Solver, step: int) -> None:
    x = normal(1, 3, 2, 2)
    with pytest.raises(ValueError, match=f"step must be in 0..999 .*got {step}"):
        solver.invert(bent(), x, [5, step])
    with pytest.raises(ValueError, match=f"step must be in 0..999 .*got {step}"):
        solver.decode(bent(), x, step=step)
    with pytest.raises(ValueError, match=f"step must be in 0..999 .*got {step}"):
        solver.inversion_evaluations([step], T=1000)
    with pytest.raises(ValueError, match=f"step must be in 0..999 .*got {step}"):
        solver.decoding_evaluations(step, T=1000)


@pytest.mark.parametrize("solver", every_solver(20), ids=named)
def test_noise_is_refused_where_decoding_is_deterministic(solver: Solver) -> None:
    x = normal(1, 3, 2, 2)
    solver.check_eta(0.0)
    with pytest.raises(ValueError, match=r"eta must be >= 0, got -0\.1"):
        solver.check_eta(-0.1)
    with pytest.raises(ValueError, match="eta must be >= 0, got nan"):
        solver.decode(bent(), x, step=400, eta=math.nan, noise=lambda: x)
    if isinstance(solver, DdimSolver | FixedPointSolver):
        solver.check_eta(0.5)
        with pytest.raises(ValueError, match=r"eta=0\.5 needs .* a source of noise"):
            solver.decode(bent(), x, step=400, eta=0.5)
    else:
        name = type(solver).__name__
        with pytest.raises(ValueError, match=rf"eta must be 0 for {name}, got 0\.5: only DDIM"):
            solver.decode(bent(), x, step=400, eta=0.5, noise=lambda: x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DdimSolver(steps=0, power=1), "steps must be >= 1, got 0"),
        (lambda: HeunSolver(steps=5, power=5), "power must be 1, 2, 3 or 4, got 5"),
        (lambda: DdimSolver(steps=5, power=1, noise_at="end"), "noise_at must be source or target"),
        (lambda: FixedPointSolver(steps=5, power=1, iterations=0), "iterations must be >= 1"),
        (
            lambda: FixedPointSolver(steps=5, power=1, iterations=1, tolerance=0.0),
            "tolerance must be > 0 or null, got 0",
        ),
        (
            lambda: FixedPointSolver(steps=5, power=1, iterations=1, damping=1.0),
            r"damping must be in \[0, 1\), got 1",
        ),
        (
            lambda: FixedPointSolver(steps=5, power=1, iterations=1, memory=6),
            r"memory must be in 0\.\.5, got 6",
        ),
        (
            lambda: MultistepSolver(steps=5, power=1, corrections=-1),
            "corrections must be >= 0, got -1",
        ),
        (
            lambda: BdiaSolver(steps=5, power=1, gamma=0.0),
            r"gamma must be in \(0, 1\], got 0",
        ),
    ],
)
def test_constructors_refuse_what_cannot_be(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_a_grid_finer_than_the_chain_is_refused() -> None:
    solver = DdimSolver(steps=1001, power=1)
    solver.check(1001)
    with pytest.raises(ValueError, match=r"steps must be in 1\.\.1000, got 1001"):
        solver.check(1000)


def test_round_trips_of_second_order_solvers_beat_ddim_at_equal_cost() -> None:
    denoiser, x_0 = gaussian(0.5), normal(4, 3, 4, 4)

    def error(solver: Solver) -> float:
        latents = solver.invert(denoiser, x_0, [600])[600]
        return float((solver.decode(denoiser, latents, step=600) - x_0).square().mean().sqrt())

    ddim, heun = DdimSolver(steps=64, power=2), HeunSolver(steps=32, power=2)
    once, twice = (
        MultistepSolver(steps=steps, power=2, corrections=k) for steps, k in ((64, 1), (32, 2))
    )
    costs = [s.inversion_evaluations([600], T=SCHEDULE.T) for s in (ddim, heun, once, twice)]
    assert max(costs) <= min(costs) + 3
    assert error(heun) < error(ddim) / 5
    assert error(once) < error(heun)
    assert error(twice) < error(once)
    assert all(later < earlier for earlier, later in pairwise([error(ddim), error(once)]))


def zero_snr(variance: float) -> VelocityDenoiser:
    """The exact velocity of N(mu, v I) data, also where nothing of it is left."""
    schedule = SCHEDULE.with_zero_terminal_snr()

    def velocity(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (float(scale) for scale in schedule(t[0]))
        centred = (x_t - alpha * MEAN) / (alpha**2 * variance + sigma**2)
        return alpha * sigma * centred - sigma * (MEAN + alpha * variance * centred)

    return VelocityDenoiser(velocity, schedule)


@pytest.mark.parametrize("solver", every_solver(400, power=1), ids=named)
def test_pure_noise_at_zero_snr_decodes_to_the_data(solver: Solver) -> None:
    # the flow takes N(0, I) to N(mu, v I) by x_0 = mu + sqrt(v) x_T
    x_t = normal(2, 3, 2, 2)
    for variance in (0.25, 1.0):
        x_0 = solver.decode(zero_snr(variance), x_t, step=999)
        error = (x_0 - MEAN - math.sqrt(variance) * x_t).abs().max()
        assert error < 0.02, variance


@pytest.mark.parametrize("solver", every_solver(10), ids=named)
def test_nothing_is_inverted_to_a_step_of_pure_noise(solver: Solver) -> None:
    denoiser, x_0 = zero_snr(0.5), normal(1, 3, 2, 2)
    with pytest.raises(ValueError, match=r"step must be at most 998, got 999: .* nothing of an"):
        solver.invert(denoiser, x_0, [500, 999])
    latents = solver.invert(denoiser, x_0, [998])[998]
    assert latents.isfinite().all()


def test_noise_on_the_way_from_pure_noise_has_the_ddim_variance() -> None:
    # of data that is one point every marginal is exact: x_s = alpha mu + sigma n, for every eta
    denoiser, n = zero_snr(0.0), 4000
    draws = torch.Generator().manual_seed(0)
    x_t = torch.randn(n, 3, 1, 1, generator=draws, dtype=torch.float64)
    for eta in (0.0, 0.6, 1.0):
        flow = Flow(denoiser)
        noise = torch.randn(x_t.shape, generator=draws, dtype=torch.float64)
        x_s = flow.leave_noise(x_t, 999, 500, eta=eta, noise=lambda noise=noise: noise)
        alpha, sigma = scales(500, denoiser.schedule)
        drawn = (x_s - alpha * MEAN) / sigma
        assert float(drawn.var()) == pytest.approx(1, abs=5 * math.sqrt(2 / (3 * n)))
        expected = eta * noise + math.sqrt(1 - eta**2) * x_t
        torch.testing.assert_close(drawn, expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"eta=0\.5 needs a source of noise"):
        DdimSolver(steps=3, power=1).decode(denoiser, x_t, step=999, eta=0.5)
