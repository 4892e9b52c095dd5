import math

import pytest
import torch
from torch import Tensor

from ood_sampler.diffusion.gaussian import (
    ROUNDING,
    Gaussian,
    cosine_basis,
    fit_gaussian,
    from_cosine,
    highest,
    smooth_over_radius,
    to_cosine,
)
from ood_sampler.store.sets import InMemory
from tests.diffusion.toys import normal

SHAPE = (3, 5, 6)


def doubled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() for name, value in state.items()}


def dense(state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of pixels, as vectors and matrices."""
    d = math.prod(SHAPE)
    state = doubled(state)
    mean = from_cosine(state["mean"]).flatten()
    # columns: what a pixel image is in the basis of the stationary part
    unit = to_cosine(torch.eye(d, dtype=torch.float64).reshape(d, *SHAPE)).flatten(2)
    basis = torch.einsum("ckf,ncf->nkf", state["rotation"], unit).flatten(1)
    inner = torch.diag(state["variance"].flatten()) + state["deviations"].T @ state["deviations"]
    return mean, basis @ inner @ basis.T


def stationary(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images with independent coefficients, colours mixed alike, and their variances."""
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.6, 0.0], [0.3, -0.2, 0.4]]).double()
    height, width = SHAPE[1:]
    radius = (torch.arange(height)[:, None] ** 2 + torch.arange(width) ** 2).double().sqrt()
    scale = 1 / (1 + radius)
    y = torch.einsum("ck,nkhw->nchw", mixing, normal(n, *SHAPE, seed=seed)) * scale
    return from_cosine(y) * 0.3 + 0.1, 0.09 * scale.square()


def low_rank(n: int, seed: int = 0) -> Tensor:
    """Images in the span of two patterns that no frequency tells apart, nearly."""
    patterns = normal(2, *SHAPE, seed=7)
    weights = normal(n, 2, seed=seed)
    return 0.3 * torch.einsum("nk,kchw->nchw", weights, patterns) + 0.003 * normal(
        n, *SHAPE, seed=5
    )


def test_the_cosine_basis_is_orthonormal_and_known() -> None:
    basis = cosine_basis(6)
    torch.testing.assert_close(basis @ basis.T, torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(basis[0], torch.full((6,), 6**-0.5, dtype=torch.float64))
    x = torch.arange(6) + 0.5
    expected = torch.cos(math.pi * 2 / 6 * x).double() / 3**0.5
    torch.testing.assert_close(basis[2], expected, rtol=0, atol=1e-7)
    images = normal(2, *SHAPE)
    torch.testing.assert_close(from_cosine(to_cosine(images)), images)


def test_smoothing_keeps_the_sum_and_what_depends_on_the_radius_alone() -> None:
    blocks = normal(5, 7, 2, 2)
    smooth = smooth_over_radius(blocks)
    torch.testing.assert_close(smooth.sum((0, 1)), blocks.sum((0, 1)))
    constant = torch.ones(5, 7, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(smooth_over_radius(constant), constant)
    # 3, 4 and 4, 3 and 5, 0 have one radius
    wide = smooth_over_radius(normal(6, 6, 1))
    assert float(wide[3, 4]) == pytest.approx(float(wide[5, 0]))
    assert float(wide[3, 4]) == pytest.approx(float(wide[4, 3]))


@pytest.mark.parametrize("shrinkage", [0.3, 1.0])
def test_the_fit_is_the_shrunk_covariance(shrinkage: float) -> None:
    images = normal(9, *SHAPE) + 0.2
    mean, covariance = dense(fit_gaussian(InMemory(images), shrinkage=shrinkage))
    torch.testing.assert_close(mean, images.mean(0).flatten(), rtol=0, atol=1e-6)
    _, whole = dense(fit_gaussian(InMemory(images), shrinkage=1.0))
    empirical = torch.cov(images.flatten(1).T)
    expected = shrinkage * whole + (1 - shrinkage) * empirical
    torch.testing.assert_close(covariance, expected, rtol=0, atol=1e-5)
    # shrinking moves variance between directions, and makes none
    assert float(whole.trace()) == pytest.approx(float(empirical.trace()), rel=1e-5)


@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.05), (0.7, 0.71), (0.01, 1.0)])
def test_the_operator_is_that_of_the_dense_matrix(alpha: float, sigma: float) -> None:
    state = fit_gaussian(InMemory(normal(7, *SHAPE) * 0.4 + 0.1), shrinkage=0.4)
    mean, covariance = dense(state)
    gaussian = Gaussian(doubled(state))
    x = normal(4, *SHAPE, seed=1)
    noisy = alpha**2 * covariance + sigma**2 * torch.eye(len(covariance), dtype=torch.float64)
    centred = (x.flatten(1) - alpha * mean).T
    solved = torch.linalg.solve(noisy, centred)
    eps = from_cosine(gaussian.eps(to_cosine(x), alpha, sigma)).flatten(1)
    # what is kept is rounded to float32
    torch.testing.assert_close(eps, (sigma * solved).T, rtol=1e-5, atol=1e-5)
    x_0 = from_cosine(gaussian.x_0(to_cosine(x), alpha, sigma)).flatten(1)
    expected = mean + alpha * (covariance @ solved).T
    torch.testing.assert_close(x_0, expected, rtol=1e-5, atol=1e-5)


