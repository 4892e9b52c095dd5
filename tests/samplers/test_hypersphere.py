import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.samplers.base import GaveUpError, InvertedSet
from ood_sampler.samplers.hypersphere import HypersphereSampler
from ood_sampler.store.sets import InMemory

MakeSet = Callable[..., InvertedSet]
Draw = Callable[..., Tensor]


def of(rows: Tensor, *shape: int, like: InvertedSet) -> InvertedSet:
    latents = InMemory(rows.float().reshape(-1, *shape))
    return InvertedSet(latents, latents, like.schedule, like.step)


def rows(inverted: InvertedSet) -> Tensor:
    return inverted.latents.take(range(len(inverted.latents))).double().flatten(1)


def units(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def logarithm(m: Tensor, u: Tensor) -> Tensor:
    """Tangent vectors at m that lead to the points u."""
    angle = 2 * torch.asin((u - m).norm(dim=1, keepdim=True) / 2)
    across = u - (u @ m)[:, None] * m
    return angle * across / across.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("cluster", ["tangent", "vmf"])
def test_norms_are_those_of_members(cluster: Any, make_set: MakeSet, draw: Draw) -> None:  # noqa: ANN401
    inverted, n = make_set(5, 3, 2, 2), 1000
    norms = rows(inverted).norm(dim=1)
    distance, whose = torch.cdist(
        draw(HypersphereSampler(cluster), inverted, n).norm(dim=1)[:, None], norms[:, None]
    ).min(dim=1)
    assert float(distance.max()) < 1e-4
    counts = torch.bincount(whose, minlength=5) / n
    assert (counts - 0.2).abs().max() < 5 * (0.16 / n) ** 0.5


@pytest.mark.parametrize("n", [5, 150])
def test_tangent_draws_have_the_moments_of_the_set_in_the_tangent_space(
    n: int, make_set: MakeSet, draw: Draw, check_moments: Callable[..., None]
) -> None:
    # 150 are more than one block; so near to the mean that none goes half around
    inverted = make_set(n, 1, 2, 2)
    near = of(inverted.latents.take(range(n)).flatten(1) + 15, 1, 2, 2, like=inverted)
    m = HypersphereSampler("tangent").fit(near)["mean"].double().flatten()
    members = logarithm(m, units(rows(near)))
    assert float(members.mean(0).norm()) < 1e-6
    draws = logarithm(m, units(draw(HypersphereSampler("tangent"), near, 4000)))
    check_moments(draws, torch.zeros(4), torch.cov(members.T))


def test_tangent_draws_keep_the_geometry_of_a_gaussian(make_gaussian: MakeSet, draw: Draw) -> None:
    # N(mu, s^2 I) in d dimensions: radius^2 about mu is s^2 d, cosine at the origin
    # |mu|^2 / (|mu|^2 + s^2 d), and two draws are sqrt(2) radii apart
    n, d, std, length = 300, 3072, 1.0, 40.0
    inverted = make_gaussian(n, 3, 32, 32, std=std, length=length)
    draws = draw(HypersphereSampler("tangent"), inverted, 64)
    squares = draws.square().sum(1)
    expected = length**2 + std**2 * d
    error = math.sqrt(2 * std**4 * d + 4 * std**2 * length**2) * math.sqrt(1 / n + 1 / 64)
    assert abs(float(squares.mean()) - expected) < 5 * error
    products = units(draws) @ units(draws).T
    pairs = products[torch.triu_indices(64, 64, offset=1).unbind()]
    # the mean angle is measured from the mean of the members: 1 / n more; the spread within the
    # span of n members is 1 / sqrt(n)
    angle = math.acos(length / math.sqrt(expected))
    spread = math.sin(angle) ** 2 / math.sqrt(n)
    assert abs(float(pairs.mean()) - length**2 / expected) < 5 * spread / 8
    mean = units(rows(inverted)).mean(0)
    along = units(draws) @ (mean / mean.norm())
    assert abs(float(along.acos().mean()) - angle) < 5 * angle / math.sqrt(2 * n * 64) + 2 / n


def test_a_set_on_a_circle_is_drawn_on_it(make_set: MakeSet, draw: Draw) -> None:
    angle = torch.tensor([-0.3, 0.1, 0.2, 0.6])
    data = 5 * torch.stack([angle.cos(), angle.sin(), 0 * angle, 0 * angle], dim=1)
    draws = draw(HypersphereSampler("tangent"), of(data, 1, 2, 2, like=make_set(2, 1, 2, 2)), 3000)
    assert float(draws[:, 2:].abs().max()) < 1e-5
    drawn = torch.atan2(draws[:, 1], draws[:, 0])
    std = float(angle.std())
    assert abs(float(drawn.mean()) - 0.15) < 5 * std / 3000**0.5
    assert abs(float(drawn.std()) / std - 1) < 5 / 6000**0.5


def kappa_of(u: Tensor) -> float:
    """Banerjee et al., 2005, eq. 4.4, at the mean cosine of two different members."""
    n, d = u.shape
    square = float((u @ u.T)[~torch.eye(n, dtype=torch.bool)].mean())
    return math.sqrt(square) * (d - square) / (1 - square)


def test_the_concentration_of_ten_members_is_not_too_high(
    make_gaussian: MakeSet, draw: Draw
) -> None:
    n, d, kappa = 10, 3072, 596.0
    start = make_gaussian(2, 3, 32, 32, std=1.0, length=10.0)
    law = HypersphereSampler("vmf")
    known = {**law.fit(start), "kappa": torch.tensor(kappa)}
    found, plain = [], []
    for seed in range(30):
        noise = SampleNoise(seed, range(n), stream=Stream.LATENT)
        members = law.draw(known, start, noise)
        found.append(float(law.fit(of(members, 3, 32, 32, like=start))["kappa"]))
        square = float(units(members.double().flatten(1)).mean(0).square().sum())
        plain.append(math.sqrt(square) * (d - square) / (1 - square))
    error = 5 * float(torch.tensor(found).std()) / math.sqrt(30)
    assert error < 80
    assert sum(found) / 30 == pytest.approx(kappa, abs=error)
    # what the length of the mean alone would give
    assert sum(plain) / 30 == pytest.approx(1294, rel=0.03)


def test_directions_without_a_cluster_have_no_concentration(
    make_gaussian: MakeSet, draw: Draw
) -> None:
    u = torch.eye(3).repeat(2, 1) * torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -0.9])[:, None]
    u[5] = torch.tensor([0.3, 0.3, -1.0])
    inverted = of(u, 3, 1, 1, like=make_gaussian(2, 3, 1, 1, std=1.0, length=1.0))
    assert float(HypersphereSampler("vmf").fit(inverted)["kappa"]) == 0
    # uniform directions: the mean is 0, the second moment I / 3
    drawn, n = units(draw(HypersphereSampler("vmf"), inverted, 3000)), 3000
    assert float(drawn.mean(0).abs().max()) < 5 / math.sqrt(3 * n)
    moment = drawn.T @ drawn / n
    assert float((moment - torch.eye(3) / 3).abs().max()) < 5 * math.sqrt(4 / 45 / n)


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_vmf_cosines_have_their_density(spread: float, make_set: MakeSet, draw: Draw) -> None:
    # in three dimensions e^(kappa w) alone: the mean is coth kappa - 1 / kappa (Langevin)
    generator = torch.Generator().manual_seed(0)
    data = torch.tensor([1.0, 2.0, 2.0]) + spread * torch.randn(40, 3, generator=generator)
    inverted, n = of(data, 3, 1, 1, like=make_set(2, 1, 2, 2)), 3000
    sampler = HypersphereSampler("vmf")
    fitted = sampler.fit(inverted)
    kappa = kappa_of(units(data.double()))
    assert float(fitted["kappa"]) == pytest.approx(kappa, rel=1e-4)
    resultant = units(data.double()).mean(0)
    m = resultant / resultant.norm()
    torch.testing.assert_close(fitted["mean"].double().flatten(), m, rtol=0, atol=1e-6)
    u = units(draw(sampler, inverted, n))
    cosine = u @ m
    mean = 1 / math.tanh(kappa) - 1 / kappa
    second = 1 - 2 * mean / kappa
    for values, expected in ((cosine, mean), (cosine.square(), second)):
        assert abs(float(values.mean()) - expected) < 5 * float(values.std()) / math.sqrt(n)
    # alike in all directions across
    across = u - cosine[:, None] * m
    moment = across.T @ across / n
    expected = (1 - second) / 2 * (torch.eye(3) - torch.outer(m, m))
    assert (moment - expected).abs().max() < 5 * (1 - second) / math.sqrt(n)


