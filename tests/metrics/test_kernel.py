from itertools import permutations, product

import numpy as np
import pytest
import torch
from cleanfid import fid as clean_fid
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.kid import KernelInceptionDistance

from ood_sampler.metrics import feature_sets
from ood_sampler.metrics.kernel import (
    KernelDistance,
    KernelTerms,
    between_pairs,
    distance_terms,
    jackknife,
    kernel_distance,
    kernel_terms,
    within_pairs,
)


def normal(rows: int, columns: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def by_definition(x: Tensor, y: Tensor) -> float:
    def kernel(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    def within(z: Tensor) -> float:
        return float(
            np.mean([kernel(z[i], z[j]) for i, j in product(range(len(z)), repeat=2) if i != j])
        )

    between = float(np.mean([kernel(a, b) for a, b in product(x, y)]))
    return within(x) + within(y) - 2 * between


def test_two_points() -> None:
    a, b = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 0.0, -1.0])
    # a.a = 5, b.b = 10, a.b = 3; the kernel divides by D = 3 and adds 1.
    expected = (8 / 3) ** 3 + (13 / 3) ** 3 - 2 * 2**3
    distance = kernel_distance(a.expand(4, 3), b.expand(7, 3))
    assert distance.dtype == torch.float64
    assert float(distance) == pytest.approx(expected, rel=1e-12)


def interaction_within(x: Tensor) -> float:
    """Over distinct vectors: the mean square, less twice that of rows, and the squared mean."""
    k = ((x @ x.T / x.shape[1] + 1) ** 3).numpy()
    pairs = np.mean([k[i, j] ** 2 for i, j in permutations(range(len(x)), 2)])
    rows = np.mean([k[i, j] * k[i, h] for i, j, h in permutations(range(len(x)), 3)])
    squared = np.mean([k[i, j] * k[g, h] for i, j, g, h in permutations(range(len(x)), 4)])
    return float(pairs - 2 * rows + squared)


def interaction_between(x: Tensor, y: Tensor) -> float:
    k = ((x @ y.T / x.shape[1] + 1) ** 3).numpy()
    rows, columns = (list(permutations(range(len(z)), 2)) for z in (x, y))
    terms = [
        k[i, j] * (k[i, j] - k[i, h] - k[g, j] + k[g, h])
        for (i, g), (j, h) in product(rows, columns)
    ]
    return float(np.mean(terms))


@settings(deadline=None, derandomize=True, max_examples=15)
@given(n=st.integers(4, 7), m=st.integers(4, 7), block=st.integers(1, 50), seed=st.integers(0, 99))
def test_definition_and_leave_one_out(n: int, m: int, block: int, seed: int) -> None:
    x, y = normal(n, seed=seed), normal(m, seed=seed + 1) + 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_sets, "_BLOCK_ENTRIES", block)
        value, first_order, second_order = kernel_terms(x, y)
        assert jackknife(x, y) == kernel_terms(x, y).estimate
    assert float(value) == pytest.approx(by_definition(x, y), rel=1e-10)
    assert float(kernel_distance(x, y)) == pytest.approx(float(value), rel=1e-12)

    without_x = [by_definition(torch.cat([x[:i], x[i + 1 :]]), y) for i in range(n)]
    without_y = [by_definition(x, torch.cat([y[:j], y[j + 1 :]])) for j in range(m)]
    variance = (n - 1) * np.var(without_x) + (m - 1) * np.var(without_y)
    xx, yy, xy = interaction_within(x), interaction_within(y), interaction_between(x, y)
    # what the jackknife finds of pairs: the double and a little
    found = 4 * xx / (n * (n - 2)) + 4 * yy / (m * (m - 2)) + 8 * xy / (n * m)
    expected = 2 * xx / (n * (n - 1)) + 2 * yy / (m * (m - 1)) + 4 * xy / (n * m)
    assert float(second_order) == pytest.approx(expected, rel=1e-8)
    assert float(first_order) == pytest.approx(variance - found, rel=1e-8, abs=1e-10)


def test_a_first_order_below_zero_counts_as_none() -> None:
    value, first, second = torch.tensor([1.0, 0.09, 0.16], dtype=torch.float64)
    assert float(KernelTerms(value, first, second).estimate.standard_error) == pytest.approx(0.5)
    assert float(KernelTerms(value, -first, second).estimate.standard_error) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("value", "first", "second"),
    [(3.0, 0.3, 0.2), (0.5, 0.1, 0.2), (0.0, 0.0, 0.2), (-0.5, 0.1, 0.2), (-3.0, 0.1, 0.2)],
)
def test_bounds_lie_1_96_errors_at_the_bound_away(
    value: float, first: float, second: float
) -> None:
    terms = KernelTerms(*torch.tensor([value, first, second], dtype=torch.float64))
    slope = (first + second) / (max(value, 0) + second**0.5)
    found = terms.interval
    assert found.value == value
    for bound, sign in ((found.low, -1), (found.high, 1)):
        error = (second + slope * max(bound, 0)) ** 0.5
        assert bound == pytest.approx(value + sign * 1.959964 * error, rel=1e-9)


