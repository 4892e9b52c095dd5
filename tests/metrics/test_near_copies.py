import pytest
import torch
from torch import Tensor

from ood_sampler.metrics.near_copies import copy_distance, near_copies
from ood_sampler.statistics.intervals import share_interval

FEW_SHOT = torch.tensor([[0.0, 1.0], [100.0, 1.0]])


def beside(*distances: float) -> Tensor:
    """Vectors so far from the nearest of the few-shot ones, about them in turn."""
    return torch.stack([FEW_SHOT[i % 2] + torch.tensor([0.0, d]) for i, d in enumerate(distances)])


@pytest.mark.parametrize(
    ("count", "distance"), [(1, 1), (99, 1), (100, 2), (199, 2), (200, 3), (1000, 11)]
)
def test_one_in_a_hundred_held_out_images_may_be_as_near(count: int, distance: float) -> None:
    held_out = beside(*range(1, count + 1)).flip(0)
    assert float(copy_distance(FEW_SHOT, held_out)) == distance
    # so near is not nearer than 99%
    samples = beside(distance, distance - 0.5)
    assert near_copies(samples, FEW_SHOT, held_out).tolist() == [False, True]
    assert (
        float(near_copies(held_out, FEW_SHOT, held_out).double().mean()) == (count // 100) / count
    )


def test_exact_copies_count_whatever_the_held_out_images_are() -> None:
    samples = torch.cat([FEW_SHOT, FEW_SHOT * (1 + 1e-7), beside(0.5)])
    copied = [True] * 4 + [False]
    # held-out images that are few-shot ones say nothing about new ones
    assert float(copy_distance(FEW_SHOT, FEW_SHOT.flip(0))) == 0
    assert near_copies(samples, FEW_SHOT, FEW_SHOT).tolist() == copied
    mixed = torch.cat([FEW_SHOT, beside(0.4)])
    assert float(copy_distance(FEW_SHOT, mixed)) == pytest.approx(0.4)
    assert near_copies(samples, FEW_SHOT, mixed).tolist() == copied


def test_repeated_references_change_nothing() -> None:
    samples, held_out = beside(0.0, 0.1, 3.0, 5.0), beside(2.0, 4.0)
    expected = [True, True, False, False]
    for references in (FEW_SHOT, FEW_SHOT.repeat(10, 1)):
        assert near_copies(samples, references, held_out).tolist() == expected


def test_the_interval_of_held_out_images_holds_the_share_of_new_ones() -> None:
    # new real images, uniform on [0, 1], lie below the threshold with a chance of the threshold
    generator = torch.Generator().manual_seed(0)
    origin = torch.zeros(1, 1, dtype=torch.float64)
    for count in (20, 150):
        held = 0
        for _ in range(400):
            held_out = torch.rand(count, 1, generator=generator, dtype=torch.float64)
            share = float(copy_distance(origin, held_out))
            _, _, high = share_interval(near_copies(held_out, origin, held_out))
            held += share <= high
        assert held / 400 == pytest.approx(0.975, abs=5 * (0.975 * 0.025 / 400) ** 0.5)
