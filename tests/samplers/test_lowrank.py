from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ood_sampler.samplers.base import Fitted, InvertedSet
from ood_sampler.samplers.lowrank import (
    LowRankSampler,
    best_rank,
    held_out_log_likelihoods,
)
from ood_sampler.store.sets import InMemory

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


@pytest.mark.parametrize(("n", "expected"), [(5, 3), (50, 11)])
def test_the_largest_rank_leaves_noise(n: int, expected: int, make_set: MakeSet) -> None:
    # n - 1 directions vary, and one of them is left to the noise, or one dimension
    inverted = make_set(n, 3, 2, 2)
    fitted = LowRankSampler(1000).fit(inverted)
    assert len(fitted["factors"]) == expected
    assert float(fitted["noise_std"]) > 0.1
    expected_covariance = probabilistic_pca(rows(inverted), expected)
    torch.testing.assert_close(modelled(fitted), expected_covariance, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("n", "d"), [(9, 12), (9, 4), (12, 30)])
def test_the_likelihood_of_latents_left_out_is_that_of_the_definition(n: int, d: int) -> None:
    generator = torch.Generator().manual_seed(n)
    data = 5 + torch.randn(n, d, generator=generator).double() * torch.linspace(0.2, 3, d)
    out = torch.arange(n) % 3 == 1
    found = held_out_log_likelihoods(data @ data.T, d, out=out)
    others = data[~out]
    values, vectors = torch.linalg.eigh(torch.cov(others.T))
    assert len(found) == min(len(others) - 1, d)
    for rank, value in enumerate(found.tolist()):
        noise = values[: d - rank].sum() / (d - rank)
        spectrum = torch.cat([noise.expand(d - rank), values[d - rank :]])
        law = torch.distributions.MultivariateNormal(
            others.mean(0), vectors @ spectrum.diag() @ vectors.T
        )
        assert value == pytest.approx(float(law.log_prob(data[out]).sum()), rel=1e-6)


def spiked(n: int, rank: int, *, seed: int) -> Tensor:
    """Latents of 192 dimensions with some directions 20 times as wide as the others."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(192, 192, generator=generator))[0][:, :rank]
    white = torch.randn(n, 192, generator=generator)
    return white + 20 * torch.randn(n, rank, generator=generator) @ basis.T


@pytest.mark.parametrize(("n", "rank"), [(20, 0), (41, 0), (20, 2), (41, 3), (41, 8), (100, 20)])
def test_the_rank_is_that_of_the_law(n: int, rank: int) -> None:
    for seed in range(4):
        data = spiked(n, rank, seed=seed).double()
        assert best_rank(data @ data.T, 192) == rank
        # the products may be about any point
        moved = data + 3
        assert best_rank(moved @ moved.T, 192) == rank


def test_draws_of_few_latents_leave_their_span(
    make_set: MakeSet, draw: Callable[..., Tensor]
) -> None:
    data = spiked(41, 3, seed=0)
    latents = InMemory(data.reshape(41, 3, 8, 8))
    inverted = InvertedSet(latents, latents, make_set(2, 1, 2, 2).schedule, 500)
    sampler = LowRankSampler(None)
    fitted = sampler.fit(inverted)
    assert len(fitted["factors"]) == 3
    assert sampler.remarks(fitted) == [
        "lowrank: 3 principal directions, with which latents left out are likeliest"
    ]
    assert LowRankSampler(3).remarks(fitted) == []
    # outside of the span of 41 of 192 dimensions there are 152, each with a variance near to 1
    centred = (data - data.mean(0)).double()
    span = torch.linalg.svd(centred, full_matrices=False)[2][:40]
    away = draw(sampler, inverted, 500) - data.double().mean(0)
    left = away - away @ span.T @ span
    assert float(left.square().sum(1).mean()) / 152 == pytest.approx(1, abs=0.1)


def test_white_latents_are_drawn_from_white_noise(
    make_set: MakeSet, draw: Callable[..., Tensor]
) -> None:
    data = spiked(20, 0, seed=1)
    latents = InMemory(data.reshape(20, 3, 8, 8))
    inverted = InvertedSet(latents, latents, make_set(2, 1, 2, 2).schedule, 500)
    fitted = LowRankSampler(None).fit(inverted)
    assert tuple(fitted["factors"].shape) == (0, 3, 8, 8)
    draws = draw(LowRankSampler(None), inverted, 300)
    # 20 sets of 192 coordinates tell the variance, 300 draws show it
    variance = float((draws - data.double().mean(0)).square().mean())
    assert variance == pytest.approx(1, abs=5 * (2 / 19 / 192 + 2 / 300 / 192) ** 0.5)


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


@pytest.mark.parametrize("rank", [2, None])
def test_equal_latents_give_themselves(
    rank: int | None, make_set: MakeSet, draw: Callable[..., Tensor]
) -> None:
    one = rows(make_set(1, 1, 2, 2)).float()
    same = InMemory(one.expand(4, 4).reshape(4, 1, 2, 2))
    inverted = InvertedSet(same, same, make_set(1, 1, 2, 2).schedule, 500)
    draws = draw(LowRankSampler(rank), inverted, 5)
    torch.testing.assert_close(draws, one.double().expand(5, 4), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rank", [0, -1])
def test_bad_rank(rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank must be >= 1, or null, got {rank}"):
        LowRankSampler(rank)
