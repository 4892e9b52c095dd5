import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prdc import compute_prdc
from torch import Tensor
from torch_fidelity.metric_prc import prc_features_to_metric

from ood_sampler.metrics import feature_sets
from ood_sampler.metrics.prdc import PRDC, ManifoldScores, precision_recall_density_coverage


def normal(rows: int, columns: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def as_floats(scores: ManifoldScores) -> dict[str, float]:
    return {name: float(value) for name, value in scores._asdict().items()}


def test_by_hand() -> None:
    real = torch.tensor([[0.0], [1.0], [3.0], [30.0], [31.0]])  # radii 1, 1, 2, 1, 1
    generated = torch.tensor([[0.5], [4.5], [10.0], [11.0]])  # radii 4, 4, 1, 1
    # 0.5 lies in the balls of 0 and 1, 4.5 in that of 3; balls of generated ones reach 0, 1 and 3.
    scores = precision_recall_density_coverage(real, generated, nearest_k=1)
    assert as_floats(scores) == {"precision": 0.5, "recall": 0.6, "density": 0.75, "coverage": 0.6}
    swapped = precision_recall_density_coverage(generated, real, nearest_k=1)
    # 0.5 holds 0, 1 and 3, 4.5 holds 1 and 3.
    assert as_floats(swapped) == {
        "precision": 0.6,
        "recall": 0.5,
        "density": 1.0,
        "coverage": 0.5,
    }


def test_recall_and_coverage_differ() -> None:
    # One generated outlier has a ball over everything: recall is fooled, coverage is not.
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    generated = torch.tensor([[-50.0], [50.0]])
    scores = as_floats(precision_recall_density_coverage(real, generated, nearest_k=1))
    assert scores == {"precision": 0.0, "recall": 1.0, "density": 0.0, "coverage": 0.0}


def test_balls_are_closed() -> None:
    real, generated = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    scores = as_floats(precision_recall_density_coverage(real, generated, nearest_k=1))
    assert scores == {"precision": 0.5, "recall": 0.5, "density": 0.5, "coverage": 0.5}


@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    n=st.integers(8, 40),
    m=st.integers(8, 40),
    nearest_k=st.integers(1, 6),
    spread=st.floats(0.2, 3),
    block=st.integers(1, 500),
    seed=st.integers(0, 1000),
)
def test_agrees_with_prdc(
    n: int, m: int, nearest_k: int, spread: float, block: int, seed: int
) -> None:
    real, generated = normal(n, seed=seed), normal(m, seed=seed + 1) * spread + 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_sets, "_BLOCK_ENTRIES", block)
        scores = precision_recall_density_coverage(real, generated, nearest_k=nearest_k)
    expected = compute_prdc(real.numpy(), generated.numpy(), nearest_k=nearest_k)
    assert as_floats(scores) == pytest.approx(expected, rel=1e-12, abs=0)


def test_agrees_with_torch_fidelity() -> None:
    real, generated = normal(60), normal(50, seed=1) * 1.3 + 0.4
    scores = precision_recall_density_coverage(real, generated, nearest_k=3)
    other = prc_features_to_metric(
        generated, real, prc_neighborhood=3, prc_batch_size=20, save_cpu_ram=True, verbose=False
    )
    assert float(scores.precision) == pytest.approx(other["precision"], rel=1e-6)
    assert float(scores.recall) == pytest.approx(other["recall"], rel=1e-6)
    assert scores.precision != scores.recall


@settings(deadline=None, derandomize=True, max_examples=25)
@given(seed=st.integers(0, 1000), nearest_k=st.integers(1, 5), duplicates=st.integers(0, 10))
def test_equal_sets(seed: int, nearest_k: int, duplicates: int) -> None:
    x = normal(12, 300, seed)
    x = torch.cat([x, x[:duplicates], x[:duplicates]])
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]
    scores = as_floats(precision_recall_density_coverage(x, shuffled, nearest_k=nearest_k))
    assert scores["precision"] == scores["recall"] == scores["coverage"] == 1
    assert scores["density"] >= (nearest_k + 1) / nearest_k


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 1000), cut=st.integers(1, 19))
def test_ignores_order_and_batches(seed: int, cut: int) -> None:
    real, generated = normal(20, seed=seed), normal(15, seed=seed + 1)
    metric = PRDC(nearest_k=2, seed=seed)
    metric.update(generated=generated.flip(0))
    for batch in real.roll(cut, 0).split([cut, 20 - cut]):
        metric.update(held_out=batch)
    expected = as_floats(precision_recall_density_coverage(real, generated, nearest_k=2))
    found = metric.compute()
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-12)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="nearest_k must be >= 1, got 0"):
        PRDC(nearest_k=0, seed=0)
    with pytest.raises(ValueError, match="nearest_k=5 and 5 vectors"):
        precision_recall_density_coverage(normal(9), normal(5), nearest_k=5)
    with pytest.raises(ValueError, match="nearest_k=5 and 4 vectors"):
        precision_recall_density_coverage(normal(4), normal(9), nearest_k=5)
