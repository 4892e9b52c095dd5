import pytest
import torch
from torch import Tensor

from ood_sampler.metrics.comparison import kernel_difference
from ood_sampler.metrics.kernel import jackknife, kernel_distance


def normal(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 6, generator=generator, dtype=torch.float64)


def test_value_is_the_difference() -> None:
    first, second, held_out = 0.5 + normal(60, 0), normal(50, 1), normal(80, 2)
    found = kernel_difference(first, second, held_out)
    expected = kernel_distance(first, held_out) - kernel_distance(second, held_out)
    assert found.value == pytest.approx(float(expected), rel=1e-12)
    assert 0 < found.low < found.value < found.high
    swapped = kernel_difference(second, first, held_out)
    assert swapped.value == -found.value


def test_interval_is_as_wide_as_repeated_draws_say() -> None:
    # sets of the same sizes drawn again and again
    values = []
    for s in range(60):
        first, second, held_out = 0.3 + normal(60, s), normal(60, s + 500), normal(90, s + 1000)
        values.append(kernel_distance(first, held_out) - kernel_distance(second, held_out))
    spread = float(torch.tensor(values).std())
    intervals = [
        kernel_difference(0.3 + normal(60, s), normal(60, s + 500), normal(90, s + 1000))
        for s in range(8)
    ]
    width = sum(high - low for _, low, high in intervals) / len(intervals)
    assert width == pytest.approx(2 * 1.96 * spread, rel=0.35)
    # centred: a vector drawn twice would add its distance to itself
    middle = sum((high + low) / 2 - value for value, low, high in intervals) / len(intervals)
    assert abs(middle) < 0.1 * width


def test_a_vector_drawn_twice_has_no_distance_to_itself() -> None:
    # it would raise that of the small set alone
    intervals = [
        kernel_difference(2 * normal(15, s), normal(200, s + 500), normal(90, s + 1000))
        for s in range(8)
    ]
    offsets = torch.tensor(
        [[(high + low) / 2 - value, high - low] for value, low, high in intervals]
    )
    assert abs(float(offsets[:, 0].mean())) < 0.15 * float(offsets[:, 1].mean())


def test_the_held_out_draw_is_shared() -> None:
    # Few held-out pictures are nearly all of the error of each, which both have in common.
    samples, held_out = normal(400, 0), normal(8, 1)
    found = kernel_difference(samples, samples + 1e-9, held_out)
    alone = float(jackknife(samples, held_out).standard_error)
    assert found.value == pytest.approx(0, abs=1e-6)
    # two errors of their own would make an interval of 5.5 of them
    assert found.high - found.low < 1.5 * alone
