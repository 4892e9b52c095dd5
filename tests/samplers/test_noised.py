from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.samplers.base import InvertedSet
from ood_sampler.samplers.noised import NoisedSampler


@pytest.mark.parametrize("step", [0, 1, 2])
def test_marginals_are_those_of_forward_noising(
    step: int,
    make_set: Callable[..., InvertedSet],
    draw: Callable[..., Tensor],
    check_moments: Callable[..., None],
) -> None:
    # in steps so large that neighbours can be told apart
    schedule = Schedule(torch.tensor([0.2, 0.5, 0.3]))
    inverted = replace(make_set(5, 1, 2, 2), schedule=schedule, step=step)
    images = inverted.images.take(range(5)).double().flatten(1)
    alpha, sigma = (float(scale) for scale in inverted.schedule(torch.tensor(step)))
    covariance = alpha**2 * torch.cov(images.T, correction=0) + sigma**2 * torch.eye(4)
    draws = draw(NoisedSampler(), inverted, 10_000)
    check_moments(draws, alpha * images.mean(0), covariance)


def test_pictures_are_chosen_evenly_and_kept_at_little_noise(
    make_set: Callable[..., InvertedSet], draw: Callable[..., Tensor]
) -> None:
    inverted, n = make_set(5, 3, 4, 4, step=0), 4000
    images = inverted.images.take(range(5)).double().flatten(1)
    sigma = float(inverted.schedule(torch.tensor(0))[1])
    distance, nearest = torch.cdist(draw(NoisedSampler(), inverted, n), images).min(dim=1)
    assert float(distance.max()) < 2 * sigma * 48**0.5
    counts = torch.bincount(nearest, minlength=5) / n
    assert (counts - 1 / 5).abs().max() < 5 * (1 / 5 * 4 / 5 / n) ** 0.5