def test_vmf_keeps_the_mean_cosine_in_many_dimensions(make_gaussian: MakeSet, draw: Draw) -> None:
    n, d, length = 400, 768, 14.0
    inverted = make_gaussian(50, 3, 16, 16, std=1.0, length=length)
    resultant = units(rows(inverted)).mean(0)
    # of two different members, as between two independent draws
    size = math.sqrt((50 * float(resultant.square().sum()) - 1) / 49)
    cosine = units(draw(HypersphereSampler("vmf"), inverted, n)) @ (resultant / resultant.norm())
    # kappa is that at which the mean cosine is the length of the expectation, up to O(1 / d)
    assert abs(float(cosine.mean()) - size) < 5 / math.sqrt(n * d) + 1 / d
    # the variance is 1 - A^2 - (d - 1) A / kappa
    kappa = size * (d - size**2) / (1 - size**2)
    variance = 1 - size**2 - (d - 1) * size / kappa
    assert float(cosine.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / n))


@pytest.mark.parametrize("cluster", ["tangent", "vmf"])
def test_equal_latents_give_themselves(cluster: Any, make_set: MakeSet, draw: Draw) -> None:  # noqa: ANN401
    one = rows(make_set(1, 1, 2, 2)).float()
    inverted = of(one.expand(4, 4), 1, 2, 2, like=make_set(1, 1, 2, 2))
    draws = draw(HypersphereSampler(cluster), inverted, 5)
    torch.testing.assert_close(draws, one.double().expand(5, 4), rtol=0, atol=1e-4)


@pytest.mark.parametrize("cluster", ["tangent", "vmf"])
def test_directions_that_cancel_are_refused(cluster: Any, make_set: MakeSet) -> None:  # noqa: ANN401
    one = rows(make_set(1, 1, 2, 2))
    inverted = of(torch.cat([one, -2 * one]), 1, 2, 2, like=make_set(1, 1, 2, 2))
    with pytest.raises(GaveUpError, match="mean direction, and theirs cancel: take sampler=cog"):
        HypersphereSampler(cluster).fit(inverted)


def test_bad_cluster() -> None:
    with pytest.raises(ValueError, match="cluster must be tangent or vmf, got 'ball'"):
        HypersphereSampler("ball")  # type: ignore[arg-type]
