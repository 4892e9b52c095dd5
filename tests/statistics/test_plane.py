import pytest
import torch

from ood_sampler.statistics.plane import principal_plane


def test_the_axes_are_those_of_largest_variance() -> None:
    # variances 9, 4, 0.01 about 0, along the third, the first and the second coordinate
    spread = torch.tensor([2.0, 0.1, 3.0])
    points = torch.cat([torch.diag(spread), -torch.diag(spread)]) * 3**0.5 + 5
    (found,), shares = principal_plane([points])
    torch.testing.assert_close(found[:, 0].float(), points[:, 2] - 5)
    torch.testing.assert_close(found[:, 1].float(), points[:, 0] - 5)
    assert shares == pytest.approx((9 / 13.01, 4 / 13.01))


def test_sets_count_alike_whatever_their_size() -> None:
    # between the sets first, though the large one varies more along the second coordinate
    small = torch.tensor([[10.0, 0.0, 1.0], [10.0, 0.0, -1.0]])
    large = torch.tensor([[-10.0, 4.0, 0.0], [-10.0, -4.0, 0.0]]).repeat(500, 1)
    (first, second), shares = principal_plane([small, large])
    torch.testing.assert_close(first[:, 0], torch.full((2,), 10.0, dtype=torch.float64))
    torch.testing.assert_close(second[:2, 1].abs(), torch.full((2,), 4.0, dtype=torch.float64))
    # 10^2, then half of 4^2, then half of 1
    assert shares == pytest.approx((100 / 108.5, 8 / 108.5))


def test_repeated_and_reversed_sets_make_the_same_plane() -> None:
    vectors = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    (plain,), _ = principal_plane([vectors])
    (turned,), _ = principal_plane([vectors.flip(0)])
    torch.testing.assert_close(turned.flip(0), plain)


def test_equal_vectors_are_one_point() -> None:
    (found,), shares = principal_plane([torch.ones(4, 3)])
    assert (found == 0).all()
    assert shares == (0.0, 0.0)


def test_no_plane_without_vectors_of_two_entries() -> None:
    with pytest.raises(ValueError, match="at least two entries"):
        principal_plane([torch.ones(3, 1)])
    with pytest.raises(ValueError, match="at least two entries"):
        principal_plane([torch.ones(3, 2), torch.ones(0, 2)])
