import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ood_sampler.samplers.base import InvertedSet
from ood_sampler.samplers.cog import CogSampler

MakeSet = Callable[..., InvertedSet]


@pytest.mark.parametrize("references", [2, 3, 8])
def test_draws_keep_mean_and_covariance(
    references: int,
    make_set: MakeSet,
    draw: Callable[..., Tensor],
    check_moments: Callable[..., None],
) -> None:
    n = 8
    inverted = make_set(n, 1, 2, 2)
    data = inverted.latents.take(range(n)).double().flatten(1)
    # Two members drawn without repetition have the covariance -P / (n - 1), P that of one; and
    # E[v_i v_j] = 2 / (pi k) for directions v uniform on the positive part of the sphere.
    shared = (references - 1) * 2 / math.pi / (n - 1)
    covariance = (1 - shared) * torch.cov(data.T, correction=0)
    check_moments(draw(CogSampler(references), inverted, 4000), data.mean(0), covariance)


def test_covariance_of_many_images(make_set: MakeSet, draw: Callable[..., Tensor]) -> None:
    inverted, n = make_set(2000, 1, 2, 2), 2000
    data = inverted.latents.take(range(n)).double().flatten(1)
    draws = draw(CogSampler(2), inverted, n)
    for moment in (lambda x: x.mean(0), lambda x: torch.cov(x.T)):
        scale = torch.cov(data.T).diag().sqrt()
        spread = 5 * scale.max() ** 2 * math.sqrt(2 / n)
        assert (moment(draws) - moment(data)).abs().max() < spread


def test_two_references_lie_on_an_arc_about_the_mean(
    make_set: MakeSet, draw: Callable[..., Tensor]
) -> None:
    inverted, n = make_set(2, 3, 2, 2), 2000
    data = inverted.latents.take(range(2)).double().flatten(1)
    mean = data.mean(0)
    # z - mean = (cos a - sin a) (z_1 - mean), as both references are opposite about their mean
    along = (draw(CogSampler(2), inverted, n) - mean) @ (data[0] - mean)
    along = along / (data[0] - mean).square().sum()
    assert float(along.abs().max()) <= 1 + 1e-6
    # cos a - sin a = sqrt 2 cos(a + pi/4), with the angle uniform: E is 0, E of squares 1 - 2/pi
    square = along.square()
    assert abs(float(square.mean()) - (1 - 2 / math.pi)) < 5 * float(square.std()) / math.sqrt(n)


@pytest.mark.parametrize("references", [1, 0])
def test_bad_references(references: int) -> None:
    with pytest.raises(ValueError, match=f"references must be >= 2, got {references}"):
        CogSampler(references)
