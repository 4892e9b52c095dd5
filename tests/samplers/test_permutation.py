from collections.abc import Callable

import torch
from torch import Tensor

from ood_sampler.samplers.base import InvertedSet
from ood_sampler.samplers.permutation import PermutationSampler

MakeSet = Callable[..., InvertedSet]
Draw = Callable[..., Tensor]


def test_draws_have_the_pixels_of_one_member_in_a_new_order(make_set: MakeSet, draw: Draw) -> None:
    inverted, n = make_set(3, 3, 4, 4), 60
    members = inverted.latents.take(range(3)).double().flatten(2)
    draws = draw(PermutationSampler(), inverted, n).reshape(n, 3, 16)
    # the order by the first channel sorts the others alike: channels stay together
    whose = []
    for z in draws:
        matches = [
            i
            for i, member in enumerate(members)
            if torch.equal(z[:, z[0].argsort()], member[:, member[0].argsort()])
        ]
        assert len(matches) == 1
        assert not torch.equal(z, members[matches[0]])
        whose += matches
    assert set(whose) == {0, 1, 2}


def test_every_place_has_the_moments_of_all_pixels(
    make_set: MakeSet, draw: Draw, check_moments: Callable[..., None]
) -> None:
    inverted = make_set(1, 2, 2, 3)
    z = inverted.latents.take([0]).double().reshape(2, 6)
    centred = z - z.mean(1, keepdim=True)
    channels = centred @ centred.T / 6
    # white: two places share nothing but that each pixel is used once
    places = torch.eye(6) * 6 / 5 - 1 / 5
    covariance = torch.kron(channels, places.double())
    mean = z.mean(1).repeat_interleave(6)
    check_moments(draw(PermutationSampler(), inverted, 4000), mean, covariance)
