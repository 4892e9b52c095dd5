import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ood_sampler.diffusion import closed_form
from ood_sampler.diffusion.closed_form import (
    ClosedFormDenoiser,
    FittedGaussianDenoiser,
    PatchDenoiser,
)
from ood_sampler.diffusion.gaussian import Gaussian, fit_gaussian
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.store.sets import InMemory

SCHEDULE = Schedule.linear()
STEPS = (0, 100, 400, 999)
SHAPE = (3, 6, 5)


def random(count: int, seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *(shape or SHAPE), generator=generator, dtype=torch.float64) * 2 - 1


def noisy(step: int, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    eps = torch.randn(count, *SHAPE, generator=generator, dtype=torch.float64)
    return SCHEDULE.diffuse(random(count, 1), eps, step)


def patches(
    images: Tensor, *, least: float = 1, growth: float = 2, shift: int = 0
) -> PatchDenoiser:
    return PatchDenoiser(images, SCHEDULE, least=least, growth=growth, shift=shift)


def gaussian(images: Tensor) -> FittedGaussianDenoiser:
    return FittedGaussianDenoiser(Gaussian(fit_gaussian(InMemory(images.float()))), SCHEDULE)


def by_loop(x: Tensor, images: Tensor, step: int, reach: int) -> Tensor:
    """The posterior mean of each pixel, patch by patch."""
    alpha, sigma = SCHEDULE.scales(step)
    found = torch.empty_like(x)
    height, width = x.shape[-2:]
    for i in range(height):
        for j in range(width):
            rows = slice(max(i - reach, 0), i + reach + 1)
            columns = slice(max(j - reach, 0), j + reach + 1)
            patch, others = x[:, None, :, rows, columns], images[:, :, rows, columns]
            squares = (patch - alpha * others).square().flatten(2).sum(2)
            weights = (-squares / (2 * sigma**2)).softmax(1)
            found[:, :, i, j] = weights @ images[:, :, i, j]
    return found


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("least", "growth"), [(0, 0), (1, 0), (1, 2), (2.4, 0.1)])
def test_patches_are_those_of_a_loop(step: int, least: float, growth: float) -> None:
    images, x = random(7, 0), noisy(step)
    denoiser = patches(images, least=least, growth=growth)
    expected = by_loop(x, images, step, denoiser.reach(step))
    torch.testing.assert_close(denoiser(x, torch.tensor(step)), expected)


@pytest.mark.parametrize("step", STEPS)
def test_a_patch_as_large_as_the_image_is_the_exact_denoiser_of_the_images(step: int) -> None:
    images, x = random(7, 0), noisy(step)
    alpha, sigma = SCHEDULE.scales(step)
    squares = torch.stack([(x - alpha * y).square().flatten(1).sum(1) for y in images], dim=1)
    weights = (-squares / (2 * sigma**2)).softmax(1)
    expected = torch.einsum("bn,nchw->bchw", weights, images)
    found = patches(images, least=100)(x, torch.tensor(step))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("step", STEPS)
def test_a_single_image_is_found_in_any_noise(step: int) -> None:
    image, x = random(1, 0), noisy(step)
    denoiser = patches(image)
    torch.testing.assert_close(denoiser(x, torch.tensor(step)), image.expand_as(x))
    alpha, sigma = SCHEDULE.scales(step)
    torch.testing.assert_close(denoiser.eps(x, torch.tensor(step)), (x - alpha * image) / sigma)


def test_a_little_noise_is_removed_from_a_few_shot_image() -> None:
    images = random(7, 0)
    x = SCHEDULE.diffuse(images[:3], torch.zeros(3, *SHAPE).double(), 0)
    torch.testing.assert_close(patches(images)(x, torch.tensor(0)), images[:3])


def test_patches_grow_from_the_least_to_the_whole_image() -> None:
    denoiser = patches(random(2, 0, 3, 32, 32), least=1, growth=2)
    reaches = [denoiser.reach(step) for step in (0, 100, 300, 500, 700, 999)]
    for step, reach in zip((0, 100, 300, 500), reaches, strict=False):
        alpha, sigma = SCHEDULE.scales(step)
        assert reach == round(1 + 2 * sigma / alpha)
    assert reaches == sorted(reaches)
    assert (reaches[0], reaches[-1]) == (1, 31)
    ends = SCHEDULE.then_pure_noise()
    for growth, reach in ((0, 0), (0.1, 5)):
        denoiser = PatchDenoiser(random(2, 0), ends, least=0, growth=growth, shift=0)
        assert denoiser.reach(1000) == reach


