import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from ood_sampler.metrics import intensity
from ood_sampler.metrics.intensity import area_distance, areas, wasserstein_distance


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def test_by_hand() -> None:
    # half of the mass moves by 1, half by 3
    assert (
        wasserstein_distance(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [4.0]])).value == 2
    )
    # one image of two values against two of one
    assert wasserstein_distance(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0], [4.0]])).value == 2


@settings(deadline=None, derandomize=True, max_examples=20)
@given(n=st.integers(2, 20), m=st.integers(2, 20), seed=st.integers(0, 1000))
def test_agrees_with_scipy(n: int, m: int, seed: int) -> None:
    values, reference = normal(n, 3, seed), 1.5 * normal(m, 2, seed + 1) + 0.3
    expected = stats.wasserstein_distance(values.flatten(), reference.flatten())
    assert wasserstein_distance(values, reference).value == pytest.approx(expected, rel=1e-9)


def test_quantiles_of_many_values() -> None:
    values, reference = normal(30, 200), normal(20, 300, 1).exp()
    expected = stats.wasserstein_distance(values.flatten(), reference.flatten())
    found = wasserstein_distance(values, reference)
    assert found.value == pytest.approx(expected, rel=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intensity, "_KNOTS", 10**6)
        exact = wasserstein_distance(values, reference)
    assert [found.low, found.high] == pytest.approx([exact.low, exact.high], rel=0.02)


def test_areas_by_hand() -> None:
    found = areas(torch.tensor([[-1.0, 0.5], [1.0, 4.0]]), torch.tensor([0.0, 1.0, 3.0]))
    # F is 0.5 from -1 and 1 from 0.5; 0.5 from 1 and 1 from 4
    assert found.tolist() == [[0.5, 0.75, 2.0, 0.0], [0.0, 0.0, 1.0, -0.5]]


def test_few_knots_are_exact_where_distributions_do_not_cross() -> None:
    values = normal(20, 30)
    knots = torch.tensor([-0.3, 0.1, 0.4], dtype=torch.float64)
    for reference in (values + 0.7, values - 5):
        found = area_distance(areas(values, knots), areas(reference, knots))
        assert found.value == pytest.approx(wasserstein_distance(values, reference).value)
    # all between two knots, where they cross in the middle: only the areas of both are known
    narrow = area_distance(areas(0.1 * values, knots * 100), areas(-0.1 * values, knots * 100))
    assert narrow.value < wasserstein_distance(0.1 * values, -0.1 * values).value


def test_areas_do_not_depend_on_the_blocks() -> None:
    values, knots = normal(9, 7), torch.linspace(-1, 1, 12)
    blocks = torch.cat([areas(block, knots) for block in values.split(4)])
    torch.testing.assert_close(blocks, areas(values, knots), rtol=0, atol=0)


def test_the_interval_is_over_images() -> None:
    # all pixels of an image are equal, so that only images count
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(40):
        draws = torch.randn(90, 1, generator=generator, dtype=torch.float64).expand(-1, 10)
        found.append(wasserstein_distance(draws[:40] + 2, draws[40:]))
    spread = float(torch.tensor([value for value, _, _ in found]).std())
    width = sum(high - low for _, low, high in found) / 40
    assert width == pytest.approx(2 * 1.96 * spread, rel=5 / 80**0.5)
    assert all(low <= value <= high for value, low, high in found)


def test_equal_sets() -> None:
    values = normal(30, 4)
    value, low, high = wasserstein_distance(values, values.flip(0))
    assert value == pytest.approx(0, abs=1e-12)
    assert low == 0
    assert 0 < high < 0.3
