import torch

from ood_sampler.diffusion.denoiser import GaussianDenoiser
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers import DdimSolver
from ood_sampler.modules.filming import MOST, Filming, frame_steps
from tests.diffusion.toys import toy_codec

DENOISER = GaussianDenoiser(torch.full((1, 1, 1), 0.3), 0.5, Schedule.linear(1000))
CODEC = toy_codec(DENOISER, DdimSolver(steps=10, power=1))
STEP = 500


def some(seed: int, size: int = 4) -> torch.Tensor:
    return torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(seed))


def test_a_film_of_decoding_begins_at_the_latent_and_ends_at_the_sample() -> None:
    z, numbers = some(0), [4, 7]
    film = Filming(CODEC, level=STEP, decoding=True, eta=0.6, seed=3)
    frames = film.predict_step((numbers, z), 0)["frames"]
    steps = frame_steps(CODEC, STEP, decoding=True)
    assert frames.shape == (2, len(steps), 2, 1, 4, 4)
    _, sigma = DENOISER.schedule.scales(STEP)
    assert steps[0] == STEP
    torch.testing.assert_close(frames[:, 0, 0], (z / (1 + sigma)).clamp(-1, 1))
    alone = SampleNoise(3, numbers, stream=Stream.DECODE)
    x_0 = CODEC.decode(z, STEP, eta=0.6, noise=alone).clamp(-1, 1)
    assert steps[-1] == -1
    assert torch.equal(frames[:, -1, 0], x_0)
    assert torch.equal(frames[:, -1, 1], x_0)


def test_a_film_of_inversion_begins_at_the_image_and_ends_at_the_latent() -> None:
    x_0 = some(1).clamp(-1, 1)
    frames = Filming(CODEC, level=STEP, decoding=False).predict_step(([0, 1], x_0), 0)["frames"]
    steps = frame_steps(CODEC, STEP, decoding=False)
    assert frames.shape == (2, len(steps), 1, 4, 4)
    assert (steps[0], steps[-1]) == (0, STEP)
    torch.testing.assert_close(frames[:, 0], x_0 / (1 + DENOISER.schedule.scales(0)[1]))
    _, sigma = DENOISER.schedule.scales(STEP)
    z = CODEC.encode(x_0, [STEP])[STEP]
    torch.testing.assert_close(frames[:, -1], (z / (1 + sigma)).clamp(-1, 1))


def test_long_films_keep_their_ends_and_large_frames_are_averaged() -> None:
    codec = toy_codec(DENOISER, DdimSolver(steps=100, power=1))
    steps = frame_steps(codec, STEP, decoding=True)
    assert len(steps) == MOST
    assert (steps[0], steps[-1]) == (STEP, -1)
    frames = Filming(CODEC, level=STEP, decoding=False).predict_step(([0, 1], some(2, 128)), 0)
    assert frames["frames"].shape[-2:] == (64, 64)


def test_what_is_not_finite_is_shown_as_grey() -> None:
    z = some(0)
    z[1] = torch.nan
    frames = Filming(CODEC, level=STEP, decoding=True).predict_step(([0, 1], z), 0)["frames"]
    assert frames.isfinite().all()
    assert (frames[1] == 0).all()
