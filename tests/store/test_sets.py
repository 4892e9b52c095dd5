import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ood_sampler.statistics.moments import mean_and_variance
from ood_sampler.store.artifacts import Items
from ood_sampler.store.sets import Empty, InMemory, Taken, TensorSet


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_interface_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        TensorSet()  # type: ignore[abstract]


def test_items_come_in_the_order_asked_for() -> None:
    items = normal(6, 3, 2, 2)
    stored = InMemory(items)
    assert len(stored) == 6
    assert stored.shape == (3, 2, 2)
    assert torch.equal(stored.take([4, 0, 4]), items[[4, 0, 4]])
    assert tuple(stored.take([]).shape) == (0, 3, 2, 2)


@settings(deadline=None, derandomize=True)
@given(n=st.integers(1, 20), size=st.integers(1, 25))
def test_blocks_cover_all_items_in_order(n: int, size: int) -> None:
    items = normal(n, 2)
    blocks = list(InMemory(items).blocks(size))
    assert torch.equal(torch.cat(blocks), items)
    assert [len(block) for block in blocks[:-1]] == [size] * (len(blocks) - 1)
    assert 1 <= len(blocks[-1]) <= size


@pytest.mark.parametrize("n", [2, 128, 300])
def test_moments_are_those_of_the_whole(n: int) -> None:
    # far from zero, where one pass of sums of squares in float32 would lose all digits
    items = 1000 + normal(n, 3, 2, 2)
    mean, variance = mean_and_variance(InMemory(items))
    assert mean.dtype == variance.dtype == torch.float64
    expected_variance, expected_mean = torch.var_mean(items.double(), dim=0)
    torch.testing.assert_close(mean, expected_mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(variance, expected_variance, rtol=1e-9, atol=0)


@pytest.mark.parametrize("n", [0, 1])
def test_a_variance_needs_two_items(n: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2 inverted images, got {n}"):
        mean_and_variance(InMemory(torch.zeros(n, 3)))


def test_blocks_of_large_items_are_smaller() -> None:
    items = torch.arange(40.0).reshape(40, 1, 1, 1).expand(40, 3, 256, 256)
    blocks = list(InMemory(items).blocks())
    assert [len(block) for block in blocks] == [21, 19]
    assert torch.equal(torch.cat(blocks)[:, 0, 0, 0], torch.arange(40.0))


def test_a_data_set_is_read_in_the_order_asked_for() -> None:
    items = Taken(Items(InMemory(torch.arange(6.0).reshape(3, 2))), 2)
    assert len(items) == 2
    assert items.shape == (2,)
    assert items.take([1, 0, 1]).tolist() == [[2.0, 3.0], [0.0, 1.0], [2.0, 3.0]]


def test_an_empty_set_knows_its_shape() -> None:
    items = Empty((3, 2))
    assert (len(items), items.shape, list(items.blocks())) == (0, (3, 2), [])
    with pytest.raises(IndexError, match="empty"):
        items.take([0])
