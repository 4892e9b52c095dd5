import math

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from ood_sampler.diffusion.schedule import CLEAN, Schedule, check_step, grid, trunk

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
    lambda T: st.tuples(st.just(T), st.integers(1, T), st.integers(0, T - 1))
)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(chain=chains)
def test_grid_runs_from_clean_data_to_the_step(chain: tuple[int, int, int]) -> None:
    T, steps, step = chain
    points = grid(step, T=T, steps=steps)
    whole = trunk(T, steps)
    assert points.dtype == torch.long
    assert int(points[0]) == CLEAN
    assert int(points[-1]) == step
    assert (points.diff() > 0).all()
    assert points[:-1].tolist() == whole[: len(points) - 1].tolist()
    interval = T / steps
    # the last interval is a half to three halves, but for rounding by half a step at each end
    last = step - int(points[-2])
    assert last <= 1.5 * interval + 1
    assert len(points) == 2 or last >= (interval - 1) / 2


@settings(deadline=None, derandomize=True, max_examples=50)
@given(chain=chains)
def test_trunk_is_even_and_its_own_grid(chain: tuple[int, int, int]) -> None:
    T, steps, _ = chain
    points = trunk(T, steps)
    assert len(points) == steps + 1
    exact = [CLEAN + k * T / steps for k in range(steps + 1)]
    assert all(abs(p - e) <= 0.5 + 1e-9 for p, e in zip(points.tolist(), exact, strict=True))
    assert torch.equal(grid(T - 1, T=T, steps=steps), points)
    for k in (1, steps // 2, steps):
        if k:
            assert torch.equal(grid(int(points[k]), T=T, steps=steps), points[: k + 1])


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (999, [-1, 249, 499, 749, 999]),
        (500, [-1, 249, 500]),
        (623, [-1, 249, 623]),  # 124 after a point of the trunk: too near
        (624, [-1, 249, 499, 624]),  # 125: half an interval
        (100, [-1, 100]),
        (0, [-1, 0]),
    ],
)
def test_grid_of_four_intervals(step: int, expected: list[int]) -> None:
    assert grid(step, T=1000, steps=4).tolist() == expected


def test_halves_round_up() -> None:
    assert trunk(5, 2).tolist() == [-1, 2, 4]
    assert trunk(3, 2).tolist() == [-1, 1, 2]


@pytest.mark.parametrize("power", [2, 3, 4])
def test_a_power_gathers_the_points_near_clean_data(power: int) -> None:
    points = trunk(1000, 50, power=power)
    exact = [1000 * (k / 50) ** power - 1 for k in range(51)]
    assert points.tolist() == sorted({math.floor(e + 0.5) for e in exact})
    gaps = points.diff()
    assert int(gaps[0]) <= 2
    assert (gaps.diff() >= -1).all()  # they grow, but for rounding
    assert torch.equal(grid(999, T=1000, steps=50, power=power), points)
    shorter = grid(500, T=1000, steps=50, power=power)
    assert int(shorter[-1]) == 500
    assert torch.equal(shorter[:-1], points[: len(shorter) - 1])


@pytest.mark.parametrize("power", [0, 1.5, 5])
def test_bad_power(power: int) -> None:
    with pytest.raises(ValueError, match=rf"power must be 1, 2, 3 or 4, got {power}"):
        trunk(10, 5, power=power)


@pytest.mark.parametrize("steps", [0, -1, 11])
def test_bad_steps(steps: int) -> None:
    for call in (lambda: trunk(10, steps), lambda: grid(5, T=10, steps=steps)):
        with pytest.raises(ValueError, match=rf"steps must be in 1\.\.10, got {steps}"):
            call()


@pytest.mark.parametrize("step", [-1, 10])
def test_bad_step(step: int) -> None:
    for call in (lambda: check_step(step, 10), lambda: grid(step, T=10, steps=5)):
        with pytest.raises(ValueError, match=rf"step must be in 0\.\.9 .*got {step}"):
            call()


def test_good_steps_are_returned() -> None:
    assert [check_step(step, 10) for step in (0, 9)] == [0, 9]
