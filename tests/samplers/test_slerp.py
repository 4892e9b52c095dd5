from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import Tensor

from ood_sampler.latents.geometry import slerp
from ood_sampler.samplers.base import InvertedSet
from ood_sampler.samplers.slerp import SlerpSampler

MakeSet = Callable[..., InvertedSet]
Draw = Callable[..., Tensor]


@pytest.mark.parametrize("points", [1, 4])
def test_pairs_are_met_evenly_at_interior_points(
    points: int, make_set: MakeSet, draw: Draw
) -> None:
    inverted, n = make_set(4, 3, 2, 2), 3000
    pairs = torch.tensor(list(combinations(range(4), 2)))
    z_1, z_2 = inverted.latents.take(range(4))[pairs].repeat_interleave(points, dim=0).unbind(1)
    u = (torch.arange(1, points + 1) / (points + 1)).repeat(len(pairs))
    places = slerp(z_1, z_2, u).flatten(1).double()
    draws = draw(SlerpSampler("pair", points), inverted, n)
    distance, nearest = torch.cdist(draws, places).min(dim=1)
    assert float(distance.max()) < 1e-5
    share = 1 / len(places)
    counts = torch.bincount(nearest, minlength=len(places)) / n
    assert (counts - share).abs().max() < 5 * (share * (1 - share) / n) ** 0.5


def test_gaussian_partner_has_the_moments_of_the_set(
    make_set: MakeSet, draw: Draw, check_moments: Callable[..., None]
) -> None:
    # So far from the origin that an arc is straight: (1 - u) z_1 + u z_2, with z_2 of its own
    inverted, points = make_set(5, 1, 2, 2, mean=3000.0), 4
    data = inverted.latents.take(range(5)).double().flatten(1)
    squares = sum((j / (points + 1)) ** 2 for j in range(1, points + 1)) / points
    covariance = torch.cov(data.T, correction=0) + data.var(0).diag()
    draws = draw(SlerpSampler("gaussian", points), inverted, 5000)
    check_moments(draws, data.mean(0), squares * covariance)


def test_gaussian_partner_is_fitted_by_coordinate(make_set: MakeSet) -> None:
    inverted = make_set(50, 3, 2, 2)
    std, mean = torch.std_mean(inverted.latents.take(range(50)), dim=0)
    fitted = SlerpSampler("gaussian", 4).fit(inverted)
    torch.testing.assert_close(fitted["mean"], mean)
    torch.testing.assert_close(fitted["std"], std)
    assert SlerpSampler("pair", 4).fit(inverted) == {}


def test_in_domain_partner_has_the_scalar_gaussian_of_the_own_domain(
    make_set: MakeSet, draw: Draw, check_moments: Callable[..., None]
) -> None:
    # so far from the origin that an arc is straight: (1 - u) z_1 + u z_2, z_2 of the own domain
    points, few = 4, make_set(5, 1, 2, 2, mean=3000.0)
    own = make_set(40, 1, 2, 2, mean=3001.0, seed=1).latents
    inverted = replace(few, in_domain=own)
    sampler = SlerpSampler("in_domain", points)
    data, others = (x.take(range(len(x))).double().flatten(1) for x in (few.latents, own))
    variance = others.var(0).mean()
    fitted = sampler.fit(inverted)
    torch.testing.assert_close(fitted["mean"].double().flatten(), others.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        fitted["std"].double().flatten(), variance.sqrt().expand(4), rtol=1e-5, atol=0
    )
    u = torch.arange(1, points + 1).double() / (points + 1)
    apart = others.mean(0) - data.mean(0)
    # the mean of the position is a half; its variance moves along the line between the means
    covariance = (
        (1 - u).square().mean() * torch.cov(data.T, correction=0)
        + u.square().mean() * variance * torch.eye(4)
        + u.var(correction=0) * torch.outer(apart, apart)
    )
    check_moments(draw(sampler, inverted, 5000), data.mean(0) + apart / 2, covariance)


def test_in_domain_latents_are_asked_for_and_needed(make_set: MakeSet) -> None:
    assert SlerpSampler("in_domain", 20).in_domain_images == 256
    assert SlerpSampler("gaussian", 20).in_domain_images == 0
    assert not SlerpSampler("in_domain", 20).mixes
    with pytest.raises(ValueError, match="needs latents of the model's own domain, got none"):
        SlerpSampler("in_domain", 20).fit(make_set(5, 1, 2, 2))


def test_bad_arguments() -> None:
    with pytest.raises(
        ValueError, match="partner must be pair, gaussian or in_domain, got 'triple'"
    ):
        SlerpSampler("triple", 20)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="points must be >= 1, got 0"):
        SlerpSampler("pair", 0)
