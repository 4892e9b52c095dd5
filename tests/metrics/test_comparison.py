import numpy as np
import pytest
import torch
from torch import Tensor

from ood_sampler.metrics.comparison import difference_terms, kernel_difference
from ood_sampler.metrics.kernel import between_pairs, jackknife, kernel_distance, within_pairs


def normal(rows: int, seed: int, columns: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def by_distances(first: Tensor, second: Tensor, reference: Tensor) -> float:
    return float(kernel_distance(first, reference) - kernel_distance(second, reference))


def without(x: Tensor, i: int) -> Tensor:
    return torch.cat([x[:i], x[i + 1 :]])


def test_value_is_the_difference() -> None:
    first, second, held_out = 0.5 + normal(60, 0), normal(50, 1), normal(80, 2)
    found = kernel_difference(first, second, held_out)
    assert float(found.value) == pytest.approx(by_distances(first, second, held_out), rel=1e-10)
    assert 0 < float(found.standard_error) < float(found.value) / 1.96
    swapped = kernel_difference(second, first, held_out)
    assert float(swapped.value) == -float(found.value)
    assert float(swapped.standard_error) == pytest.approx(float(found.standard_error), rel=1e-12)
    shuffled = kernel_difference(first.flip(0), second.flip(0), held_out.flip(0))
    assert tuple(map(float, shuffled)) == pytest.approx(tuple(map(float, found)), rel=1e-9)


def test_variance_is_that_of_sets_that_leave_one_out() -> None:
    x, y, r = 0.4 + normal(7, 0), normal(9, 1), normal(8, 2)
    (n, p, m) = (len(x), len(y), len(r))
    jackknifed = (
        (n - 1) * np.var([by_distances(without(x, i), y, r) for i in range(n)])
        + (p - 1) * np.var([by_distances(x, without(y, i), r) for i in range(p)])
        + (m - 1) * np.var([by_distances(x, y, without(r, i)) for i in range(m)])
    )
    xx, yy, xr, yr = within_pairs(x), within_pairs(y), between_pairs(x, r), between_pairs(y, r)
    terms = difference_terms(xx, yy, xr, yr)
    second = float(xx.variance + yy.variance + 4 * xr.variance + 4 * yr.variance)
    # which subsets that leave one out find the double of, and a little
    excess = float(
        xx.variance * 2 * (n - 1) / (n - 2)
        + yy.variance * 2 * (p - 1) / (p - 2)
        + 8 * xr.variance
        + 8 * yr.variance
    )
    assert float(terms.second_order) == pytest.approx(second, rel=1e-12)
    assert float(terms.first_order) == pytest.approx(jackknifed - excess, rel=1e-9)
    variance = max(float(terms.first_order), 0) + second
    found = kernel_difference(x, y, r)
    assert float(found.standard_error) == pytest.approx(variance**0.5, rel=1e-9)


@pytest.mark.parametrize("shifts", [(0.0, 0.0), (0.15, 0.0), (0.5, 0.15), (0.5, 0.5)])
def test_coverage(shifts: tuple[float, float]) -> None:
    # errors 25% off cover less than 92% or more than 98%
    values, errors = torch.tensor(
        [
            kernel_difference(
                shifts[0] + normal(60, s, 24), shifts[1] + normal(60, s + 5000, 24), reference
            )
            for s in range(1000)
            for reference in [normal(120, s + 10000, 24)]
        ],
        dtype=torch.float64,
    ).T
    truth = 0 if shifts[0] == shifts[1] else values.mean()
    assert 0.925 < float(((values - truth).abs() <= 1.96 * errors).double().mean()) < 0.975


def test_the_held_out_part_is_shared() -> None:
    # Few held-out images are nearly all of the error of each, which both have in common.
    samples, held_out = normal(400, 0), normal(8, 1)
    found = kernel_difference(samples, samples + 1e-9, held_out)
    alone = float(jackknife(samples, held_out).standard_error)
    assert float(found.value) == pytest.approx(0, abs=1e-6)
    # two errors of their own would make one of 1.4 of them
    assert float(found.standard_error) < 0.4 * alone


def test_small_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="reference must hold at least 4 vectors, got 3"):
        kernel_difference(normal(5, 0), normal(5, 1), normal(3, 2))
