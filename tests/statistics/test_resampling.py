import pytest
import torch

from ood_sampler.statistics.resampling import Interval, beside_the_edge, draws, resampling_weights


def test_weights_count_the_draws() -> None:
    index = draws(30, replicates=50, seed=4)
    counts = torch.nn.functional.one_hot(index, 30).sum(dim=1)
    weights = resampling_weights(30, replicates=50, seed=4)
    assert weights.dtype == torch.float64
    assert torch.equal(weights, counts.double())
    assert torch.equal(resampling_weights(30, seed=4)[:50].sum(dim=1), torch.full((50,), 30.0))


@pytest.mark.parametrize("count", [1, 10, 300])
def test_beside_the_edge_the_bound_is_exact(count: int) -> None:
    none = beside_the_edge(Interval(0.0, 0.0, 0.0), count)
    assert (none.value, none.low) == (0, 0)
    assert (1 - none.high) ** count == pytest.approx(0.025)
    every = beside_the_edge(Interval(1.0, 1.0, 1.0), count, level=0.9)
    assert (every.value, every.high) == (1, 1)
    assert every.low**count == pytest.approx(0.05)


def test_other_intervals_stay() -> None:
    for interval in (Interval(0.5, 0.5, 0.5), Interval(0.0, 0.0, 0.9), Interval(1.0, 0.1, 1.0)):
        assert beside_the_edge(interval, 10) == interval
