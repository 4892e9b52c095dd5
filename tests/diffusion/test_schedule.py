from fractions import Fraction
from math import floor

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from ood_sampler.diffusion.schedule import (
    CLEAN,
    Schedule,
    check_latent_step,
    check_step,
    grid,
    trunk,
)

NAMES = ["linear", "scaled_linear", "squaredcos_cap_v2"]

betas = st.lists(st.floats(1e-5, 0.5), min_size=1, max_size=20)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(betas=betas)
def test_scales_keep_the_variance_and_lose_signal(betas: list[float]) -> None:
    schedule = Schedule(torch.tensor(betas, dtype=torch.float64))
    assert len(betas) == schedule.T
    alpha, sigma = schedule(torch.arange(CLEAN, schedule.T))
    assert (alpha > 0).all()
    torch.testing.assert_close(
        alpha.square() + sigma.square(), torch.ones_like(alpha), rtol=0, atol=1e-15
    )
    snr = alpha.square() / sigma.square()
    assert (snr.diff() < 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_table_equals_diffusers(name: str) -> None:
    ours = Schedule.from_name(name, 1000, beta_start=1e-4, beta_end=0.02)  # type: ignore[arg-type]
    theirs = DDPMScheduler(1000, beta_schedule=name, beta_start=1e-4, beta_end=0.02)
    alpha, sigma = ours(torch.arange(1000))
    expected = theirs.alphas_cumprod.double()
    # diffusers multiplies a thousand factors in float32
    torch.testing.assert_close(alpha.square(), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(sigma.square(), 1 - expected, rtol=1e-4, atol=1e-7)


def test_linear_is_the_product_of_its_betas() -> None:
    schedule = Schedule.linear(3, beta_start=0.1, beta_end=0.3)
    alpha, sigma = schedule(torch.arange(3))
    alpha_bar = torch.tensor([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7], dtype=torch.float64)
    torch.testing.assert_close(alpha, alpha_bar.sqrt(), rtol=1e-14, atol=0)
    torch.testing.assert_close(sigma, (1 - alpha_bar).sqrt(), rtol=1e-14, atol=0)


def test_default_is_that_of_ho_et_al() -> None:
    named = Schedule.from_name("linear", 1000, beta_start=1e-4, beta_end=0.02)
    assert torch.equal(Schedule.linear().alpha_bars, named.alpha_bars)


def test_clean_step_is_exact() -> None:
    alpha, sigma = Schedule.linear()(torch.tensor(CLEAN))
    assert float(alpha) == 1
    assert float(sigma) == 0


def test_diffuse_has_the_closed_form() -> None:
    schedule = Schedule.linear()
    x_0, eps = torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    alpha, sigma = (float(scale) for scale in schedule(torch.tensor(400)))
    x_t = schedule.diffuse(x_0, eps, 400)
    assert x_t.dtype == torch.float32
    torch.testing.assert_close(x_t, alpha * x_0 + sigma * eps)
    assert torch.equal(schedule.diffuse(x_0, eps, CLEAN), x_0)


def test_table_survives_a_cast_to_half_precision() -> None:
    schedule = Schedule.linear()
    before = schedule.alpha_bars.clone()
    assert schedule.to(torch.bfloat16) is schedule
    assert torch.equal(schedule.alpha_bars, before)
    assert not schedule.state_dict()  # it follows from the configuration


@pytest.mark.parametrize(
    "bad", [[0.0], [1.0], [0.1, 1.5], [-0.1], [float("nan")], [[0.1, 0.2]], []]
)
def test_bad_betas(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="betas must be"):
        Schedule(torch.tensor(bad))


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"name must be linear.* got 'cosine'"):
        Schedule.from_name("cosine", 10, beta_start=0.1, beta_end=0.2)  # type: ignore[arg-type]


chains = st.integers(1, 1200).flatmap(
    lambda T: st.tuples(st.just(T), st.integers(1, T), st.integers(0, T - 1), st.integers(1, 4))
)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(chain=chains)
def test_grid_runs_from_clean_data_to_the_step(chain: tuple[int, int, int, int]) -> None:
    T, steps, step, power = chain
    points = grid(step, T=T, steps=steps, power=power)
    assert points.dtype == torch.long
    *shared, last = points.tolist()
    assert shared[0] == CLEAN
    assert last == step
    assert (points.diff() > 0).all()
    whole = trunk(T, steps, power=power).tolist()
    assert shared == whole[: len(shared)]
    # it leaves the trunk at the last point from which no last interval is below half of another
    assert len(shared) == 1 or 2 * (step - shared[-1]) >= shared[-1] - shared[-2]
    following = whole[len(shared)]
    assert following >= step or 2 * (step - following) < following - shared[-1]


@settings(deadline=None, derandomize=True, max_examples=50)
@given(chain=chains)
def test_trunk_is_a_power_law_and_its_own_grid(chain: tuple[int, int, int, int]) -> None:
    T, steps, _, power = chain
    points = trunk(T, steps, power=power)
    exact = [T * Fraction(i, steps) ** power + CLEAN for i in range(steps + 1)]
    assert points.tolist() == sorted({floor(point + Fraction(1, 2)) for point in exact})
    assert power > 1 or len(points) == steps + 1
    for k in {1, len(points) // 2, len(points) - 1} - {0}:
        prefix = grid(int(points[k]), T=T, steps=steps, power=power)
        assert torch.equal(prefix, points[: k + 1])


def test_even_spacing_is_the_default() -> None:
    assert torch.equal(trunk(1000, 50), trunk(1000, 50, power=1))
    assert torch.equal(grid(700, T=1000, steps=50), grid(700, T=1000, steps=50, power=1))


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (999, [-1, 249, 499, 749, 999]),
        (500, [-1, 249, 500]),
        (623, [-1, 249, 623]),  # 124 after a point of the trunk: too near
        (624, [-1, 249, 499, 624]),  # 125: half an interval
        (250, [-1, 250]),
        (100, [-1, 100]),
        (0, [-1, 0]),
    ],
)
def test_grid_of_four_intervals(step: int, expected: list[int]) -> None:
    assert grid(step, T=1000, steps=4).tolist() == expected


