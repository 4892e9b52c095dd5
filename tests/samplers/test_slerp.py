from collections.abc import Callable
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


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="partner must be pair or gaussian, got 'triple'"):
        SlerpSampler("triple", 20)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="points must be >= 1, got 0"):
        SlerpSampler("pair", 0)
