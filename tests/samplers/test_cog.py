import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ood_sampler.latents.store import InMemory
from ood_sampler.samplers.base import InvertedSet
from ood_sampler.samplers.cog import CogSampler, neighbours

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


def test_neighbours_are_the_nearest_by_distance() -> None:
    points = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points[7] = points[3]
    table = neighbours(points @ points.T, 6)
    distance = torch.cdist(points, points)
    assert torch.equal(table[:, 0], torch.arange(20))
    torch.testing.assert_close(distance.gather(1, table), distance.sort(dim=1).values[:, :6])
    assert all(len(set(row)) == 6 for row in table.tolist())


@pytest.mark.parametrize("references", [2, 3])
def test_local_draws_keep_mean_and_covariance_of_their_neighbourhood(
    references: int,
    make_set: MakeSet,
    draw: Callable[..., Tensor],
    check_moments: Callable[..., None],
) -> None:
    # two clouds far apart, interleaved: neighbourhoods of as many as there are in each
    n, near = 16, make_set(16, 1, 2, 2)
    away = 100 * (torch.arange(n) % 2).float()
    latents = InMemory(near.latents.take(range(n)) + away.reshape(n, 1, 1, 1))
    inverted = InvertedSet(near.images, latents, near.schedule, near.step)
    draws = draw(CogSampler(references, among=8), inverted, 6000)
    data = latents.items.double().flatten(1)
    shared = (references - 1) * 2 / math.pi / 7
    assert sorted((draws.mean(1) > 50).unique().tolist()) == [False, True]
    for cloud, members in ((draws.mean(1) < 50, data[::2]), (draws.mean(1) > 50, data[1::2])):
        assert abs(int(cloud.sum()) - 3000) < 5 * 1500**0.5
        covariance = (1 - shared) * torch.cov(members.T, correction=0)
        check_moments(draws[cloud], members.mean(0), covariance)


def test_a_local_draw_may_take_the_first_member_too(
    make_set: MakeSet, draw: Callable[..., Tensor]
) -> None:
    # a third member, far away, is the nearest to nobody: it is met through itself alone
    pair = make_set(3, 1, 2, 2)
    latents = pair.latents.take(range(3))
    latents[2] += 100
    inverted = InvertedSet(pair.images, InMemory(latents), pair.schedule, pair.step)
    data, n = latents.double().flatten(1), 3000
    draws = draw(CogSampler(2, among=2), inverted, n)
    between = draws.mean(1) > 5 + data[:2].max()
    assert abs(float(between.double().mean()) - 1 / 3) < 5 * (2 / 9 / n) ** 0.5


@pytest.mark.parametrize("among", [2, 0])
def test_bad_neighbourhood(among: int, make_set: MakeSet) -> None:
    with pytest.raises(ValueError, match=f"among must be >= references=3, or null, got {among}"):
        CogSampler(3, among=among)
    with pytest.raises(ValueError, match="CogSampler needs at least 5 few-shot images, got 4"):
        CogSampler(3, among=5).check(make_set(4, 1, 2, 2))


@pytest.mark.parametrize("references", [1, 0])
def test_bad_references(references: int) -> None:
    with pytest.raises(ValueError, match=f"references must be >= 2, got {references}"):
        CogSampler(references)
