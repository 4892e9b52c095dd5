import pytest
import torch
from torch import Tensor

from ood_sampler.metrics.probe import fit_probe, held_out_estimates, quality


def linear(n: int, d: int, *, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """White features, and labels of two of their coordinates with noise: R² of 1 / (1 + noise²)."""
    generator = torch.Generator().manual_seed(seed)
    x = 3 + torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = x[:, :2] + noise * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return x, y


@pytest.mark.parametrize(("n", "d"), [(50, 10), (40, 300)])
def test_a_probe_is_the_ridge_regression_of_scipy(n: int, d: int) -> None:
    x, y = linear(n, d, noise=0.5)
    probe = fit_probe(x, y)
    centred, target = x - x.mean(0), (y - y.mean(0)) / y.std(0)
    # some lambda of the grid solves the normal equations, and it has the least error of all
    unit = float(centred.square().sum()) / n
    errors, solutions = [], []
    for penalty in torch.logspace(-4, 2, 13, dtype=torch.float64) * unit * n:
        inverse = torch.linalg.inv(centred.T @ centred + penalty * torch.eye(d))
        hat = centred @ inverse @ centred.T + 1 / n
        left = (target - hat @ target) / (1 - hat.diagonal())[:, None]
        errors.append(left.square().mean(0))
        solutions.append(inverse @ centred.T @ target)
    best = torch.stack(errors).argmin(0)
    expected = torch.stack([solutions[int(best[k])][:, k] for k in range(2)], dim=1)
    torch.testing.assert_close(probe.weights, expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(probe(x.mean(0)[None]), torch.zeros(1, 2).double())


def test_the_quality_of_a_probe_is_that_of_the_labels() -> None:
    x, y = linear(2000, 5, noise=1.0)
    found = held_out_estimates(x, y)
    score = quality(found[:, 0], y[:, 0])
    assert not score.binary
    assert score.score.low < 0.5 < score.score.high
    assert abs(score.score.value - 0.5) < 0.05


def test_labels_that_features_do_not_know_have_no_quality() -> None:
    x, _ = linear(200, 20, noise=1.0)
    y = torch.randn(200, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert quality(held_out_estimates(x, y)[:, 0], y[:, 0]).score.high < 0.1


def test_a_label_of_two_values_is_judged_by_its_order() -> None:
    x, y = linear(200, 5, noise=0.0)
    labels = (y[:, :1] > 3).double() * 7
    found = quality(held_out_estimates(x, labels)[:, 0], labels[:, 0])
    assert found.binary
    assert found.score.value > 0.97


def test_a_label_with_one_value_says_nothing_of_a_probe() -> None:
    assert quality(torch.zeros(30), torch.full((30,), 2.0)).score == (0, 0, 0)


def test_few_images_are_refused() -> None:
    x, y = linear(19, 3, noise=1.0)
    with pytest.raises(ValueError, match="at least 20 labelled images, got 19"):
        fit_probe(x, y)
