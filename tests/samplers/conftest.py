from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.samplers.base import InvertedSet, Sampler
from ood_sampler.store.sets import InMemory


@pytest.fixture
def make_set() -> Callable[..., InvertedSet]:
    def make(
        n: int, *shape: int, step: int = 500, mean: float | None = None, seed: int = 0
    ) -> InvertedSet:
        """`n` correlated latents with a mean and images of their own."""
        generator = torch.Generator().manual_seed(seed)
        d = torch.Size(shape).numel()
        mixing = torch.randn(min(d, 16), d, generator=generator) / 4
        centre = 3 * torch.randn(d, generator=generator) if mean is None else torch.full((d,), mean)
        normal = torch.randn(n, len(mixing), generator=generator)
        spread = torch.randn(n, d, generator=generator) * torch.linspace(0.5, 1.5, d)
        images = torch.rand(n, *shape, generator=generator) * 2 - 1
        return InvertedSet(
            images=InMemory(images),
            latents=InMemory((centre + normal @ mixing + spread).reshape(n, *shape)),
            schedule=Schedule.linear(),
            step=step,
        )

    return make


@pytest.fixture
def make_gaussian() -> Callable[..., InvertedSet]:
    def make(n: int, *shape: int, std: float, length: float, seed: int = 0) -> InvertedSet:
        """`n` latents of N(mu, std^2 I), mu of a random direction and this length."""
        generator = torch.Generator().manual_seed(seed)
        direction = torch.randn(shape, generator=generator)
        mean = length * direction / direction.norm()
        latents = InMemory(mean + std * torch.randn(n, *shape, generator=generator))
        return InvertedSet(images=latents, latents=latents, schedule=Schedule.linear(), step=500)

    return make


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    def fit_and_draw(sampler: Sampler, inverted: InvertedSet, n: int, seed: int = 0) -> Tensor:
        noise = SampleNoise(seed, range(n), stream=Stream.LATENT)
        return sampler.draw(sampler.fit(inverted), inverted, noise).double().flatten(1)

    return fit_and_draw


@pytest.fixture
def check_moments() -> Callable[[Tensor, Tensor, Tensor], None]:
    def check(draws: Tensor, mean: Tensor, covariance: Tensor) -> None:
        """Compare mean and covariance of (n, d) draws, within five standard errors."""
        n = len(draws)
        centred = draws - mean
        products = centred[:, :, None] * centred[:, None, :]
        for values, expected in ((centred, torch.zeros_like(mean)), (products, covariance)):
            errors = (values.mean(0) - expected).abs()
            assert (errors <= 5 * values.std(0) / n**0.5).all()

    return check
