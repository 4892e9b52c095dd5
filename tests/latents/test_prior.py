import pytest
import torch
from scipy.stats import chi2

from ood_sampler.latents.prior import percentiles, place


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_percentiles_count_the_draws_below() -> None:
    draws = torch.tensor([3.0, 1.0, 2.0, 4.0])
    assert percentiles(torch.tensor([0.0, 2.5, 9.0]), draws).tolist() == [0, 0.5, 1]


def test_draws_of_the_prior_have_uniform_percentiles() -> None:
    scale = torch.tensor([5.0, 1.0, 0.1], dtype=torch.float64)
    placed = place(normal(4000, 3, seed=1) * scale + 2, normal(8000, 3) * scale + 2)
    assert placed.mahalanobis is not None
    for found in (placed.radius, placed.mahalanobis):
        # a uniform number has the mean 1/2 and the variance 1/12; draws have an error as well
        error = (1 / 12 * (1 / 4000 + 1 / 4000)) ** 0.5
        assert abs(float(found.mean()) - 0.5) < 5 * error
        assert abs(float(found.var()) - 1 / 12) < 0.005
    assert abs(float(placed.outside.double().mean()) - 0.01) < 5 * (0.01 * 2 / 4000) ** 0.5


def test_distances_follow_the_covariance() -> None:
    scale = torch.tensor([10.0, 1.0], dtype=torch.float64)
    draws = normal(20_000, 2) * scale
    # as far from the mean; along the short axis this is ten times the deviation
    placed = place(torch.tensor([[10.0, 0.0], [0.0, 10.0]], dtype=torch.float64), draws)
    assert placed.mahalanobis is not None
    assert float(placed.mahalanobis[0]) == pytest.approx(chi2.cdf(1, 2), abs=0.02)
    assert float(placed.mahalanobis[1]) == 1
    assert float(placed.radius[0]) == pytest.approx(float(placed.radius[1]), abs=0.01)


def test_the_ratio_is_that_to_the_median_radius() -> None:
    draws = normal(20_000, 4)
    median = chi2.median(4) ** 0.5
    codes = torch.eye(4, dtype=torch.float64)[:2] * 3
    assert place(codes, draws).ratio.tolist() == pytest.approx([3 / median] * 2, rel=0.02)


def test_codes_of_several_layers_are_averaged() -> None:
    draws, codes = normal(200, 3), normal(5, 2, 3, seed=2)
    found, layers = place(codes, draws), [place(codes[:, k], draws) for k in (0, 1)]
    torch.testing.assert_close(found.radius, (layers[0].radius + layers[1].radius) / 2)
    torch.testing.assert_close(found.ratio, (layers[0].ratio + layers[1].ratio) / 2)


def test_too_few_draws_give_no_mahalanobis_distance() -> None:
    assert place(normal(2, 30), normal(100, 30)).mahalanobis is None
