import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from ood_sampler.diffusion.denoiser import Denoiser, EpsilonDenoiser, GaussianDenoiser
from ood_sampler.diffusion.schedule import CLEAN, Schedule, grid
from ood_sampler.diffusion.solvers import ddim_move, decode, evaluations, invert

SCHEDULE = Schedule.linear()
MEAN = torch.tensor([0.3, -0.2, 0.6], dtype=torch.float64).reshape(3, 1, 1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(step: int) -> Tensor:
    return torch.tensor(step)


def scales(step: int) -> tuple[float, float]:
    alpha, sigma = SCHEDULE(at(step))
    return float(alpha), float(sigma)


def gaussian(variance: float) -> GaussianDenoiser:
    return GaussianDenoiser(MEAN, variance, SCHEDULE)


def bend(x_t: Tensor, t: Tensor) -> Tensor:
    """Stand in for a network: not linear, and different at every step."""
    return torch.sin(2 * x_t + t.reshape(-1, 1, 1, 1) / 150) + 0.2 * x_t


class Counting(Denoiser):
    """Record the steps that the network is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = SCHEDULE
        self.asked: list[int] = []

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.asked.append(int(t))
        return bend(x_t, t)


def on_trajectory(x_0: Tensor, variance: float, step: int) -> Tensor:
    """The exact latent: the distance from the mean scales with its standard deviation."""
    alpha, sigma = scales(step)
    return alpha * MEAN + (x_0 - MEAN) * math.sqrt((alpha**2 * variance + sigma**2) / variance)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("step", [300, 555, 999])
@pytest.mark.parametrize("variance", [0.25, 1.0, 4.0])
def test_inversion_error_halves_when_steps_double(variance: float, step: int, power: int) -> None:
    x_0 = normal(2, 3, 2, 2)

    def error(steps: int) -> float:
        latents = invert(gaussian(variance), x_0, [step], steps=steps, power=power)[step]
        return float((latents - on_trajectory(x_0, variance, step)).abs().max())

    assert error(100) / error(200) == pytest.approx(2, rel=0.1)


def test_decoding_error_halves_when_steps_double() -> None:
    x_0 = normal(2, 3, 2, 2)
    x_t = on_trajectory(x_0, 1.0, 700)

    def error(steps: int) -> float:
        return float((decode(gaussian(1.0), x_t, step=700, steps=steps) - x_0).abs().max())

    assert error(100) / error(200) == pytest.approx(2, rel=0.1)


def test_round_trip_error_halves_when_steps_double() -> None:
    denoiser, x_0 = EpsilonDenoiser(bend, SCHEDULE), normal(2, 3, 2, 2)

    def error(steps: int) -> float:
        latents = invert(denoiser, x_0, [400], steps=steps)[400]
        return float(
            (decode(denoiser, latents, step=400, steps=steps) - x_0).square().mean().sqrt()
        )

    assert error(250) / error(500) == pytest.approx(2, rel=0.25)


def test_inversion_is_a_chain_of_moves() -> None:
    x_0 = normal(2, 3, 2, 2)
    x_t = x_0
    for t, s in ((-1, 249), (249, 499), (499, 640)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = scales(t), scales(s)
        eps = bend(x_t, at(max(t, 0)))
        x_t = alpha_s * (x_t - sigma_t * eps) / alpha_t + sigma_s * eps
    latents = invert(EpsilonDenoiser(bend, SCHEDULE), x_0, [640], steps=4)[640]
    torch.testing.assert_close(latents, x_t, rtol=0, atol=1e-12)


def test_a_point_mass_decodes_to_itself() -> None:
    alpha, sigma = scales(700)
    x_t = alpha * MEAN + sigma * normal(2, 3, 4, 4)
    for eta in (0.0, 0.5, 1.0, 2.0):
        images = decode(
            gaussian(0.0), x_t, step=700, steps=20, eta=eta, noise=lambda: normal(2, 3, 4, 4)
        )
        torch.testing.assert_close(images, MEAN.expand_as(images), rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 1.5, 4.0])
def test_a_point_mass_has_exact_marginals(eta: float) -> None:
    generator = torch.Generator().manual_seed(1)
    denoiser, n = gaussian(0.0), 60_000
    alpha, sigma = scales(999)
    x_t = alpha * MEAN + sigma * normal(n // 3, 3, 1, 1)

    def draw() -> Tensor:
        return torch.randn(x_t.shape, generator=generator, dtype=torch.float64)

    for t, s in ((999, 800), (800, 450), (450, 449), (449, 20)):
        eps = denoiser.eps(x_t, at(t))
        x_t = ddim_move(SCHEDULE, x_t, eps, at(t), at(s), eta=eta, noise=draw)
        alpha, sigma = scales(s)
        centred = x_t - alpha * MEAN
        assert abs(float(centred.mean())) < 5 * sigma / math.sqrt(n)
        variance = float(centred.square().mean())
        assert abs(variance - sigma**2) < 5 * sigma**2 * math.sqrt(2 / n)


@pytest.mark.parametrize("t", [1, 500, 999])
def test_eta_one_is_the_posterior_of_ddpm(t: int) -> None:
    x_t, x_0, z = normal(3, 2, 3, 2, 2)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = scales(t), scales(t - 1)
    beta = 1 - (alpha_t / alpha_s) ** 2
    # Ho et al., 2020, eq. 7
    mean = (alpha_s * beta * x_0 + alpha_t / alpha_s * sigma_s**2 * x_t) / sigma_t**2
    std = math.sqrt(beta) * sigma_s / sigma_t
    eps = (x_t - alpha_t * x_0) / sigma_t
    moved = ddim_move(SCHEDULE, x_t, eps, at(t), at(t - 1), eta=1.0, noise=lambda: z)
    torch.testing.assert_close(moved, mean + std * z, rtol=0, atol=1e-9)


def scheduler(steps: int, *, clip: bool = False) -> DDIMScheduler:
    """Diffusers' DDIM over the same trunk and, in float64, the same table."""
    ddim = DDIMScheduler(1000, clip_sample=clip, timestep_spacing="trailing")
    ddim.alphas_cumprod = SCHEDULE.alpha_bars[1:]
    ddim.final_alpha_cumprod = SCHEDULE.alpha_bars[0]
    ddim.set_timesteps(steps)
    return ddim


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("t", "s"), [(999, 979), (500, 480), (20, 0), (19, CLEAN), (0, -20)])
def test_a_move_equals_diffusers(t: int, s: int, eta: float, clip: bool) -> None:
    x_t, eps, z = normal(3, 2, 3, 4, 4)
    expected = scheduler(50, clip=clip).step(
        eps, t, x_t, eta=eta, use_clipped_model_output=clip, variance_noise=z
    )
    moved = ddim_move(
        SCHEDULE, x_t, eps, at(t), at(max(s, CLEAN)), eta=eta, noise=lambda: z, clip_x_0=clip
    )
    torch.testing.assert_close(moved, expected.prev_sample, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize(("eta", "clip"), [(0.0, False), (0.6, False), (1.0, True)])
def test_decoding_equals_diffusers(eta: float, clip: bool) -> None:
    x_T, ddim = normal(2, 3, 4, 4), scheduler(10, clip=clip)
    expected = x_T
    noises = [normal(2, 3, 4, 4, seed=seed) for seed in range(10)]
    for t, z in zip(ddim.timesteps, noises, strict=True):
        expected = ddim.step(
            bend(expected, t), t, expected, eta, use_clipped_model_output=clip, variance_noise=z
        ).prev_sample
    remaining = iter(noises)
    images = decode(
        EpsilonDenoiser(bend, SCHEDULE),
        x_T,
        step=999,
        steps=10,
        eta=eta,
        noise=lambda: next(remaining),
        clip_x_0=clip,
    )
    torch.testing.assert_close(images, expected, rtol=1e-9, atol=1e-9)
    # no noise is drawn for nothing: the last move ends in clean data
    assert len(list(remaining)) == (1 if eta else 10)
    assert (float(images.abs().max()) <= 1) == clip


@pytest.mark.parametrize("t", [CLEAN, 0, 500, 999])
def test_a_move_to_the_same_step_is_the_identity(t: int) -> None:
    x_t, eps = normal(2, 2, 3, 4, 4)
    assert torch.equal(ddim_move(SCHEDULE, x_t, eps, at(t), at(t)), x_t)
    if t > CLEAN:
        moved = ddim_move(SCHEDULE, x_t, eps, at(t), at(t), eta=0.7, noise=lambda: eps)
        torch.testing.assert_close(moved, x_t, rtol=0, atol=1e-12)


def test_clipping_bounds_the_denoised_image() -> None:
    x_t, eps = 5 * normal(2, 2, 3, 4, 4)
    for t in (CLEAN, 300):
        images = ddim_move(SCHEDULE, x_t, eps, at(t), at(CLEAN), clip_x_0=True)
        assert float(images.abs().max()) == 1


@pytest.mark.parametrize("t", [0, 300])
def test_clipping_takes_the_noise_that_agrees(t: int) -> None:
    x_t, eps = 5 * normal(2, 2, 3, 4, 4)
    clean, s = ddim_move(SCHEDULE, x_t, eps, at(t), at(CLEAN), clip_x_0=True), t + 50
    (alpha_t, sigma_t), (alpha_s, sigma_s) = scales(t), scales(s)
    expected = alpha_s * clean + sigma_s * (x_t - alpha_t * clean) / sigma_t
    moved = ddim_move(SCHEDULE, x_t, eps, at(t), at(s), clip_x_0=True)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("power", "iterations"), [(1, 0), (2, 0), (1, 2)])
