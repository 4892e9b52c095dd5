from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ood_sampler.samplers.base import InvertedSet
from ood_sampler.samplers.standard import StandardSampler


def test_draws_are_standard_normal(
    make_set: Callable[..., InvertedSet],
    draw: Callable[..., Tensor],
    check_moments: Callable[..., None],
) -> None:
    draws = draw(StandardSampler(), make_set(2, 1, 2, 2, step=999), 10_000)
    check_moments(draws, torch.zeros(4), torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("step", [0, 998])
def test_only_the_last_step_is_pure_noise(make_set: Callable[..., InvertedSet], step: int) -> None:
    StandardSampler().check(make_set(2, 1, 2, 2, step=999))
    with pytest.raises(ValueError, match=rf"inversion\.step must be 999 .* got {step}:"):
        StandardSampler().check(make_set(2, 1, 2, 2, step=step))
