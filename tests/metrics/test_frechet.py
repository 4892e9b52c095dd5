from typing import cast

import pytest
import torch
from cleanfid import fid as clean_fid
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance

from ood_sampler.metrics.frechet import FrechetDistance, frechet_distance, infinitesimal_jackknife

WIDTH = 6


def normal(rows: int, columns: int = WIDTH, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def correlated(rows: int, seed: int) -> Tensor:
    return normal(rows, seed=seed) @ normal(WIDTH, seed=seed + 1) + normal(1, seed=seed + 2)


def measure(real: Tensor, generated: Tensor) -> float:
    metric = FrechetDistance()
    metric.update(generated=generated, held_out=real)
    return cast(float, metric.compute()["fid"])


def test_diagonal_gaussians_in_any_basis() -> None:
    mean_p, mean_q = normal(2)
    p, q = normal(2, seed=1).exp()
    p[0] = q[1] = 0
    expected = float((mean_p - mean_q).square().sum() + (p.sqrt() - q.sqrt()).square().sum())
    basis = torch.linalg.qr(normal(WIDTH, seed=2)).Q
    distance = frechet_distance(
        basis @ mean_p, basis @ p.diag() @ basis.T, basis @ mean_q, basis @ q.diag() @ basis.T
    )
    assert distance.dtype == torch.float64
    assert float(distance) == pytest.approx(expected, rel=1e-12)


def test_covariances_that_do_not_commute() -> None:
    p = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    q = torch.tensor([[1.0, -0.75], [-0.75, 3.0]])
    # In two dimensions tr sqrt(A) = sqrt(tr A + 2 sqrt(det A)).
    product = (p @ q).double()
    root = (product.trace() + 2 * product.det().sqrt()).sqrt()
    zero = torch.zeros(2)
    expected = float(p.trace() + q.trace() - 2 * root)
    assert float(frechet_distance(zero, p, zero, q)) == pytest.approx(expected, rel=1e-12)


def test_singular_covariances() -> None:
    a, b = normal(2, 50)
    zero = torch.zeros(50)
    expected = float(a @ a + b @ b - 2 * (a @ b).abs())
    distance = frechet_distance(zero, torch.outer(a, a), zero, torch.outer(b, b))
    assert float(distance) == pytest.approx(expected, rel=1e-12)
    # Against a full covariance, where the rounding of 49 zero eigenvalues must not add up.
    distance = frechet_distance(zero, torch.outer(a, a), zero, 9 * torch.eye(50))
    expected = float(a @ a + 450 - 2 * 3 * a.norm())
    assert float(distance) == pytest.approx(expected, rel=1e-12)
    few = normal(5, 50, seed=1)
    assert measure(few, few) < 1e-11 * float(few.square().sum())
    constant = torch.ones(4, 50, dtype=torch.float64)
    assert measure(constant, constant + 2) == pytest.approx(200)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_shifted_set(seed: int) -> None:
    x, shift = correlated(30, seed), normal(1, seed=seed + 3)
    assert measure(x, x) == pytest.approx(0, abs=1e-11 * float(x.square().sum()))
    assert measure(x, x + shift) == pytest.approx(float(shift.square().sum()), rel=1e-9)
    assert measure(x, 2 * x) == pytest.approx(
        float(x.mean(0).square().sum() + x.T.cov().trace()), rel=1e-9
    )


@pytest.mark.filterwarnings("ignore:The `disp` argument is deprecated:DeprecationWarning")
def test_agrees_with_clean_fid() -> None:
    x, y = correlated(40, 0), correlated(60, 9)
    arguments = [m.numpy() for m in (x.mean(0), x.T.cov(), y.mean(0), y.T.cov())]
    assert measure(x, y) == pytest.approx(clean_fid.frechet_distance(*arguments), rel=1e-9)


def test_agrees_with_torch_fidelity() -> None:
    x, y = correlated(40, 0), correlated(60, 9)
    statistics = [fid_features_to_statistics(features) for features in (x, y)]
    result = fid_statistics_to_metric(*statistics, verbose=False)
    assert measure(x, y) == pytest.approx(result["frechet_inception_distance"], rel=1e-9)


def test_agrees_with_torchmetrics() -> None:
    x, y = correlated(40, 0), correlated(60, 9)
    identity = nn.Identity()
    identity.num_features = WIDTH
    other = FrechetInceptionDistance(feature=identity).set_dtype(torch.float64)
    other.update(x, real=True)
    other.update(y, real=False)
    assert measure(x, y) == pytest.approx(float(other.compute()), rel=1e-9)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 1000), cut=st.integers(1, 29))