def test_several_steps_in_one_pass_are_what_they_are_alone(power: int, iterations: int) -> None:
    denoiser, x_0 = EpsilonDenoiser(bend, SCHEDULE), normal(2, 3, 2, 2).float()
    wanted = [999, 0, 5, 400, 409, 410, 411, 419, 420, 439, 400]
    together = invert(denoiser, x_0, wanted, steps=50, power=power, iterations=iterations)
    assert sorted(together) == sorted(set(wanted))
    for step in wanted:
        alone = invert(denoiser, x_0, [step], steps=50, power=power, iterations=iterations)
        assert torch.equal(together[step], alone[step])


@pytest.mark.parametrize("power", [1, 3])
@pytest.mark.parametrize("step", [0, 5, 19, 29, 400, 998, 999])
def test_cost(step: int, power: int) -> None:
    visited = grid(step, T=1000, steps=50, power=power).tolist()
    assert evaluations(step, T=1000, steps=50, power=power) == len(visited) - 1
    x = normal(1, 3, 2, 2)
    for others in ([], list(range(step))):
        inverting = Counting()
        invert(inverting, x, [step, *others], steps=50, power=power)
        # the noise of each move is that of its source, clean data being asked about at step 0
        assert inverting.asked == [max(t, 0) for t, _ in pairwise(visited)]
    decoding = Counting()
    decode(decoding, x, step=step, steps=50, power=power)
    assert decoding.asked == visited[:0:-1]


