import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.latents.geometry import combine
from ood_sampler.samplers.base import InvertedSet
from ood_sampler.samplers.cog import (
    CAP,
    CogSampler,
    capped_weights,
    largest_share,
    neighbours,
    smallest_cap,
    spread,
    squared_sum,
)
from ood_sampler.store.sets import InMemory

MakeSet = Callable[..., InvertedSet]


@pytest.mark.parametrize("neighbourhood", [False, True])
@pytest.mark.parametrize(
    ("n", "references", "cap"), [(16, 3, None), (8, 5, None), (8, 5, 1), (8, 8, None), (3, 3, 1)]
)
def test_draws_keep_mean_and_covariance(
    n: int,
    references: int,
    cap: float | None,
    neighbourhood: bool,
    make_set: MakeSet,
    draw: Callable[..., Tensor],
    check_moments: Callable[..., None],
) -> None:
    inverted = make_set(n, 1, 2, 2)
    data = inverted.latents.take(range(n)).double().flatten(1)
    sampler = CogSampler(references, cap=cap, among=n if neighbourhood else None)
    # so many that a tenth of a variance is more than five standard errors
    check_moments(draw(sampler, inverted, 6000), data.mean(0), torch.cov(data.T))


@pytest.mark.parametrize(("n", "references", "kept"), [(16, 3, 0.86), (8, 5, 0.56)])
def test_the_spread_makes_up_for_the_share_of_the_covariance_that_is_lost(
    n: int, references: int, kept: float
) -> None:
    # E[v_i v_j] = 2 / (pi k) for directions v uniform on the positive part of the sphere
    exact = 1 - (1 + (references - 1) * 2 / math.pi) / n
    assert exact == pytest.approx(kept, abs=0.005)
    assert spread(n, references, cap=1) == pytest.approx(exact**-0.5, rel=1e-12)


@pytest.mark.parametrize("cap", [0.9, 0.75, 0.55])
def test_the_sum_of_two_capped_weights_has_its_mean_square(cap: float) -> None:
    # E[1 + sin 2a], the angle a uniform between two ends
    low = math.asin(math.sqrt(1 - cap))
    expected = 1 + math.cos(2 * low) / (math.pi / 2 - 2 * low)
    assert squared_sum(2, cap=cap) == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize(("references", "cap"), [(3, 0.8), (3, 0.4), (5, 0.8), (300, 0.05)])
def test_the_sum_of_capped_weights_has_the_mean_square_of_those_drawn(
    references: int, cap: float
) -> None:
    squares = shares(references, cap, 4000).sqrt().sum(1).square()
    error = 5 * float(squares.std()) / math.sqrt(4000)
    assert squared_sum(references, cap=cap) == pytest.approx(float(squares.mean()), abs=error)


def test_covariance_of_many_images(make_set: MakeSet, draw: Callable[..., Tensor]) -> None:
    inverted, n = make_set(2000, 1, 2, 2), 2000
    data = inverted.latents.take(range(n)).double().flatten(1)
    draws = draw(CogSampler(2, cap=1), inverted, n)
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
    # z - mean = c (cos a - sin a) (z_1 - mean), as both are opposite about their mean; c is the
    # square root of 2 / (2 - E[(cos a + sin a)^2]) = 1 / (1/2 - 1/pi)
    along = (draw(CogSampler(2, cap=1), inverted, n) - mean) @ (data[0] - mean)
    along = along / (data[0] - mean).square().sum() * math.sqrt(1 / 2 - 1 / math.pi)
    assert float(along.abs().max()) <= 1 + 1e-6
    assert float(along.abs().max()) > 0.99
    # cos a - sin a = sqrt 2 cos(a + pi/4), with the angle uniform: E is 0, E of squares 1 - 2/pi
    square = along.square()
    assert abs(float(square.mean()) - (1 - 2 / math.pi)) < 5 * float(square.std()) / math.sqrt(n)


def noise(n: int) -> SampleNoise:
    return SampleNoise(3, range(n), stream=Stream.LATENT)


def shares(references: int, cap: float, n: int) -> Tensor:
    squares = capped_weights(noise(n), references, cap=cap).double().square()
    return squares / squares.sum(1, keepdim=True)


@pytest.mark.parametrize("cap", [0.9, 0.75, 0.55])
def test_the_angle_of_two_capped_weights_is_uniform(cap: float) -> None:
    angle = shares(2, cap, 4000)[:, 0].sqrt().acos()
    low = math.asin(math.sqrt(1 - cap))
    uniform = (angle.sort().values - low) / (math.pi / 2 - 2 * low)
    assert float(uniform[0]) >= 0
    assert float(uniform[-1]) <= 1
    # Kolmogorov's distance exceeds 2 / sqrt(n) once in 1,500 times
    steps = torch.arange(1, 4001) / 4000
    assert float((uniform - steps).abs().max()) < 2 / math.sqrt(4000)