def test_far_from_zero_the_interval_is_that_of_the_standard_error() -> None:
    terms = KernelTerms(*torch.tensor([1e4, 30, 0.2], dtype=torch.float64))
    reach = 1.959964 * 30.2**0.5
    assert terms.interval == pytest.approx((1e4, 1e4 - reach, 1e4 + reach), abs=0.05)


def test_constant_sets_have_no_error() -> None:
    a, b = torch.tensor([1.0, 2.0, 0.0]).expand(4, 3), torch.tensor([3.0, 0.0, -1.0]).expand(7, 3)
    terms = kernel_terms(a, b)
    assert float(terms.estimate.standard_error) == pytest.approx(0, abs=1e-6)
    assert terms.interval == pytest.approx((float(terms.value),) * 3)
    same = kernel_terms(a, a)
    assert (same.estimate.standard_error, *same.interval) == pytest.approx((0,) * 4, abs=1e-5)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_unbiased(shift: float) -> None:
    # In one dimension (x y + 1)^3 compares the first three moments, with weights 3, 3 and 1.
    expected = 3 * shift**2 + 3 * (shift**2) ** 2 + (shift**3 + 3 * shift) ** 2
    values = torch.stack(
        [
            kernel_distance(normal(12, 1, seed), normal(8, 1, seed + 5000) + shift)
            for seed in range(1000)
        ]
    )
    assert float(values.mean()) == pytest.approx(
        expected, abs=5 * float(values.std()) / len(values) ** 0.5
    )


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.7])
def test_variance_is_that_over_draws(shift: float) -> None:
    # with equal distributions as well, where the jackknife as it is finds the double
    draws = [kernel_terms(normal(40, 3, s), normal(60, 3, s + 5000) + shift) for s in range(900)]
    values = torch.stack([draw.value for draw in draws])
    variances = torch.stack([draw.first_order + draw.second_order for draw in draws])
    squares = (values - values.mean()).square()
    tolerance = 5 * float((squares.var() + variances.var()).sqrt()) / len(draws) ** 0.5
    assert float(variances.mean()) == pytest.approx(float(values.var()), abs=tolerance)
    assert tolerance < 0.5 * float(values.var())


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.5])
def test_coverage(shift: float) -> None:
    # errors 25% off cover less than 92% or more than 98%
    intervals = []
    for seed in range(1000):
        x, y = normal(60, 24, seed) + shift, normal(120, 24, seed + 5000)
        intervals.append(
            distance_terms(within_pairs(x), within_pairs(y), between_pairs(x, y)).interval
        )
    value, low, high = torch.tensor(intervals, dtype=torch.float64).T
    truth = value.mean() if shift else 0
    assert 0.925 < float(((low <= truth) & (truth <= high)).double().mean()) < 0.975


def test_equal_sets() -> None:
    # Not 0 but the usual small negative value: only the distinct pairs are compared within a set.
    x = normal(9)
    kernel = (x @ x.T / 5 + 1) ** 3
    off_diagonal = (kernel.sum() - kernel.trace()) / 72
    expected = -2 / 9 * float(kernel.diagonal().mean() - off_diagonal)
    assert float(kernel_distance(x, x)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
def test_agrees_with_clean_fid_torch_fidelity_and_torchmetrics() -> None:
    x, y = normal(50, 8), normal(50, 8, seed=1) * 1.2 + 0.3
    value = float(kernel_distance(x, y))
    assert value == pytest.approx(
        clean_fid.kernel_distance(x.numpy(), y.numpy(), num_subsets=1), rel=1e-9
    )
    result = kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=50, verbose=False)
    assert value == pytest.approx(result["kernel_inception_distance_mean"], rel=1e-9)
    identity = nn.Identity()
    identity.num_features = 8
    other = KernelInceptionDistance(feature=identity, subsets=1, subset_size=50)
    other.update(x, real=True)
    other.update(y, real=False)
    assert value == pytest.approx(float(other.compute()[0]), rel=1e-9)


@settings(deadline=None, derandomize=True, max_examples=15)
@given(seed=st.integers(0, 1000), cut=st.integers(1, 19))
def test_ignores_order_and_batches(seed: int, cut: int) -> None:
    x, y = normal(20, seed=seed), normal(15, seed=seed + 1).float()
    metric = KernelDistance()
    metric.update(generated=y.flip(0))
    for batch in x[torch.randperm(20, generator=torch.Generator().manual_seed(seed))].split(
        [cut, 20 - cut]
    ):
        metric.update(held_out=batch)
    found, terms = metric.compute(), kernel_terms(y, x)
    value, error = (float(each) for each in terms.estimate)
    assert found["kid"] == pytest.approx(value, rel=1e-9, abs=1e-12)
    assert found["kid_standard_error"] == pytest.approx(error, rel=1e-9)
    bounds = [found["kid_low"], found["kid_high"]]
    assert bounds == pytest.approx(terms.interval[1:], rel=1e-9, abs=1e-12)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="y must hold at least 2 vectors, got 1"):
        kernel_distance(normal(5), normal(1))
    with pytest.raises(ValueError, match="y must hold at least 4 vectors, got 3"):
        jackknife(normal(5), normal(3))
    metric = KernelDistance()
    metric.update(held_out=normal(5))
    with pytest.raises(ValueError, match="generated must not be empty"):
        metric.compute()