def test_cost_in_figures() -> None:
    assert evaluations(999, T=1000, steps=50) == 50
    assert evaluations(499, T=1000, steps=50) == 25
    assert evaluations(0, T=1000, steps=50) == 1
    assert evaluations(562, T=1000, steps=4, power=2) == 3


def test_results_ignore_batch_splits() -> None:
    denoiser, x_0 = EpsilonDenoiser(bend, SCHEDULE), normal(7, 3, 2, 2).float()
    together = invert(denoiser, x_0, [400], steps=20)[400]
    split = [invert(denoiser, part, [400], steps=20)[400] for part in x_0.split(3)]
    assert torch.equal(together, torch.cat(split))
    images = decode(denoiser, together, step=400, steps=20)
    split = [decode(denoiser, part, step=400, steps=20) for part in together.split(2)]
    assert torch.equal(images, torch.cat(split))


def test_input_is_left_alone() -> None:
    denoiser, x = EpsilonDenoiser(bend, SCHEDULE), normal(1, 3, 2, 2)
    before = x.clone()
    invert(denoiser, x, [400], steps=20)
    decode(denoiser, x, step=400, steps=20)
    assert torch.equal(x, before)


@pytest.mark.parametrize("eta", [-0.1, math.nan])
def test_eta_is_not_negative(eta: float) -> None:
    x = normal(1, 3, 2, 2)
    with pytest.raises(ValueError, match=f"eta must be >= 0, got {eta}"):
        decode(gaussian(1.0), x, step=400, steps=20, eta=eta, noise=lambda: x)