def test_pure_noise_is_denoised_to_the_mean() -> None:
    state = fit_gaussian(InMemory(normal(7, *SHAPE)), shrinkage=0.4)
    gaussian = Gaussian(doubled(state))
    x = normal(2, *SHAPE, seed=1)
    torch.testing.assert_close(gaussian.eps(x, 0.0, 1.0), x)
    torch.testing.assert_close(
        gaussian.x_0(x, 0.0, 1.0), state["mean"].double().expand_as(x), rtol=0, atol=1e-12
    )


def test_single_precision_is_enough() -> None:
    state = fit_gaussian(InMemory(stationary(40)[0]), shrinkage=0.3)
    x = to_cosine(normal(3, *SHAPE, seed=1))
    single, double = Gaussian(state), Gaussian(doubled(state))
    for sigma in (0.3, 1.0):
        alpha = math.sqrt(1 - sigma**2)
        expected = double.eps(x, alpha, sigma)
        found = single.eps(x.float(), alpha, sigma).double()
        assert float((found - expected).abs().max()) < 1e-5


def test_shrinkage_recovers_a_known_covariance() -> None:
    images, _ = stationary(80)
    many, _ = stationary(40_000, seed=3)
    truth = torch.cov(many.flatten(1).T)

    def error(state: dict[str, Tensor]) -> float:
        return float((dense(state)[1] - truth).norm() / truth.norm())

    chosen = fit_gaussian(InMemory(images))
    # the truth is stationary: all weight there, and an error far below that of the samples alone
    assert float(chosen["shrinkage"]) > 0.85
    empirical = torch.cov(images.flatten(1).T)
    assert error(chosen) < 0.4 * float((empirical - truth).norm() / truth.norm())
    assert error(chosen) < 0.15


def test_shrinkage_leaves_what_is_not_stationary() -> None:
    chosen = fit_gaussian(InMemory(low_rank(40)))
    assert float(chosen["shrinkage"]) < 0.1
    truth = torch.cov(low_rank(40_000, seed=3).flatten(1).T)
    error = {
        name: float((dense(state)[1] - truth).norm() / truth.norm())
        for name, state in (
            ("chosen", chosen),
            ("stationary", fit_gaussian(InMemory(low_rank(40)), shrinkage=1.0)),
        )
    }
    assert error["chosen"] < 0.4 * error["stationary"]


def test_shrinkage_is_the_maximum_of_the_likelihood() -> None:
    assert highest(lambda x: -((x - 0.37) ** 2)) == pytest.approx(0.37, abs=0.01)
    assert highest(lambda x: x) == 1.0
    assert highest(lambda x: -x) == pytest.approx(0.02, abs=0.01)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_likelihood_is_that_of_the_other_half_under_noise(noise: float) -> None:
    # by hand, with dense matrices
    images = 0.3 * normal(12, *SHAPE) + stationary(12)[0]
    found = float(fit_gaussian(InMemory(images), noise=noise)["shrinkage"])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    halves = images[order[:6]], images[order[6:]]
    variance = noise + ROUNDING

    def likelihood(rho: float) -> float:
        total = 0.0
        for a, b in (halves, halves[::-1]):
            mean, covariance = dense(fit_gaussian(InMemory(a), shrinkage=rho))
            noisy = covariance + variance * torch.eye(len(mean), dtype=torch.float64)
            law = torch.distributions.MultivariateNormal(mean, noisy, validate_args=False)
            added = variance * float(torch.linalg.inv(noisy).trace()) / 2
            total += float(law.log_prob(b.flatten(1)).sum()) - len(b) * added
        return total

    tried = torch.linspace(0.02, 1, 50).tolist()
    assert likelihood(found) > max(likelihood(rho) for rho in tried) - 0.1
    assert likelihood(found) > likelihood(0.02) + 1


def test_equal_pictures_have_no_variance_but_a_likelihood() -> None:
    state = fit_gaussian(InMemory(torch.full((6, *SHAPE), 0.25)))
    assert float(state["variance"].max()) < 1e-9
    gaussian = Gaussian(state)
    assert gaussian.eps(to_cosine(torch.zeros(1, *SHAPE)), 0.8, 0.6).isfinite().all()


def test_too_few_pictures() -> None:
    with pytest.raises(ValueError, match="needs at least 4 images, got 3"):
        fit_gaussian(InMemory(normal(3, *SHAPE)))
