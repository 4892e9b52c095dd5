import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ood_sampler.latents.gaussianity import (
    Gaussianity,
    chi_deviation,
    chi_mean,
    gaussianity,
    most_tests,
)
from ood_sampler.store.sets import InMemory

N, SHAPE = 150, (3, 12, 12)
D = math.prod(SHAPE)
DRAWS = 20_000


def noise(seed: int = 0, n: int = N) -> Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def of(latents: Tensor, *, tests: int = 16, draws: int = DRAWS, seed: int = 0) -> Gaussianity:
    return gaussianity(InMemory(latents), tests=tests, draws=draws, seed=seed)


def test_white_noise_has_the_values_it_is_measured_by() -> None:
    found = of(noise())
    assert found.mean.low == 0 <= found.mean.value <= found.mean.high < 0.05
    # standard errors: 1 / sqrt(2 N d) of the deviation, sqrt(1 / 2 N) of the spread of the radius
    assert found.deviation == pytest.approx(1, abs=0.005)
    assert found.deviation_spread == pytest.approx(1 / math.sqrt(2 * (N - 1)), rel=0.15)
    assert found.radius == pytest.approx(1, abs=5 / math.sqrt(2 * N * D))
    assert found.radius_spread.value == pytest.approx(1, abs=5 / math.sqrt(2 * N))
    assert found.colours is not None
    pixels = N * D
    for interval in (found.neighbours, found.colours):
        assert interval.value == pytest.approx(0, abs=5 / math.sqrt(pixels))
        assert interval.low < interval.value < interval.high
    # coefficients of an image come in conjugate pairs
    for interval, count in ((found.low, 0.035 * pixels), (found.high, 0.75 * pixels)):
        assert interval.value == pytest.approx(1, abs=5 * math.sqrt(2 / count))
    for shape in (found.coordinates, found.projections):
        assert shape.rejected == 0
        assert shape.kurtosis == pytest.approx(0, abs=5 * math.sqrt(24 / N / 16))
        # mean |G1| of normal draws is sqrt(2 / pi) of its deviation sqrt(6 / N)
        assert shape.skewness == pytest.approx(math.sqrt(2 / math.pi * 6 / N), rel=0.6)


def test_white_noise_is_rejected_at_the_stated_rate() -> None:
    # 5% for all tests of a set together, and 5% for its radius
    sets = [of(noise(seed, 50)[..., :8, :8], tests=8, seed=seed) for seed in range(100)]
    tests = sum(s.coordinates.rejected + s.projections.rejected > 0 for s in sets)
    radius = sum(s.radius_p <= 0.05 for s in sets)
    # of 100 at 5% the chance of more than 13 is below 0.0005, of none below 0.006
    assert 0 < tests <= 13
    assert 0 < radius <= 13


def test_a_mean_and_a_scale_are_measured_and_no_departure_from_normality() -> None:
    mean = 0.3 * torch.where(torch.arange(D) % 2 == 0, 1.0, -1.0).reshape(SHAPE)
    found = of(2 * noise() + mean)
    # error of the unbiased square: sigma^2 sqrt(2 / d) / N and 2 sigma |mu| / sqrt(N d)
    assert found.mean.value == pytest.approx(0.3, abs=0.05)
    assert found.deviation == pytest.approx(2, abs=0.01)
    assert found.radius == pytest.approx(2, abs=0.02)
    assert found.radius_spread.value == pytest.approx(1, abs=5 / math.sqrt(2 * N))
    assert found.radius_p > 1e-3
    assert found.low.value == pytest.approx(1, abs=0.15)
    assert found.coordinates.rejected == found.projections.rejected == 0


@pytest.mark.parametrize("factor", [0.99, 1.0, 1.01])
def test_the_spread_of_the_radius_has_the_p_value_of_a_chi_squared_variable(factor: float) -> None:
    from scipy import stats

    # the first half of the latents is larger or smaller, or is not
    latents = noise(8)
    latents[: N // 2] *= factor
    x = latents.double().flatten(1)
    squares = (x - x.mean(dim=0)).square().sum(dim=1)
    # N / (N - 1) of them are chi-squared, of the variance 2 d
    variance = squares.var() / (squares.sum() / N / D).square() / (2 * D)
    law = stats.chi2(N - 1)
    statistic = float(variance) * (N - 1)
    expected = 2 * min(law.cdf(statistic), law.sf(statistic))
    assert of(latents).radius_p == pytest.approx(expected, rel=1e-6)


def test_heavy_tails_of_single_coordinates_are_found() -> None:
    n = 1000
    uniform = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(4)) - 0.5
    found = of(-uniform.sign() * torch.log1p(-2 * uniform.abs()), draws=4000)
    assert found.coordinates.kurtosis == pytest.approx(3, abs=0.5)
    assert found.coordinates.rejected == 1
    # a sum of many independent numbers is normal all the same
    assert found.projections.kurtosis == pytest.approx(0, abs=5 * math.sqrt(24 / n / 16))
    assert found.projections.rejected == 0


