from itertools import combinations
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ood_sampler.metrics import blend
from ood_sampler.metrics.blend import BlendScore, best_pair, correlation, forward_selection
from ood_sampler.statistics.intervals import mean_interval, with_bounds


def normal(rows: int, columns: int = 30, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def r_squared(sample: Tensor, chosen: Tensor) -> float:
    """Share of variance explained by least squares with an intercept."""
    y = sample.double().numpy()
    design = np.column_stack([np.ones(len(y)), chosen.double().numpy().T])
    residual = y - design @ np.linalg.lstsq(design, y)[0]
    return float(1 - residual @ residual / ((y - y.mean()) @ (y - y.mean())))


@settings(deadline=None, derandomize=True, max_examples=20)
@given(rows=st.integers(1, 9), columns=st.integers(1, 40), seed=st.integers(0, 1000))
def test_is_the_best_regression_over_all_pairs(rows: int, columns: int, seed: int) -> None:
    samples, reference = normal(5, seed=seed) + 3, normal(7, seed=seed + 1) - 2
    samples[0] += reference[0] + reference[6]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blend, "_ROWS", rows)
        patch.setattr(blend, "_COLUMNS", columns)
        fit = best_pair(samples, reference)
    for sample, value, indices in zip(samples, *fit, strict=True):
        every = {
            pair: r_squared(sample, reference[list(pair)]) for pair in combinations(range(7), 2)
        }
        best = max(every, key=lambda pair: every[pair])
        assert tuple(sorted(indices.tolist())) == best
        assert float(value) == pytest.approx(every[best], rel=1e-10)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(rows=st.integers(1, 9), size=st.integers(2, 7), seed=st.integers(0, 1000))
def test_forward_selection_is_greedy_least_squares(rows: int, size: int, seed: int) -> None:
    samples, reference = normal(4, seed=seed) + 1, normal(7, seed=seed + 1)
    pair = best_pair(samples, reference)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blend, "_ROWS", rows)
        fit = forward_selection(samples, reference, pair.indices, size=size)
    for sample, start, value, indices in zip(samples, pair.indices, *fit, strict=True):
        chosen = start.tolist()
        while len(chosen) < size:
            left = [i for i in range(7) if i not in chosen]
            chosen.append(max(left, key=lambda i: r_squared(sample, reference[[*chosen, i]])))
        assert indices.tolist() == chosen
        assert float(value) == pytest.approx(r_squared(sample, reference[chosen]), rel=1e-9)


def test_exact_blends_score_one() -> None:
    reference = normal(6)
    weights = torch.zeros(3, 6, dtype=torch.float64)
    weights[0, [1, 4]] = torch.tensor([0.5, 0.5], dtype=torch.float64)
    weights[1, [0, 2]] = torch.tensor([2.0, -3.0], dtype=torch.float64)
    weights[2, [0, 1, 2, 3, 5]] = torch.tensor([1.0, 2.0, -3.0, 1.5, 4.0], dtype=torch.float64)
    samples = weights @ reference + torch.tensor([[0.0], [7.0], [-1.0]])
    pair = best_pair(samples, reference)
    assert pair.r_squared[:2].tolist() == pytest.approx([1, 1], abs=1e-12)
    assert pair.indices[:2].sort().values.tolist() == [[1, 4], [0, 2]]
    assert pair.r_squared[2] < 0.95
    five = forward_selection(samples, reference, pair.indices, size=5)
    assert float(five.r_squared[2]) == pytest.approx(1, abs=1e-12)
    assert (five.r_squared <= 1).all()


def test_orthogonal_samples_score_zero() -> None:
    basis = torch.linalg.qr(torch.cat([torch.ones(1, 30).double(), normal(9)]).T).Q.T
    reference, sample = basis[1:8], basis[8:9]
    pair = best_pair(sample + 5, reference)
    assert float(pair.r_squared) == pytest.approx(0, abs=1e-12)
    # Two of three orthogonal parts of equal weight, then all of them.
    mixed = (basis[1] + basis[2] + basis[3])[None]
    pair = best_pair(mixed, reference)
    assert float(pair.r_squared) == pytest.approx(2 / 3)
    assert float(forward_selection(mixed, reference, pair.indices, size=3).r_squared) == (
        pytest.approx(1)
    )


