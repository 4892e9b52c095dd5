import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from ood_sampler.samplers.base import InvertedSet
from ood_sampler.samplers.circle import CircleSampler
from ood_sampler.store.sets import InMemory

MakeSet = Callable[..., InvertedSet]
Draw = Callable[..., Tensor]


def rows(inverted: InvertedSet) -> Tensor:
    return inverted.latents.take(range(len(inverted.latents))).double().flatten(1)


def test_about_the_mean_the_moments_are_those_of_the_set(
    make_set: MakeSet, draw: Draw, check_moments: Callable[..., None]
) -> None:
    inverted = make_set(5, 1, 2, 2)
    data = rows(inverted)
    draws = draw(CircleSampler("mean"), inverted, 4000)
    check_moments(draws, data.mean(0), torch.cov(data.T, correction=0))


def test_a_gaussian_is_kept(make_gaussian: MakeSet, draw: Draw) -> None:
    # N(mu, s^2 I): each draw has the radius and the distances of a member
    std, n, d = 2.0, 200, 768
    inverted = make_gaussian(200, 3, 16, 16, std=std, length=300.0)
    data = rows(inverted)
    draws = draw(CircleSampler("mean"), inverted, n)
    radius = (draws - data.mean(0)).square().sum(1) / (d * std**2)
    # of chi squared / d, by the draw and by the two members that it has a mean of
    assert abs(float(radius.mean()) - 1) < 5 * math.sqrt(2 / d * 2 / n) + 1 / n
    # 199 directions vary
    error = float((draws.mean(0) - data.mean(0)).norm()) / (std * math.sqrt(d / n))
    assert abs(error - 1) < 5 / math.sqrt(2 * 199)


def test_about_the_origin_both_members_are_on_the_curve(make_set: MakeSet, draw: Draw) -> None:
    inverted, n = make_set(2, 3, 2, 2), 2000
    data = rows(inverted)
    draws = draw(CircleSampler("origin"), inverted, n)
    weights = torch.linalg.lstsq(data.T, draws.T).solution
    torch.testing.assert_close((data.T @ weights).T, draws, rtol=0, atol=1e-5)
    # a circle in the coordinates that make the two unit vectors: a^2 + b^2 + 2 a b cos = 1
    cosine = torch.nn.functional.cosine_similarity(data[0], data[1], dim=0)
    a, b = weights
    torch.testing.assert_close(
        a.square() + b.square() + 2 * a * b * cosine, torch.ones_like(a), rtol=0, atol=1e-5
    )
    # even in the angle: with z_1 at zero and z_2 at theta
    theta = cosine.acos()
    angle = torch.atan2(b * theta.sin(), a + b * theta.cos())
    counts = torch.histc(angle, bins=8, min=-math.pi, max=math.pi)
    assert (counts - n / 8).abs().max() < 5 * math.sqrt(n * 7 / 64)


def test_about_the_origin_the_second_moment_is_that_of_all_circles(
    make_set: MakeSet, draw: Draw, check_moments: Callable[..., None]
) -> None:
    inverted = make_set(4, 1, 2, 2)
    data = rows(inverted)
    expected = torch.zeros(4, 4, dtype=torch.float64)
    for i, j in combinations(range(4), 2):
        a, b = data[i], data[j]
        cosine = a @ b / (a.norm() * b.norm())
        across = torch.outer(a, b) + torch.outer(b, a)
        squares = torch.outer(a, a) + torch.outer(b, b)
        # of sin(theta + phi) and -sin(phi): 1/2, 1/2 and -cos(theta) / 2
        expected += (squares - cosine * across) / (2 * (1 - cosine**2)) / 6
    check_moments(draw(CircleSampler("origin"), inverted, 4000), torch.zeros(4), expected)


def test_norms_that_are_equal_are_kept(make_set: MakeSet, draw: Draw) -> None:
    inverted = make_set(6, 3, 2, 2)
    data = rows(inverted)
    unit = InMemory((7 * data / data.norm(dim=1, keepdim=True)).float().reshape(6, 3, 2, 2))
    on_sphere = InvertedSet(inverted.images, unit, inverted.schedule, inverted.step)
    draws = draw(CircleSampler("origin"), on_sphere, 100)
    torch.testing.assert_close(draws.norm(dim=1), torch.full((100,), 7.0).double())


@pytest.mark.parametrize("centre", ["origin", "mean"])
def test_equal_latents_give_themselves(centre: Any, make_set: MakeSet, draw: Draw) -> None:  # noqa: ANN401
    one = rows(make_set(1, 1, 2, 2)).float()
    same = InMemory(one.expand(4, 4).reshape(4, 1, 2, 2))
    inverted = InvertedSet(same, same, make_set(1, 1, 2, 2).schedule, 500)
    draws = draw(CircleSampler(centre), inverted, 20)
    torch.testing.assert_close(draws, one.double().expand(20, 4), rtol=0, atol=1e-5)


def test_bad_centre() -> None:
    with pytest.raises(ValueError, match="centre must be origin or mean, got 'middle'"):
        CircleSampler("middle")  # type: ignore[arg-type]
