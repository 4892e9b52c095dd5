from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ood_sampler.codecs.pixels import PixelCodec
from ood_sampler.codecs.recorded import Trail, is_recordable, recorded, visited
from ood_sampler.diffusion.denoiser import GaussianDenoiser
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers import DdimSolver, FixedPointSolver, HeunSolver, Solver
from tests.diffusion.toys import toy_codec

MEAN, VARIANCE = 0.3, 0.5
DENOISER = GaussianDenoiser(torch.full((1, 1, 1), MEAN), VARIANCE, Schedule.linear(1000))
DDIM = DdimSolver(steps=10, power=1)
STEP = 500


def latents(count: int = 3) -> Tensor:
    return torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def test_recording_changes_no_bit() -> None:
    trail, plain = Trail(), toy_codec(DENOISER, DDIM)
    codec = recorded(plain, trail)
    noise = [SampleNoise(3, range(3), stream=Stream.DECODE) for _ in range(2)]
    made = [
        c.decode(latents(), STEP, eta=0.7, noise=n)
        for c, n in zip((plain, codec), noise, strict=True)
    ]
    assert torch.equal(*made)
    x_0 = latents()
    assert torch.equal(plain.encode(x_0, [STEP])[STEP], codec.encode(x_0, [STEP])[STEP])
    assert codec.identity == plain.identity


@pytest.mark.parametrize("solver", [DDIM, HeunSolver(steps=10, power=1)])
def test_states_are_denoised_as_the_gaussian_says(solver: Solver) -> None:
    trail = Trail()
    recorded(toy_codec(DENOISER, solver), trail).decode(latents(), STEP)
    assert max(trail.states) == STEP
    assert torch.equal(trail.states[STEP].x_t, latents())
    for step, (x_t, x_0_hat) in trail.states.items():
        alpha, sigma = DENOISER.schedule.scales(step)
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        torch.testing.assert_close(x_0_hat, MEAN + gain * (x_t - alpha * MEAN))


@pytest.mark.parametrize(
    "solver",
    [
        DDIM,
        HeunSolver(steps=10, power=2),
        FixedPointSolver(steps=10, power=1, iterations=3, tolerance=1e-3),
    ],
)
@pytest.mark.parametrize("decoding", [True, False])
def test_steps_are_known_before_the_walk(solver: Solver, decoding: bool) -> None:
    trail, codec = Trail(), toy_codec(DENOISER, solver)
    walked = recorded(codec, trail)
    if decoding:
        walked.decode(latents(), STEP)
    else:
        walked.encode(latents(), [STEP])
    assert list(trail.states) == visited(codec, STEP, decoding=decoding)


def test_steps_of_ddim_are_those_of_its_grid() -> None:
    down = visited(toy_codec(DENOISER, DDIM), 499, decoding=True)
    assert down == sorted(down, reverse=True)
    assert len(down) == DDIM.decoding_evaluations(499, T=1000)
    up = visited(toy_codec(DENOISER, DDIM), 499, decoding=False)
    # from clean data, which the network sees at step 0, to the last source
    assert up == [0, *sorted(down[1:])]


def test_a_codec_without_a_model_has_no_trail() -> None:
    pixels = PixelCodec((3, 8, 8))
    assert not is_recordable(pixels)
    with pytest.raises(TypeError, match="diffusion model, got PixelCodec"):
        recorded(pixels, Trail())
    with pytest.raises(TypeError, match="diffusion model, got PixelCodec"):
        visited(pixels, 0, decoding=True)
    assert is_recordable(replace(toy_codec(DENOISER, DDIM)))
