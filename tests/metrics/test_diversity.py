import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ood_sampler.metrics.diversity import IntraClusterDiversity, diversity

REFERENCE = torch.tensor([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]])


def normal(rows: int, columns: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def test_by_hand() -> None:
    # A triangle of sides 3, 4, 5 about the first, a pair 2 apart about the second, one about the
    # third, which has no distance and does not count.
    samples = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0], [9.0, 0.0], [11.0, 0.0], [20.0, 1]])
    value, clusters = diversity(samples, REFERENCE)
    assert clusters.tolist() == [4.0, 2.0]
    assert float(value) == 3.0
    # every cluster counts the same, whatever its size
    assert float(diversity(samples[:5], REFERENCE).value) == 3.0


def test_copies_and_strangers() -> None:
    copies = REFERENCE[:1].repeat(5, 1)
    assert float(diversity(copies, REFERENCE).value) == 0
    alone = diversity(REFERENCE, REFERENCE)
    assert math.isnan(alone.value)
    assert len(alone.clusters) == 0


def test_is_the_mean_distance_of_independent_draws() -> None:
    # of a standard normal in one dimension: 2 / sqrt(pi)
    samples = normal(4000, 1)
    value = float(diversity(samples, torch.zeros(1, 1)).value)
    assert value == pytest.approx(2 / math.pi**0.5, abs=5 * 0.7 / 4000**0.5)


@settings(deadline=None, derandomize=True, max_examples=15)
@given(seed=st.integers(0, 1000), cut=st.integers(1, 19))
def test_ignores_order_and_batches(seed: int, cut: int) -> None:
    samples, reference = normal(20, seed=seed), normal(5, seed=seed + 1)
    metric = IntraClusterDiversity(seed=seed)
    metric.update(few_shot=reference.flip(0))
    for batch in samples.roll(cut, 0).split([cut, 20 - cut]):
        metric.update(new=batch)
    value, clusters = diversity(samples, reference)
    found = metric.compute()
    assert found["diversity"] == pytest.approx(float(value))
    assert found["diversity_clusters"] == len(clusters) > 1
    assert found["diversity_low"] < found["diversity"] < found["diversity_high"]  # type: ignore[operator]
