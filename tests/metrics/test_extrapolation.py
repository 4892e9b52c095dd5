import pytest
import torch
from torch import Tensor

from ood_sampler.metrics.extrapolation import VECTORS_A_FEATURE, FrechetLimit, frechet_limit
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


@pytest.mark.parametrize("truth", [0.0, TRUTH])
def test_the_law_holds_for_the_smallest_sets(truth: float) -> None:
    # beside it, sets of as many vectors as features would have a limit of 5 and more
    shift, scale = (SHIFT, SCALE) if truth else (0.0, 1.0)
    rows = VECTORS_A_FEATURE * WIDTH
    limits = [
        frechet_limit(shift + scale * normal(rows, 2 * s), normal(rows, 2 * s + 1), seed=s)
        for s in range(12)
    ]
    held = sum(abs(float(value) - truth) < 1.96 * float(error) for value, error in limits)
    # fewer have a chance of 0.002 if it is 0.95 each
    assert held >= 9
    values = torch.stack([value for value, _ in limits])
    error = float(values.std()) / 12**0.5
    assert float(values.mean()) == pytest.approx(truth, abs=3 * error)


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
        metric.update(generated=batch)
    metric.update(held_out=y.roll(9, 0))
    expected = frechet_limit(x, y, seed=1)
    found = metric.compute()
    assert found["fid_infinity"] == pytest.approx(float(expected.value))
    half = 1.96 * float(expected.standard_error)
    assert found["fid_infinity_high"] == pytest.approx(float(expected.value) + half, rel=1e-4)
    assert abs(float(frechet_limit(x, y, seed=2).value - expected.value)) > 1e-3


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="points must be >= 3, got 2"):
        frechet_limit(normal(128, 0), normal(128, 1), points=2)
    enough, few = normal(4 * WIDTH, 0), normal(4 * WIDTH - 1, 1)
    with pytest.raises(ValueError, match="y must hold at least 128 vectors, got 127"):
        frechet_limit(enough, few)
    with pytest.raises(ValueError, match="x must hold at least 128 vectors, got 127"):
        frechet_limit(few, enough)
