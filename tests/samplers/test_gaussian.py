from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ood_sampler.samplers.base import InvertedSet
from ood_sampler.samplers.gaussian import GaussianSampler


def test_scalar_and_diagonal_covariance(
    make_set: Callable[..., InvertedSet],
    draw: Callable[..., Tensor],
    check_moments: Callable[..., None],
) -> None:
    inverted = make_set(8, 1, 2, 2)
    variance, mean = torch.var_mean(inverted.latents.take(range(8)).double().flatten(1), dim=0)
    check_moments(draw(GaussianSampler("diagonal"), inverted, 5000), mean, variance.diag())
    scalar = variance.mean().expand(4).diag()
    check_moments(draw(GaussianSampler("scalar"), inverted, 5000), mean, scalar)


def test_fit_keeps_one_deviation_a_coordinate(make_set: Callable[..., InvertedSet]) -> None:
    inverted = make_set(200, 3, 2, 2)
    std, mean = torch.std_mean(inverted.latents.take(range(200)), dim=0)
    fitted = GaussianSampler("diagonal").fit(inverted)
    torch.testing.assert_close(fitted["mean"], mean)
    torch.testing.assert_close(fitted["std"], std)
    fitted = GaussianSampler("scalar").fit(inverted)
    torch.testing.assert_close(fitted["std"], std.square().mean().sqrt().expand(3, 2, 2))


def test_unknown_covariance() -> None:
    with pytest.raises(ValueError, match="covariance must be scalar or diagonal, got 'full'"):
        GaussianSampler("full")  # type: ignore[arg-type]
