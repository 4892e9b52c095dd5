import pytest
import torch
from torch import Tensor

from ood_sampler.latents.alignment import alignment


def sets(
    n: int, d: int, *, apart: float, std: float = 1.0, far: float = 1e4, seed: int = 0
) -> Tensor:
    """Products of two Gaussian clouds, so far from the origin that the sphere is flat there."""
    generator = torch.Generator().manual_seed(seed)
    z = std * torch.randn(2 * n, d, generator=generator, dtype=torch.float64)
    z[:, 0] += far
    z[n:, 1] += apart
    return z @ z.T


@pytest.mark.parametrize("apart", [0.0, 5.0, 40.0])
def test_the_cosine_is_what_a_shared_mean_explains(apart: float) -> None:
    d, n = 400, 60
    found = alignment(sets(n, d, apart=apart), n, permutations=50)
    # |delta|^2 / (|delta|^2 + 2 sigma^2 d), of the d - 1 dimensions of the tangent space
    expected = apart**2 / (apart**2 + 2 * (d - 1))
    error = (found.cosine.high - found.cosine.low) / 4
    assert abs(found.cosine.value - expected) < 5 * error + 1e-4
    assert abs(found.explained - expected) < 5 * error + 1e-4
    assert abs(found.beyond_means.value) < 5 * error + 1e-3
    assert found.pairs == n
    # of the mean of n directions, |delta|^2 / (|delta|^2 + 2 sigma^2 d / n)
    signal = apart**2 / (apart**2 + 2 * (d - 1) / n)
    assert abs(found.signal - signal) < 0.2


def test_the_null_has_a_mean_of_zero_and_the_spread_of_random_directions() -> None:
    # the mean of n (n - 1) / 2 cosines with variance 1 / d each, uncorrelated
    d, n, permutations = 400, 30, 300
    found = alignment(sets(n, d, apart=0.0), n, permutations=permutations)
    spread = (2 / (n * (n - 1) * d)) ** 0.5
    assert abs(found.null.value) < 5 * spread / permutations**0.5 + spread / n
    assert 0.7 < (found.null.high - found.null.low) / (2 * 1.96 * spread) < 1.4
    assert found.null.low < found.cosine.value < found.null.high


def test_labels_that_mean_something_are_beyond_the_null() -> None:
    found = alignment(sets(40, 100, apart=10.0), 40, permutations=100)
    assert found.beyond_null.low > 0.1
    assert found.beyond_null.value == pytest.approx(found.cosine.value - found.null.value)


def test_a_direction_common_to_pairs_alone_is_beyond_the_means() -> None:
    # a_i and b_i share an offset and differ by the same step, so that pairs are not independent
    generator = torch.Generator().manual_seed(0)
    n, d = 30, 200
    a = torch.randn(n, d, generator=generator, dtype=torch.float64)
    b = a.clone()
    b[:, 1] += 3.0
    z = torch.cat([a, b])
    z[:, 0] += 1e4
    found = alignment(z @ z.T, n, permutations=20)
    assert found.cosine.value > 0.99
    assert found.explained < 0.1
    assert found.beyond_means.low > 0.8


def test_the_smaller_set_gives_the_pairs() -> None:
    products = sets(20, 50, apart=5.0)
    assert alignment(products[:26, :26], 20, permutations=5).pairs == 6
    with pytest.raises(ValueError, match="at least 4 latents, got 3"):
        alignment(products[:23, :23], 20, permutations=5)