@pytest.mark.parametrize("cap", [0.8, 0.5, 0.4])
def test_three_capped_weights_are_uniform_on_their_part_of_the_sphere(cap: float) -> None:
    n = 4000
    normal = torch.randn(2_000_000, 3, generator=torch.Generator().manual_seed(1)).abs()
    kept = normal[largest_share(normal) <= cap].double()
    if cap >= 0.5:  # at most one share is above: three caps of the sphere are cut off
        accepted, expected = len(kept) / len(normal), 1 - 3 * (1 - math.sqrt(cap))
        assert abs(accepted - expected) < 5 * math.sqrt(0.25 / len(normal))
    brute = kept / kept.norm(dim=1, keepdim=True)
    drawn = shares(3, cap, n).sqrt()
    for value in (
        lambda w: w[:, 0],
        lambda w: w[:, 1].square(),
        lambda w: w[:, 0] * w[:, 2],
        lambda w: w.amax(1),
        lambda w: w.sum(1).square(),
    ):
        difference = abs(float(value(drawn).mean() - value(brute).mean()))
        assert difference < 5 * float(value(brute).std()) * math.sqrt(1 / n + 1 / len(brute))


@pytest.mark.parametrize(("references", "cap"), [(2, 0.51), (3, 0.4), (5, 0.3), (5, 0.9)])
@pytest.mark.parametrize("among", [None, 8])
def test_no_share_is_above_the_cap(
    references: int, cap: float, among: int | None, draw: Callable[..., Tensor], make_set: MakeSet
) -> None:
    # of unit vectors, a coordinate that no reference has is the least
    latents, other = InMemory(torch.eye(8).reshape(8, 2, 2, 2)), make_set(8, 2, 2, 2)
    inverted = InvertedSet(latents, latents, other.schedule, other.step)
    draws = draw(CogSampler(references, cap=cap, among=among), inverted, 300)
    draws = 1 / 8 + (draws - 1 / 8) / spread(8, references, cap=cap)
    weights = draws - draws.amin(1, keepdim=True)
    assert ((weights > 1e-6).sum(1) == references).all()
    assert float(weights.square().sum(1).sub(1).abs().max()) < 1e-5
    assert float(weights.square().max()) <= cap + 1e-5
    assert float(weights.square().max()) > 1 / references


def test_without_a_cap_the_draws_are_those_as_published_about_the_mean(make_set: MakeSet) -> None:
    inverted, sampler = make_set(9, 3, 2, 2), CogSampler(3, cap=1)
    fitted, source = sampler.fit(inverted), noise(50)
    latents = inverted.latents.take(source.choice(9, 3).flatten().tolist()).unflatten(0, (50, 3))
    weights = source.normal(3).abs()
    mean = fitted["mean"]
    published = [combine(z[None], w[None], mean) for z, w in zip(latents, weights, strict=True)]
    expected = mean + math.sqrt(9 / (9 - 1 - 4 / math.pi)) * (torch.cat(published) - mean)
    torch.testing.assert_close(sampler.draw(fitted, inverted, noise(50)), expected)


def test_a_capped_sample_is_its_first_draw_below_the_cap() -> None:
    together = capped_weights(noise(40), 3, cap=0.5)
    for i in range(40):
        alone = SampleNoise(3, [i], stream=Stream.LATENT)
        draws = torch.cat([alone.normal(3).abs() for _ in range(200)])
        first = int((largest_share(draws) <= 0.5).nonzero()[0, 0])
        assert torch.equal(together[i], draws[first])


def test_the_default_cap(make_set: MakeSet, draw: Callable[..., Tensor]) -> None:
    inverted = make_set(9, 3, 2, 2)
    default, given = (draw(CogSampler(references=3, cap=cap), inverted, 30) for cap in (None, CAP))
    assert torch.equal(default, given)
    assert not torch.equal(default, draw(CogSampler(3, cap=1), inverted, 30))


@pytest.mark.parametrize("cap", [0.34, 1 / 3, 0, -1, 1.01, math.nan, "half"])
def test_bad_cap(cap: float) -> None:
    least = smallest_cap(3)
    assert 1 / 3 < least < 0.36
    with pytest.raises(ValueError, match=rf"cap must be in {least}\.\.1 for references=3, or null"):
        CogSampler(3, cap=cap)
    CogSampler(3, cap=least)
    assert smallest_cap(10**12) == smallest_cap(256) < 0.03


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
    draws = draw(CogSampler(references, cap=1, among=8), inverted, 6000)
    data = latents.items.double().flatten(1)
    assert sorted((draws.mean(1) > 50).unique().tolist()) == [False, True]
    for cloud, members in ((draws.mean(1) < 50, data[::2]), (draws.mean(1) > 50, data[1::2])):
        assert abs(int(cloud.sum()) - 3000) < 5 * 1500**0.5
        check_moments(draws[cloud], members.mean(0), torch.cov(members.T))


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
    # off the line through the first two
    along = (data[1] - data[0]) / (data[1] - data[0]).norm()
    away = draws - data[0]
    off = (away - (away @ along)[:, None] * along).norm(dim=1) > 1e-3
    assert abs(float(off.double().mean()) - 1 / 3) < 5 * (2 / 9 / n) ** 0.5


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