def test_without_a_trace_of_the_image_the_mean_is_left() -> None:
    images, schedule = random(7, 0), SCHEDULE.then_pure_noise()
    denoiser = PatchDenoiser(images, schedule, least=1, growth=2, shift=0)
    found = denoiser(noisy(999), torch.tensor(1000))
    torch.testing.assert_close(found, images.mean(0).expand_as(found))
    fitted = FittedGaussianDenoiser(Gaussian(fit_gaussian(InMemory(images.float()))), schedule)
    found = fitted(noisy(999), torch.tensor(1000))
    torch.testing.assert_close(found, images.mean(0).expand_as(found), rtol=1e-5, atol=1e-5)


def test_moved_images_count_as_images_of_their_own() -> None:
    images, x = random(4, 0), noisy(400)
    around = torch.nn.functional.pad(images, [1] * 4, mode="reflect")
    moved = [around[:, :, i : i + 6, j : j + 5] for i in range(3) for j in range(3)]
    expected = patches(torch.cat(moved))(x, torch.tensor(400))
    torch.testing.assert_close(patches(images, shift=1)(x, torch.tensor(400)), expected)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = patches(random(7, 0), shift=1)
    whole = denoiser(noisy(300), torch.tensor(300))
    monkeypatch.setattr(closed_form, "_CHUNK", 2 * 6 * 5)
    torch.testing.assert_close(denoiser(noisy(300), torch.tensor(300)), whole)


def test_the_order_of_the_images_does_not_matter() -> None:
    images, x = random(7, 0), noisy(300)
    one, other = (patches(each)(x, torch.tensor(300)) for each in (images, images.flip(0)))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("make", [patches, gaussian])
def test_the_batch_does_not_matter(make: Callable[[Tensor], ClosedFormDenoiser]) -> None:
    denoiser = make(random(7, 0).float())
    x = noisy(300).float()
    whole = denoiser.eps(x, torch.tensor(300))
    assert torch.equal(whole[1:2], denoiser.eps(x[1:2], torch.tensor(300)))
    # each image may have a step of its own
    steps = torch.tensor([300, 10, 999])
    each = [denoiser(x[i : i + 1], step) for i, step in enumerate(steps)]
    assert torch.equal(denoiser(x, steps), torch.cat(each))


@pytest.mark.parametrize("step", STEPS)
def test_the_gaussian_is_the_posterior_mean_of_its_matrix(step: int) -> None:
    # images with one variance in all directions: the closed form of N(mu, v I)
    generator = torch.Generator().manual_seed(0)
    images = 0.2 + 0.5 * torch.randn(1000, *SHAPE, generator=generator)
    denoiser, x = gaussian(images), noisy(step)
    alpha, sigma = SCHEDULE.scales(step)
    signal = alpha**2 * 0.25 + sigma**2
    expected = 0.2 + alpha * 0.25 * (x - alpha * 0.2) / signal
    error = 5 * math.sqrt(2 * math.prod(SHAPE) / 1000)
    found = denoiser(x, torch.tensor(step))
    torch.testing.assert_close(found, expected, rtol=error, atol=error)
    # exactly, by the matrix that its state stands for
    state = fit_gaussian(InMemory(images))
    matrix, mean = covariance(state)
    eye = torch.eye(len(matrix), dtype=torch.float64)
    solved = torch.linalg.solve(alpha**2 * matrix + sigma**2 * eye, (x.flatten(1) - alpha * mean).T)
    exact = mean + alpha * (matrix @ solved).T
    torch.testing.assert_close(found.flatten(1), exact, rtol=1e-4, atol=1e-4)
    noise = denoiser.eps(x, torch.tensor(step))
    torch.testing.assert_close(noise.flatten(1), sigma * solved.T, rtol=1e-4, atol=1e-4)


def covariance(state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Covariance and mean in pixels of a fitted Gaussian, as a matrix and a vector, float64."""
    from ood_sampler.diffusion.gaussian import from_cosine, rotate_back

    channels, height, width = SHAPE
    basis = torch.eye(channels * height * width).reshape(-1, channels, height * width)
    pixels = from_cosine(rotate_back(state["rotation"], basis).reshape(-1, *SHAPE)).flatten(1)
    deviations = (state["deviations"] @ pixels).double()
    diagonal = state["variance"].flatten().double()
    matrix = (pixels.double().T * diagonal) @ pixels.double() + deviations.T @ deviations
    return matrix, from_cosine(state["mean"]).flatten().double()


def test_half_precision_is_left_to_the_network() -> None:
    images, x = random(7, 0).float(), noisy(300).float()
    for denoiser in (patches(images), gaussian(images)):
        whole = denoiser(x, torch.tensor(300))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(denoiser(x, torch.tensor(300)), whole)
        half = denoiser(x.bfloat16(), torch.tensor(300))
        assert half.dtype == torch.bfloat16
