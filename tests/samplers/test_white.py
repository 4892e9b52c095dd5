import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ood_sampler.samplers.base import InvertedSet
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.samplers.white import WhiteSampler

MakeSet = Callable[..., InvertedSet]
Draw = Callable[..., Tensor]


@pytest.mark.parametrize("fresh", [0.4, 1.0])
def test_draws_have_the_mean_of_the_set_and_a_covariance_between_its_own_and_white(
    fresh: float, make_set: MakeSet, draw: Draw, check_moments: Callable[..., None]
) -> None:
    inverted = make_set(40, 1, 2, 2)
    members = inverted.latents.take(range(40)).double().flatten(1)
    covariance = (1 - fresh**2) * torch.cov(members.T) + fresh**2 * torch.eye(4)
    draws = draw(WhiteSampler(3, fresh), inverted, 4000)
    check_moments(draws, members.mean(0), covariance)


def test_a_white_set_stays_white(make_gaussian: MakeSet, draw: Draw) -> None:
    # radius^2 about the mean is d for N(mu, I), whatever the share
    n, d = 300, 768
    inverted = make_gaussian(n, 3, 16, 16, std=1.0, length=5.0)
    mean = inverted.latents.take(range(n)).double().flatten(1).mean(0)
    for fresh in (0.0, 0.5, 1.0):
        squares = (draw(WhiteSampler(3, fresh), inverted, 64) - mean).square().sum(1)
        assert float(squares.mean()) == pytest.approx(d, rel=5 * math.sqrt(2 / d / 64) + 0.01)


def test_without_fresh_noise_it_is_cog(make_set: MakeSet, draw: Draw) -> None:
    inverted = make_set(8, 3, 4, 4)
    expected = draw(CogSampler(3, cap=0.5), inverted, 20)
    found = draw(WhiteSampler(3, 0.0, cap=0.5), inverted, 20)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_part_outside_the_span_is_the_fresh_noise(make_gaussian: MakeSet, draw: Draw) -> None:
    # the members span 10 of 768 dimensions: outside, |v n|^2 is v^2 (d - 10)
    inverted = make_gaussian(10, 3, 16, 16, std=1.0, length=5.0)
    basis = torch.linalg.qr(inverted.latents.take(range(10)).double().flatten(1).T).Q
    draws = draw(WhiteSampler(3, 0.4), inverted, 50)
    outside = (draws - draws @ basis @ basis.T).square().sum(1)
    expected = 0.16 * 758
    assert float(outside.mean()) == pytest.approx(expected, rel=5 * math.sqrt(2 / 758 / 50))


@pytest.mark.parametrize("fresh", [-0.1, 1.1, "much"])
def test_a_share_out_of_range_is_refused(fresh: float) -> None:
    with pytest.raises(ValueError, match=r"fresh must be in 0\.\.1, got"):
        WhiteSampler(3, fresh)


def test_references_are_those_of_cog() -> None:
    with pytest.raises(ValueError, match="references must be >= 2, got 1"):
        WhiteSampler(1, 0.4)
