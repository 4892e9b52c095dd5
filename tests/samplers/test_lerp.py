from collections.abc import Callable

import torch
from torch import Tensor

from ood_sampler.samplers.base import InvertedSet
from ood_sampler.samplers.lerp import LerpSampler

MakeSet = Callable[..., InvertedSet]


def test_draws_have_the_moments_of_the_mixture(
    make_set: MakeSet, draw: Callable[..., Tensor], check_moments: Callable[..., None]
) -> None:
    n = 5
    inverted = make_set(n, 1, 2, 2)
    data = inverted.latents.take(range(n)).double().flatten(1)
    # E[(1-u)^2 + u^2] = 2/3, E[2u(1-u)] = 1/3; two distinct members have covariance -P / (n - 1)
    covariance = (2 / 3 - 1 / 3 / (n - 1)) * torch.cov(data.T, correction=0)
    check_moments(draw(LerpSampler(), inverted, 10_000), data.mean(0), covariance)


def test_draws_fill_the_segment(make_set: MakeSet, draw: Callable[..., Tensor]) -> None:
    inverted, n = make_set(2, 3, 2, 2), 4000
    z_1, z_2 = inverted.latents.take(range(2)).double().flatten(1)
    draws = draw(LerpSampler(), inverted, n)
    u = (draws - z_1) @ (z_2 - z_1) / (z_2 - z_1).square().sum()
    torch.testing.assert_close(draws, z_1 + u[:, None] * (z_2 - z_1), rtol=0, atol=1e-5)
    # Kolmogorov-Smirnov, uniform in [0, 1]: P(sqrt(n) D > 2.5) = 7e-6
    deviation = (u.sort().values - (torch.arange(n) + 0.5) / n).abs().max()
    assert float(deviation) * n**0.5 < 2.5
