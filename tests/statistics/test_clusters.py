import pytest
import torch

from ood_sampler.statistics.clusters import k_means


@pytest.mark.parametrize("seed", range(5))
def test_clusters_that_lie_apart_are_found(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.arange(90) % 3
    points = 10 * torch.eye(3)[truth] + 0.1 * torch.randn(90, 3, generator=generator)
    found = k_means(points, 3, seed=seed)
    assert len({(int(a), int(b)) for a, b in zip(truth, found, strict=True)}) == 3
    assert found.unique().tolist() == [0, 1, 2]


def test_no_centre_is_nearer_than_that_of_the_own_cluster() -> None:
    points = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)).double()
    found = k_means(points, 6, seed=0)
    centres = torch.stack([points[found == k].mean(0) for k in range(6)])
    assert torch.cdist(points, centres).argmin(1).equal(found)


def test_equal_points_can_be_clustered_and_too_few_cannot() -> None:
    assert k_means(torch.zeros(4, 2), 3, seed=0).tolist() == [0] * 4
    with pytest.raises(ValueError, match="count must be between 1 and the 4 points, got 5"):
        k_means(torch.zeros(4, 2), 5, seed=0)
