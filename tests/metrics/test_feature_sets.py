import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ood_sampler.metrics import feature_sets
from ood_sampler.metrics.feature_sets import (
    check_sets,
    distance_blocks,
    distinct,
    kth_nearest,
    neighbour_distance,
    row_blocks,
    same,
    stack,
)


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def norms(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def test_distances_by_hand() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    y = torch.tensor([[0.0, 0.0], [3.0, 0.0], [6.0, 8.0]])
    ((rows, squared),) = distance_blocks(x, y)
    assert rows == slice(0, 2)
    assert squared.dtype == torch.float64
    assert squared.tolist() == [
        pytest.approx([0, 9, 100], abs=1e-9),
        pytest.approx([25, 16, 25], abs=1e-9),
    ]
    for k, expected in ((1, [0.0, 4.0]), (2, [3.0, 5.0]), (3, [10.0, 5.0])):
        assert kth_nearest(x, y, k=k).distance.tolist() == expected
    assert kth_nearest(x, y, k=1).indices.tolist() == [0, 1]


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    block=st.integers(1, 200),
    columns=st.sampled_from([1, 37, 500]),
    scale=st.floats(-6, 6),
    offset=st.floats(-6, 6),
    seed=st.integers(0, 99),
)
def test_distances_in_blocks(
    block: int, columns: int, scale: float, offset: float, seed: int
) -> None:
    x, y = (10**scale * normal(n, columns, seed + n) + 10**offset for n in (11, 17))
    y[3] = x[5]
    difference = x[:, None] - y
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_sets, "_BLOCK_ENTRIES", block)
        for rows, squared in distance_blocks(x, y):
            assert squared.numel() <= max(block, 17)
            lowered = difference[rows].square().sum(-1) - squared
            bound = 1e-12 * (norms(x[rows] - y.mean(0))[:, None] + norms(y - y.mean(0)))
            assert ((0.9 * bound <= lowered) & (lowered <= 1.1 * bound)).all()
        nearest = kth_nearest(x, y, k=1)
        third = kth_nearest(x, y, k=3)
    expected = difference.square().sum(-1).sqrt().sort(dim=1)
    torch.testing.assert_close(nearest.distance, expected.values[:, 0], rtol=1e-12, atol=0)
    torch.testing.assert_close(third.distance, expected.values[:, 2], rtol=1e-12, atol=0)
    assert nearest.distance[5] == 0
    assert third.indices.equal(expected.indices[:, 2])


def test_row_blocks_are_float64() -> None:
    x = normal(5, 2).float()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_sets, "_BLOCK_ENTRIES", 8)
        blocks = list(row_blocks(x, columns=4))
    assert [block.rows for block in blocks] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    for rows, values, room in blocks:
        assert values.dtype == room.dtype == torch.float64
        assert values.equal(x[rows].double())
        assert room.shape == (len(values), 4)
        assert room.data_ptr() == blocks[0].room.data_ptr()


def test_neighbour_distance_leaves_the_vector_itself_out() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert neighbour_distance(x, nearest_k=1).tolist() == [1.0, 1.0, 2.0, 4.0]
    assert neighbour_distance(x, nearest_k=3).tolist() == [7.0, 6.0, 4.0, 7.0]
    duplicates = torch.tensor([[2.0], [2.0], [5.0]])
    assert neighbour_distance(duplicates, nearest_k=1).tolist() == [0.0, 0.0, 3.0]


def test_neighbour_distance_needs_enough_vectors() -> None:
    with pytest.raises(ValueError, match="nearest_k=3 and 3 vectors"):
        neighbour_distance(normal(3, 2), nearest_k=3)
    with pytest.raises(ValueError, match="nearest_k must be >= 1, got 0"):
        neighbour_distance(normal(3, 2), nearest_k=0)


def test_sets_are_checked() -> None:
    good = normal(4, 3)
    check_sets(real=good, generated=good[:1])
    with pytest.raises(ValueError, match=r"generated must have shape \(N, D\), got \(4, 3, 1\)"):
        check_sets(real=good, generated=good[..., None])
    with pytest.raises(ValueError, match="generated must hold at least 2 vectors, got 1"):
        check_sets(rows=2, real=good, generated=good[:1])
    with pytest.raises(ValueError, match=r"generated must be as wide as real \(3\), got 2"):
        check_sets(real=good, generated=good[:, :2])
    check_sets(huge=torch.full((4, 3), 3e38))  # finite, its sum is not
    for bad in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(ValueError, match="generated must be finite"):
            check_sets(real=good, generated=good.where(good != good[2, 1], bad))


def test_stack_joins_batches() -> None:
    x = normal(5, 2)
    assert stack([x[:2], x[2:]], name="real").equal(x)
    assert stack(x, name="real").equal(x)  # as after a reduction over processes
    with pytest.raises(ValueError, match="real must not be empty"):
        stack([], name="real")


@settings(deadline=None, derandomize=True, max_examples=20)
@given(block=st.integers(1, 300), offset=st.floats(-100, 100), seed=st.integers(0, 99))
def test_vectors_that_differ_by_rounding_alone_are_one(
    block: int, offset: float, seed: int
) -> None:
    x = normal(12, 3, seed) + offset
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    repeated = torch.cat([x, x[:8] * (1 + 1e-7)])[order]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_sets, "_BLOCK_ENTRIES", block)
        kept = distinct(repeated)
    assert len(kept) == 12
    # one of each
    assert bool(same(kth_nearest(x, kept, k=1).distance, x).all())
    assert bool((kth_nearest(kept, x, k=1).indices.sort().values == torch.arange(12)).all())
    assert distinct(x).equal(x)