def test_trunks_by_hand() -> None:
    # halves go up
    assert trunk(5, 2).tolist() == [-1, 2, 4]
    assert trunk(3, 2).tolist() == [-1, 1, 2]
    assert trunk(1000, 4, power=2).tolist() == [-1, 62, 249, 562, 999]
    assert trunk(1000, 5, power=3).tolist() == [-1, 7, 63, 215, 511, 999]
    # points that rounding makes equal are one
    assert trunk(4, 4, power=2).tolist() == [-1, 0, 1, 3]


@pytest.mark.parametrize("steps", [0, -1, 11])
def test_bad_steps(steps: int) -> None:
    for call in (lambda: trunk(10, steps), lambda: grid(5, T=10, steps=steps)):
        with pytest.raises(ValueError, match=rf"steps must be in 1\.\.10, got {steps}"):
            call()


@pytest.mark.parametrize("power", [0, -1, 5, 1.5])
def test_bad_power(power: int) -> None:
    for call in (
        lambda: trunk(10, 5, power=power),
        lambda: grid(5, T=10, steps=5, power=power),
    ):
        with pytest.raises(ValueError, match=f"power must be 1, 2, 3 or 4, got {power}"):
            call()


@pytest.mark.parametrize("step", [-1, 10])
def test_bad_step(step: int) -> None:
    for call in (lambda: check_step(step, 10), lambda: grid(step, T=10, steps=5)):
        with pytest.raises(ValueError, match=rf"step must be in 0\.\.9 .*got {step}"):
            call()


def test_good_steps_are_returned() -> None:
    assert [check_step(step, 10) for step in (0, 9)] == [0, 9]


@pytest.mark.parametrize("step", [CLEAN, 0, 1, 500, 999])
def test_scales_on_the_host_are_those_of_the_table(step: int) -> None:
    schedule = Schedule.linear()
    alpha, sigma = schedule(torch.tensor(step))
    assert schedule.scales(step) == pytest.approx((float(alpha), float(sigma)), rel=1e-15)


def test_zero_terminal_snr_keeps_the_first_step_and_ends_in_noise() -> None:
    plain = Schedule.linear(100)
    zero = plain.with_zero_terminal_snr()
    (first, _), (last, sigma) = zero.scales(0), zero.scales(99)
    assert first == pytest.approx(plain.scales(0)[0], rel=1e-15)
    assert (last, sigma) == (0, 1)
    assert zero.is_pure_noise(99)
    assert not zero.is_pure_noise(98)
    # alphas are an affine map of the plain ones
    alphas, before = zero.alpha_bars[1:].sqrt(), plain.alpha_bars[1:].sqrt()
    slope = (alphas[0] - alphas[50]) / (before[0] - before[50])
    torch.testing.assert_close(alphas, alphas[0] + slope * (before - before[0]), rtol=0, atol=1e-14)
    assert (plain.last_invertible, zero.last_invertible, zero.without_last().last_invertible) == (
        99,
        98,
        98,
    )
    with pytest.raises(ValueError, match="T must be >= 2"):
        Schedule.linear(1).with_zero_terminal_snr()


def test_a_step_that_keeps_nothing_of_the_image_is_no_step_of_latents() -> None:
    zero = Schedule.linear(100).with_zero_terminal_snr()
    assert check_latent_step(98, zero) == 98
    assert check_latent_step(99, Schedule.linear(100)) == 99
    with pytest.raises(ValueError, match=r"step must be at most 98, got 99: .*alpha = 0"):
        check_latent_step(99, zero)
    with pytest.raises(ValueError, match=r"step must be in 0\.\.99"):
        check_latent_step(100, zero)
