from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ood_sampler.latents.store import InMemory
from ood_sampler.samplers.base import Fitted, InvertedSet
from ood_sampler.samplers.lowrank import LowRankSampler

MakeSet = Callable[..., InvertedSet]


def rows(inverted: InvertedSet) -> Tensor:
    return inverted.latents.take(range(len(inverted.latents))).double().flatten(1)


def modelled(fitted: Fitted) -> Tensor:
    """Covariance of the fitted Gaussian."""
    factors = fitted["factors"].double().flatten(1)
    noise = fitted["noise_std"].double().square() * torch.eye(factors.shape[1])
    return factors.T @ factors + noise


def probabilistic_pca(data: Tensor, rank: int) -> Tensor:
    """Tipping & Bishop, 1999, eq. 8, from the whole covariance matrix."""
    values, vectors = torch.linalg.eigh(torch.cov(data.T))
    noise = values[:-rank].mean()
    kept = torch.cat([noise.expand(len(values) - rank), values[-rank:]])
    return vectors @ kept.diag() @ vectors.T


@pytest.mark.parametrize(("n", "rank"), [(30, 1), (30, 5), (300, 3), (9, 4)])
def test_fit_is_probabilistic_pca(n: int, rank: int, make_set: MakeSet) -> None:
    # 300 are more than one block of the set, 9 fewer than dimensions
    inverted = make_set(n, 3, 2, 2)
    data = rows(inverted)
    fitted = LowRankSampler(rank).fit(inverted)
    assert tuple(fitted["factors"].shape) == (rank, 3, 2, 2)
    torch.testing.assert_close(fitted["mean"].double().flatten(), data.mean(0), rtol=0, atol=1e-6)
    expected = probabilistic_pca(data, rank)
    torch.testing.assert_close(modelled(fitted), expected, rtol=0, atol=1e-6)
    noise = torch.linalg.eigvalsh(torch.cov(data.T))[:-rank].mean()
    torch.testing.assert_close(fitted["noise_std"].double().square(), noise, rtol=1e-5, atol=0)


def test_factors_are_orthogonal_and_fall(make_set: MakeSet) -> None:
    factors = LowRankSampler(5).fit(make_set(30, 3, 2, 2))["factors"].flatten(1)
    squares = factors @ factors.T
    torch.testing.assert_close(squares, squares.diag().diag(), rtol=0, atol=1e-5)
    assert (squares.diag().diff() < 0).all()


@pytest.mark.parametrize(("n", "expected"), [(5, 4), (50, 11)])
def test_full_rank_is_the_sample_covariance(n: int, expected: int, make_set: MakeSet) -> None:
    # at most n - 1 directions vary, and one dimension is left to the noise
    inverted = make_set(n, 3, 2, 2)
    fitted = LowRankSampler(1000).fit(inverted)
    assert len(fitted["factors"]) == expected
    covariance = torch.cov(rows(inverted).T)
    torch.testing.assert_close(modelled(fitted), covariance, rtol=0, atol=1e-5)


def test_rounding_leaves_no_negative_variance(make_set: MakeSet) -> None:
    for seed in range(30):
        fitted = LowRankSampler(1000).fit(make_set(4, 3, 2, 2, seed=seed))
        assert all(tensor.isfinite().all() for tensor in fitted.values())


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_draws_have_the_fitted_moments(
    rank: int,
    make_set: MakeSet,
    draw: Callable[..., Tensor],
    check_moments: Callable[..., None],
) -> None:
    inverted = make_set(20, 2, 2, 2)
    data = rows(inverted)
    draws = draw(LowRankSampler(rank), inverted, 5000)
    check_moments(draws, data.mean(0), probabilistic_pca(data, rank))


def test_equal_latents_give_themselves(make_set: MakeSet, draw: Callable[..., Tensor]) -> None:
    one = rows(make_set(1, 1, 2, 2)).float()
    same = InMemory(one.expand(4, 4).reshape(4, 1, 2, 2))
    inverted = InvertedSet(same, same, make_set(1, 1, 2, 2).schedule, 500)
    draws = draw(LowRankSampler(2), inverted, 5)
    torch.testing.assert_close(draws, one.double().expand(5, 4), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rank", [0, -1])
def test_bad_rank(rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank must be >= 1, got {rank}"):
        LowRankSampler(rank)