def test_heavy_tails_of_whole_latents_are_found() -> None:
    # t of 10 degrees of freedom: one scale a latent; its excess kurtosis is 6 / (10 - 4)
    n = 1000
    generator = torch.Generator().manual_seed(5)
    chi_square = torch.randn(n, 10, generator=generator).square().sum(dim=1)
    latents = noise(6, n) * (8 / chi_square).sqrt()[:, None, None, None]
    found = of(latents, draws=4000)
    for shape in (found.coordinates, found.projections):
        assert shape.kurtosis == pytest.approx(1, abs=0.5)
        assert shape.rejected > 0.3
    assert found.radius_p < 1e-6
    # the deviation of a radius that is (d 8 / chi^2_10)^(1/2): E = sqrt(4) Gamma(4.5) / Gamma(5)
    first = 2 * math.gamma(4.5) / math.gamma(5)
    expected = math.sqrt(D * (1 - first**2)) / chi_deviation(D)
    assert found.radius_spread.value == pytest.approx(expected, rel=0.15)
    assert found.radius_spread.low < expected < found.radius_spread.high


def test_spatial_traces_are_found_about_the_mean() -> None:
    white = noise()
    smooth = (white + white.roll(1, dims=3)) / math.sqrt(2)
    found = of(smooth + torch.linspace(-3, 3, 12))
    # 1/2 along rows and 0 along columns; the ramp is the mean and no trace of single latents
    assert found.neighbours.value == pytest.approx(0.25, abs=0.02)
    assert found.low.value > 1.5
    assert found.high.value < 0.95
    assert found.colours is not None
    assert found.colours.value == pytest.approx(0, abs=0.02)
    grey = noise(7)[:, :1].expand(-1, 3, -1, -1)
    assert of(grey).colours == pytest.approx((1, 1, 1))


def test_results_do_not_depend_on_blocks_and_depend_on_the_seed() -> None:
    class Single(InMemory):
        def blocks(self, size: int = 1) -> Iterator[Tensor]:
            return super().blocks(1)

    latents = noise()
    whole = of(latents)
    apart = gaussianity(Single(latents), tests=16, draws=DRAWS)
    assert vars(apart.coordinates) == pytest.approx(vars(whole.coordinates))
    assert vars(apart.projections) == pytest.approx(vars(whole.projections), rel=1e-4)
    assert apart.radius_spread == pytest.approx(whole.radius_spread)
    assert apart.low == pytest.approx(whole.low)
    assert of(latents, seed=1).coordinates != whole.coordinates


def test_one_colour_has_no_correlation_of_colours() -> None:
    assert of(noise()[:, :1]).colours is None


def test_the_size_of_the_mean_is_that_of_products_of_different_latents() -> None:
    latents = noise(3, 20) + 0.2
    found = of(latents).mean
    K = latents.double().flatten(1) @ latents.double().flatten(1).T
    off = ~torch.eye(20, dtype=torch.bool)
    assert found.value == pytest.approx(float(K[off].mean() / D) ** 0.5)
    # the jackknife by its definition
    left_out = torch.stack([K[off & keep & keep[:, None]].mean() for keep in off])
    variance = 19 / 20 * (left_out - left_out.mean()).square().sum()
    reach = 1.959964 * float(variance) ** 0.5
    assert found.high == pytest.approx(((found.value**2 * D + reach) / D) ** 0.5, rel=1e-6)
    assert found.low == pytest.approx(((found.value**2 * D - reach) / D) ** 0.5, rel=1e-6)


def test_the_interval_of_the_mean_is_wide_enough_at_the_fewest_latents() -> None:
    # where the mean outweighs the spread, the variance of |mean|^2 is 4 |mu|^2 / n
    n, size, d, runs = 12, 10.0, 4, 300
    squares = []
    for seed in range(runs):
        latents = noise(seed, n)[:, :1, :2, :2] + size
        _, low, high = of(latents, tests=1, draws=100).mean
        squares.append(((high**2 - low**2) * d / 2 / 1.959964) ** 2)
    # each is chi-squared with n - 1 degrees of freedom
    assert sum(squares) / runs == pytest.approx(
        4 * size**2 * d / n, rel=5 * math.sqrt(2 / (n - 1) / runs)
    )


@pytest.mark.parametrize("size", [0.0, 0.03, 0.3])
def test_the_interval_of_the_mean_holds_the_truth(size: float) -> None:
    # neighbours are alike: as many independent numbers as white noise of a ninth of the pixels
    held, excess = 0, 0
    for seed in range(100):
        white = noise(seed, 30)[..., :6, :6].repeat_interleave(3, 2).repeat_interleave(3, 3)
        found = of(white + size, tests=1, draws=100).mean
        held += found.low <= size <= found.high
        excess += found.low > 0
    # of 100 at 95% the chance of fewer than 87 is below 0.001
    assert held >= 87
    if not size:
        assert excess <= 5
    if size == 0.3:
        assert excess == 100


def test_more_tests_than_could_reject_are_refused() -> None:
    assert most_tests() == 1250
    assert 0.05 / (4 * 1250) >= 1 / 100_001 > 0.05 / (4 * 1251)
    with pytest.raises(ValueError, match=r"tests must be in 1\.\.12, got 13"):
        of(noise(), tests=13, draws=1000)
    # all that may be tested are rejected by the smallest p-value there is
    tails = noise(4, 1000)[:, :1, :4, :4].pow(5)
    assert of(tails, tests=12, draws=1000).coordinates.rejected == 1


@pytest.mark.parametrize("n", [11, 5001])
def test_sets_that_cannot_be_tested_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"got {n}"):
        of(torch.zeros(n, 1, 2, 2))


@pytest.mark.parametrize("d", [2, 99, 100, 3072])
def test_the_chi_law_has_its_moments(d: int) -> None:
    from scipy import stats

    assert chi_mean(d) == pytest.approx(stats.chi.mean(d), rel=1e-9)
    assert chi_deviation(d) == pytest.approx(stats.chi.std(d), rel=1e-6)
