import math

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor
from toys import MEAN, SCHEDULE, Constant, bend, bent, gaussian, normal, scales

from ood_sampler.diffusion.schedule import CLEAN
from ood_sampler.diffusion.solvers import DdimSolver, Flow, ddim_move


@pytest.mark.parametrize("noise_at", ["source", "target"])
def test_inversion_is_a_chain_of_moves(noise_at: str) -> None:
    x_0 = normal(2, 3, 2, 2)
    x_t = x_0
    for t, s in ((-1, 249), (249, 499), (499, 640)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = scales(t), scales(s)
        eps = bend(x_t, torch.tensor(max(t, 0) if noise_at == "source" else s))
        x_t = alpha_s * (x_t - sigma_t * eps) / alpha_t + sigma_s * eps
    solver = DdimSolver(steps=4, power=1, noise_at=noise_at)  # type: ignore[arg-type]
    latents = solver.invert(bent(), x_0, [640])[640]
    torch.testing.assert_close(latents, x_t, rtol=0, atol=1e-12)


def test_both_variants_decode_alike() -> None:
    x_t = normal(2, 3, 2, 2)
    first, second = (
        DdimSolver(steps=9, power=1, noise_at=end).decode(bent(), x_t, step=500)  # type: ignore[arg-type]
        for end in ("source", "target")
    )
    assert torch.equal(first, second)


def test_inversion_at_the_target_equals_diffusers() -> None:
    theirs = DDIMInverseScheduler(1000, clip_sample=False, timestep_spacing="trailing")
    theirs.alphas_cumprod = SCHEDULE.alpha_bars[1:]
    theirs.initial_alpha_cumprod = SCHEDULE.alpha_bars[0]
    theirs.set_timesteps(10)
    x_0 = normal(2, 3, 4, 4)
    expected = x_0
    for t in theirs.timesteps:
        expected = theirs.step(bend(expected, t), t, expected).prev_sample
    solver = DdimSolver(steps=10, power=1, noise_at="target")
    latents = solver.invert(bent(), x_0, [999])[999]
    torch.testing.assert_close(latents, expected, rtol=1e-9, atol=1e-9)


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
    eps = Flow(Constant(eps), clip_x_0=clip).eps(x_t, t)
    moved = ddim_move(SCHEDULE, x_t, eps, t, max(s, CLEAN), eta=eta, noise=lambda: z)
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
    images = DdimSolver(steps=10, power=1).decode(
        bent(), x_T, step=999, eta=eta, noise=lambda: next(remaining), clip_x_0=clip
    )
    torch.testing.assert_close(images, expected, rtol=1e-9, atol=1e-9)
    # no noise is drawn for nothing: the last move ends in clean data
    assert len(list(remaining)) == (1 if eta else 10)


def test_a_point_mass_decodes_to_itself() -> None:
    alpha, sigma = scales(700)
    x_t = alpha * MEAN + sigma * normal(2, 3, 4, 4)
    for eta in (0.0, 0.5, 1.0, 2.0):
        images = DdimSolver(steps=20, power=1).decode(
            gaussian(0.0), x_t, step=700, eta=eta, noise=lambda: normal(2, 3, 4, 4)
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
        eps = denoiser.eps(x_t, torch.tensor(t))
        x_t = ddim_move(SCHEDULE, x_t, eps, t, s, eta=eta, noise=draw)
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
    moved = ddim_move(SCHEDULE, x_t, eps, t, t - 1, eta=1.0, noise=lambda: z)
    torch.testing.assert_close(moved, mean + std * z, rtol=0, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("t", [0, 500, 999])
def test_a_move_to_the_same_step_is_the_identity(t: int, eta: float) -> None:
    x_t, eps = normal(2, 2, 3, 4, 4)
    moved = ddim_move(SCHEDULE, x_t, eps, t, t, eta=eta, noise=lambda: eps)
    torch.testing.assert_close(moved, x_t, rtol=0, atol=1e-12)


def test_without_noise_a_move_is_the_one_of_all_solvers() -> None:
    x_t, eps = normal(2, 2, 3, 4, 4)
    moved = ddim_move(SCHEDULE, x_t, eps, 700, 300, eta=0.0, noise=None)
    torch.testing.assert_close(moved, Flow(bent()).carry(x_t, eps, 700, 300), rtol=0, atol=1e-12)


def test_noise_needs_a_source_and_a_way_down() -> None:
    x = normal(1, 3, 2, 2)
    with pytest.raises(ValueError, match=r"eta=0\.5 needs s < t"):
        ddim_move(SCHEDULE, x, x, 11, 10, eta=0.5, noise=None)
    with pytest.raises(ValueError, match=r"eta=0\.5 needs s < t.*inversion is deterministic"):
        ddim_move(SCHEDULE, x, x, 10, 11, eta=0.5, noise=lambda: x)
    with pytest.raises(ValueError, match=r"eta must be >= 0, got -1"):
        ddim_move(SCHEDULE, x, x, 11, 10, eta=-1.0, noise=lambda: x)