def test_noise_needs_a_source_and_a_way_down() -> None:
    x = normal(1, 3, 2, 2)
    with pytest.raises(ValueError, match=r"eta=0\.5 needs s < t"):
        decode(gaussian(1.0), x, step=400, steps=20, eta=0.5)
    with pytest.raises(ValueError, match=r"eta=0\.5 needs s < t.*inversion is deterministic"):
        ddim_move(SCHEDULE, x, x, at(10), at(11), eta=0.5, noise=lambda: x)


@pytest.mark.parametrize("step", [-1, 1000])
def test_step_out_of_range(step: int) -> None:
    x = normal(1, 3, 2, 2)
    with pytest.raises(ValueError, match=f"step must be in 0..999 .*got {step}"):
        invert(gaussian(1.0), x, [5, step], steps=20)
    with pytest.raises(ValueError, match=f"step must be in 0..999 .*got {step}"):
        decode(gaussian(1.0), x, step=step, steps=20)


def test_iterations_make_the_round_trip_of_a_gaussian_exact() -> None:
    denoiser = GaussianDenoiser(torch.tensor(0.3, dtype=torch.float64), 0.5, Schedule.linear())
    x_0 = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(1, 3, 2, 2)

    def error(iterations: int) -> float:
        x_t = invert(denoiser, x_0, [600], steps=20, iterations=iterations)[600]
        return float((decode(denoiser, x_t, step=600, steps=20) - x_0).abs().max())

    errors = [error(iterations) for iterations in (0, 1, 2, 3)]
    # the iteration contracts: each one leaves less than half of the error
    assert all(later < earlier / 2 for earlier, later in pairwise(errors))
    assert error(60) < 1e-12


def test_one_iteration_from_the_latent_itself_takes_the_noise_at_the_target() -> None:
    denoiser = GaussianDenoiser(torch.tensor(0.0, dtype=torch.float64), 0.5, Schedule.linear())
    x_0 = torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64)
    T = denoiser.schedule.T
    predicted = invert(denoiser, x_0, [T - 1], steps=1)[T - 1]
    alpha_s, sigma_s = denoiser.schedule(torch.tensor(T - 1))
    # from clean data the move is alpha_s x_0 + sigma_s eps
    expected = alpha_s * x_0 + sigma_s * denoiser.eps(predicted, torch.tensor(T - 1))
    found = invert(denoiser, x_0, [T - 1], steps=1, iterations=1)[T - 1]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_negative_iterations_are_refused() -> None:
    denoiser = GaussianDenoiser(torch.tensor(0.0), 0.5, Schedule.linear())
    with pytest.raises(ValueError, match="iterations must be >= 0, got -1"):
        invert(denoiser, torch.zeros(1, 1, 1, 1), [5], steps=5, iterations=-1)


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_iterations_count_as_evaluations(iterations: int) -> None:
    cost = evaluations(640, T=1000, steps=4, iterations=iterations)
    assert cost == 3 * (1 + iterations)
    alone, together = Counting(), Counting()
    invert(alone, normal(1, 3, 2, 2), [640], steps=4, iterations=iterations)
    # each move asks at its source, then at its target
    moves = ((0, 249), (249, 499), (499, 640))
    assert alone.asked == [t for source, s in moves for t in (source, *[s] * iterations)]
    invert(together, normal(1, 3, 2, 2), [640, 100, 600], steps=4, iterations=iterations)
    assert len(together.asked) == cost + 2 * iterations