def test_correlation_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [0.1, 0.1, 0.1], [0.0, 0.0, 0.0]])
    y = torch.tensor([[2.0, 4.0, 6.0], [1.0, 0.0, -1.0], [1.0, 0.0, 1.0]])
    expected = torch.tensor([[1.0, -1, 0], [0, 0, 0], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(correlation(x, y), expected)
    assert correlation(x, y)[1:].equal(expected[1:])


@settings(deadline=None, derandomize=True, max_examples=30)
@given(exponent=st.floats(-16, -1), scale=st.floats(-3, 3), seed=st.integers(0, 1000))
def test_near_parallel_vectors(exponent: float, scale: float, seed: int) -> None:
    samples, x, noise = normal(3, seed=seed), normal(1, seed=seed + 1), normal(1, seed=seed + 2)
    samples[0] = x[0] * 2 + 1
    reference = torch.cat([x, scale * x + 10**exponent * noise, x])
    pair = best_pair(samples, reference)
    six = forward_selection(samples, reference, pair.indices, size=6)
    for fit in (pair, six):
        assert fit.r_squared.isfinite().all()
        assert (fit.r_squared <= 1).all()
    assert float(pair.r_squared[0]) == pytest.approx(1, abs=1e-12)
    alone = torch.tensor([r_squared(sample, x) for sample in samples], dtype=torch.float64)
    both = torch.tensor(
        [r_squared(sample, torch.cat([x, noise])) for sample in samples], dtype=torch.float64
    )
    assert (pair.r_squared > alone - 1e-12).all()
    assert (pair.r_squared < both + 1e-5).all()


def test_parallel_vectors_make_a_pair_of_two() -> None:
    x, samples = normal(1), normal(5, seed=1)
    pair = best_pair(samples, torch.cat([x, 2 * x + 1]))
    assert pair.indices.sort().values.tolist() == [[0, 1]] * 5
    expected = [r_squared(sample, x) for sample in samples]
    assert pair.r_squared.tolist() == pytest.approx(expected, rel=1e-9)


def test_constant_vectors() -> None:
    # Their means are rounded, so that some are not quite constant about them.
    greys = torch.linspace(-1, 1, 41, dtype=torch.float64)[:, None].expand(-1, 30)
    assert ((greys - greys.mean(1, keepdim=True)) != 0).any()
    assert (correlation(greys, normal(2)) == 0).all()
    assert (correlation(normal(2), greys) == 0).all()
    x = normal(2)
    constant = torch.full((1, 30), 0.1, dtype=torch.float64)
    samples = torch.cat([x[:1], constant, torch.zeros(1, 30)])
    pair = best_pair(samples, torch.cat([constant, x[:1], constant]))
    assert pair.r_squared.tolist() == pytest.approx([1, 0, 0])
    five = forward_selection(
        samples, torch.cat([constant, constant]), pair.indices[:, :1] % 2, size=5
    )
    assert five.r_squared.tolist() == [0, 0, 0]
    assert five.indices.sort().values.tolist() == [[0, 1]] * 3


@settings(deadline=None, derandomize=True, max_examples=15)
@given(seed=st.integers(0, 1000), cut=st.integers(1, 11), gain=st.floats(0.1, 5))
def test_ignores_order_batches_and_contrast(seed: int, cut: int, gain: float) -> None:
    samples, reference = normal(12, 48, seed), normal(8, 48, seed + 1)
    metric = BlendScore(seed=seed)
    for batch in reference.flip(0).split([3, 5]):
        metric.update(few_shot=batch)
    for batch in (gain * samples - 2).split([cut, 12 - cut]):
        metric.update(new=batch)
    found = metric.compute()
    pair = best_pair(samples, reference)
    five = forward_selection(samples, reference, pair.indices, size=5)
    each = cast(Tensor, found["blend_pair_each"])
    torch.testing.assert_close(each, pair.r_squared, rtol=1e-9, atol=0)
    expected = with_bounds(
        {
            "blend_pair": mean_interval(pair.r_squared, seed=seed),
            "blend_five": mean_interval(five.r_squared, seed=seed),
        }
    )
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert (five.r_squared > pair.r_squared).all()


def test_float32_images_are_regressed_in_float64() -> None:
    reference = normal(4).float() * 1e-3 - 1
    sample = 0.25 * reference[:1].double() + 0.75 * reference[1:2].double()
    fit = best_pair(sample, reference)
    assert fit.r_squared.dtype == torch.float64
    assert float(fit.r_squared) == pytest.approx(1, abs=1e-9)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="reference must hold at least 2 vectors, got 1"):
        best_pair(normal(3), normal(1))
    with pytest.raises(ValueError, match=r"samples must be as wide as reference \(30\), got 5"):
        best_pair(normal(3, 5), normal(4))
    with pytest.raises(ValueError, match=r"size must be at least that of start \(2\), got 1"):
        forward_selection(normal(1), normal(4), torch.tensor([[0, 1]]), size=1)
