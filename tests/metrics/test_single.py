import pytest
import torch

from ood_sampler.metrics.prdc import manifold_scores
from ood_sampler.metrics.single import realism, several_nearest


def vectors(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


def test_the_nearest_images_are_found_in_order() -> None:
    samples, reference = vectors(40, 0), vectors(30, 1)
    found = several_nearest(samples, reference, count=5)
    expected = torch.cdist(samples.double(), reference.double()).sort(dim=1)
    assert torch.equal(found.indices, expected.indices[:, :5])
    torch.testing.assert_close(found.distance, expected.values[:, :5])
    assert several_nearest(samples, reference[:3], count=5).indices.shape == (40, 3)


def test_realism_is_the_largest_ratio_of_radius_to_distance() -> None:
    # on a line: radii to the nearest other 1, 1 and 3
    real = torch.tensor([[0.0], [1.0], [4.0]])
    samples = torch.tensor([[0.5], [8.0], [-2.0]])
    expected = [2.0, 0.75, 0.5]
    assert realism(samples, real, nearest_k=1).tolist() == pytest.approx(expected)


def test_precision_counts_samples_of_realism_one() -> None:
    real, samples = vectors(60, 2), 1.3 * vectors(80, 3)
    inside = manifold_scores(real, samples, nearest_k=3).precision
    assert 0 < inside.sum() < 80
    assert torch.equal(realism(samples, real, nearest_k=3) >= 1, inside)


def test_a_sample_that_is_a_real_image_has_no_bound() -> None:
    real = vectors(10, 4)
    assert realism(real[:1], real, nearest_k=2).isinf().all()
