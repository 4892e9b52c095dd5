import pytest
import torch
from torch import Tensor

from ood_sampler.metrics.extrapolation import FrechetLimit, frechet_limit
from ood_sampler.metrics.frechet import infinitesimal_jackknife

WIDTH, SHIFT, SCALE = 32, 0.2, 1.3
TRUTH = WIDTH * (SHIFT**2 + (SCALE - 1) ** 2)


def normal(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64)


def pair(seed: int) -> tuple[Tensor, Tensor]:
    return SHIFT + SCALE * normal(300, 2 * seed), normal(600, 2 * seed + 1)


def test_limit_is_nearer_the_truth_than_the_distance() -> None:
    found = [
        (float(frechet_limit(x, y, seed=seed).value), float(infinitesimal_jackknife(x, y).value))
        for seed in range(8)
        for x, y in [pair(seed)]
    ]
    limits, distances = torch.tensor(found, dtype=torch.float64).T
    assert (distances > TRUTH + 1).all()
    assert ((limits - TRUTH).abs() < (distances - TRUTH).abs()).all()
    # biased by 1.6 at these sizes, of which the fit leaves less than a tenth
    error = float(limits.std()) / 8**0.5
    assert float(limits.mean()) == pytest.approx(TRUTH, abs=5 * error)


def test_limit_of_one_distribution_is_0_within_its_error() -> None:
    limit = frechet_limit(normal(300, 0), normal(600, 1))
    assert abs(float(limit.value)) < 2 * float(limit.standard_error)
    assert float(infinitesimal_jackknife(normal(300, 0), normal(600, 1)).value) > 1


def test_error_is_at_least_that_of_the_distance_and_of_the_limit() -> None:
    x, y = pair(0)
    whole = infinitesimal_jackknife(x, y)
    for seed in range(12):  # the fit alone has sometimes less
        assert frechet_limit(x, y, seed=seed).standard_error > whole.standard_error
    limit = frechet_limit(x, y)
    values = torch.stack([frechet_limit(*pair(seed)).value for seed in range(12)])
    assert float(values.std()) == pytest.approx(float(limit.standard_error), rel=0.6)


def test_ignores_order_and_batches() -> None:
    x, y = pair(3)
    metric = FrechetLimit(seed=1)
    for batch in x.flip(0).split(77):
        metric.update(batch, real=False)
    metric.update(y.roll(9, 0), real=True)
    expected = frechet_limit(x, y, seed=1)
    torch.testing.assert_close(metric.compute().value, expected.value)
    torch.testing.assert_close(metric.compute().standard_error, expected.standard_error)
    assert abs(float(frechet_limit(x, y, seed=2).value - expected.value)) > 1e-3


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="points must be >= 3, got 2"):
        frechet_limit(normal(9, 0), normal(9, 1), points=2)
    with pytest.raises(ValueError, match="x must hold at least 4 vectors, got 3"):
        frechet_limit(normal(3, 0), normal(9, 1))