def test_ignores_order_and_batches_and_is_symmetric(seed: int, cut: int) -> None:
    x, y = correlated(30, seed), correlated(20, seed + 5)
    metric = FrechetDistance()
    metric.update(generated=y)
    for batch in x.flip(0).split([cut, 30 - cut]):
        metric.update(held_out=batch)
    assert metric.compute()["fid"] == pytest.approx(measure(x, y), rel=1e-9)
    assert measure(y, x) == pytest.approx(measure(x, y), rel=1e-9)
    metric.reset()
    metric.update(held_out=x, generated=y)
    assert metric.compute()["fid"] == measure(x, y)


def test_sums_float32_features_in_float64() -> None:
    x = (normal(40) + 1000).float()
    assert measure(x, x.double() + 1) == pytest.approx(WIDTH, rel=1e-6)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="y must be finite"):
        measure(torch.full((2, 3), torch.nan), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="x must hold at least 2 vectors"):
        measure(torch.zeros(2, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"y must be as wide as x \(2\), got 3"):
        measure(torch.zeros(2, 3), torch.zeros(2, 2))


def weighted_distance(x: Tensor, y: Tensor, weights: Tensor) -> float:
    """Distance with the vectors of `x` weighted, as of endless sets."""
    weights = weights / weights.sum()
    mean = weights @ x
    cov = (x - mean).T @ (weights[:, None] * (x - mean))
    return float(frechet_distance(mean, cov, y.mean(0), y.T.cov(correction=0)))


@pytest.mark.parametrize("rows", [40, 6])  # 6 in 8 dimensions: singular
def test_jackknife_is_made_of_derivatives(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 8, generator=generator, dtype=torch.float64) * 1.5 + 0.3
    y = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    step = 1e-5
    variance = 0.0
    for first, second in ((x, y), (y, x)):
        n = len(first)
        derivatives = []
        for i in range(n):
            change = step * (torch.eye(n, dtype=torch.float64)[i] - 1 / n)
            ends = [weighted_distance(first, second, 1 / n + s * change) for s in (1, -1)]
            derivatives.append((ends[0] - ends[1]) / (2 * step))
        variance += float(torch.tensor(derivatives).var()) / n
    estimate = infinitesimal_jackknife(x, y)
    # moments divided by n there and by n - 1 here
    assert float(estimate.standard_error) == pytest.approx(variance**0.5, rel=1.5 / (rows - 1))
    assert float(estimate.value) == pytest.approx(
        float(frechet_distance(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())), rel=1e-9
    )


def power(matrix: Tensor, exponent: float) -> Tensor:
    """Of a symmetric matrix, 0 where it is singular."""
    values, vectors = torch.linalg.eigh(matrix)
    powers = torch.where(values > 1e-12 * values[-1], values, torch.inf if exponent < 0 else 0.0)
    return vectors * powers**exponent @ vectors.T


@pytest.mark.parametrize("rows", [40, 6])  # through factors, and at once
def test_jackknife_by_matrices(rows: int) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(rows, 8, generator=generator, dtype=torch.float64) * 1.5 + 1
    y = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    variance = 0.0
    for first, second in ((x, y), (y, x)):
        root, inverse = (power(first.T.cov(), exponent) for exponent in (0.5, -0.5))
        carry = inverse @ power(root @ second.T.cov() @ root, 0.5) @ inverse
        centred = first - first.mean(0)
        moved = 2 * centred @ (first.mean(0) - second.mean(0))
        influence = moved + torch.linalg.vecdot(centred, centred - centred @ carry)
        variance += float(influence.var()) / len(first)
    found = infinitesimal_jackknife(x, y).standard_error
    assert float(found) == pytest.approx(variance**0.5, rel=1e-6)


def test_jackknife_is_the_spread_over_draws() -> None:
    generator = torch.Generator().manual_seed(1)
    estimates = []
    for _ in range(60):
        x = torch.randn(150, 5, generator=generator, dtype=torch.float64) * 1.4 + 0.2
        y = torch.randn(200, 5, generator=generator, dtype=torch.float64)
        estimates.append([float(value) for value in infinitesimal_jackknife(x, y)])
    values, errors = torch.tensor(estimates).T
    # the spread of 60 is known to 1 / sqrt(120) of it
    assert float(errors.mean()) == pytest.approx(float(values.std()), rel=5 / 120**0.5)
