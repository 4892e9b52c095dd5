import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from ood_sampler.statistics.normality import (
    excess_kurtosis,
    holm,
    lilliefors_distance,
    lilliefors_p,
    shapiro_wilk,
    skewness,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def laplace(n: int, m: int) -> Tensor:
    u = torch.rand(n, m, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5
    return -u.sign() * torch.log1p(-2 * u.abs())


def exponential(n: int, m: int) -> Tensor:
    u = torch.rand(n, m, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return -torch.log1p(-u)


def test_the_distance_is_that_of_the_test_of_kolmogorov_and_smirnov() -> None:
    values = 3 + 2 * normal(40, 5)
    expected = [
        stats.kstest(((x - x.mean()) / x.std()).numpy(), "norm").statistic for x in values.T
    ]
    assert lilliefors_distance(values).tolist() == pytest.approx(expected, abs=1e-12)


def test_the_distance_of_two_points_is_known() -> None:
    # standardised they are -1/sqrt(2) and 1/sqrt(2)
    expected = 0.5 * (1 + math.erf(0.5)) - 0.5
    assert float(lilliefors_distance(torch.tensor([[5.0], [7.0]]))) == pytest.approx(expected)


@pytest.mark.parametrize("n", [20, 100])
def test_critical_values_are_those_of_the_tables(n: int) -> None:
    # Stephens, 1974, table 1A, case 3: D (sqrt(n) - 0.01 + 0.85 / sqrt(n)) at 10%, 5% and 1%
    critical = torch.tensor([0.819, 0.895, 1.035]) / (n**0.5 - 0.01 + 0.85 / n**0.5)
    p = lilliefors_p(critical.double(), n, draws=20_000)
    # the table has two digits
    for found, level in zip(p.tolist(), (0.10, 0.05, 0.01), strict=True):
        assert found == pytest.approx(level, abs=5 * (level / 20_000) ** 0.5 + 0.05 * level)


def test_the_law_of_known_parameters_would_never_reject() -> None:
    distance = lilliefors_distance(normal(50, 400))
    naive = stats.kstwo.sf(distance.numpy(), 50)
    assert (naive <= 0.05).mean() == 0
    assert 0.02 < float((lilliefors_p(distance, 50, draws=20_000) <= 0.05).double().mean()) < 0.09


def test_p_values_are_never_zero_and_reach_one() -> None:
    p = lilliefors_p(torch.tensor([0.0, 0.9]).double(), 30, draws=999)
    assert p.tolist() == pytest.approx([1.0, 1 / 1000])


@pytest.mark.parametrize("n", [12, 13, 50, 500, 4000])
@pytest.mark.parametrize("draw", [normal, laplace, exponential])
def test_shapiro_and_wilk_agree_with_scipy(n: int, draw: Callable[[int, int], Tensor]) -> None:
    values = 5 + 3 * draw(n, 3)
    W, p = shapiro_wilk(values)
    for x, w, q in zip(values.T, W.tolist(), p.tolist(), strict=True):
        expected = stats.shapiro(x.numpy())
        assert w == pytest.approx(expected.statistic, abs=1e-6)
        assert q == pytest.approx(expected.pvalue, rel=1e-3, abs=1e-12)


@pytest.mark.parametrize("n", [11, 5001])
def test_shapiro_and_wilk_refuse_what_their_approximation_is_not_for(n: int) -> None:
    with pytest.raises(ValueError, match=f"12 to 5000 rows .*, got {n}"):
        shapiro_wilk(normal(n, 1))


def test_a_constant_is_not_normal() -> None:
    W, p = shapiro_wilk(torch.ones(30, 1))
    assert float(W) == 0
    assert float(p) < 1e-10
    assert float(lilliefors_distance(torch.ones(30, 1))) == 0.5


@pytest.mark.parametrize(
    ("draw", "skew", "kurtosis"),
    [(normal, 0, 0), (laplace, 0, 3), (exponential, 2, 6)],
    ids=["normal", "Laplace", "exponential"],
)
def test_moments_are_those_of_the_law(
    draw: Callable[[int, int], Tensor], skew: float, kurtosis: float
) -> None:
    # averages of 100 variables; the spread between them tells the error
    values = 7 + 2 * draw(20_000, 100)
    for found, expected in ((skewness(values), skew), (excess_kurtosis(values), kurtosis)):
        error = float(found.std()) / 10
        assert float(found.mean()) == pytest.approx(expected, abs=5 * error)


def test_moments_of_few_numbers_are_those_of_scipy() -> None:
    values = exponential(15, 4)
    expected = stats.skew(values.numpy(), bias=False), stats.kurtosis(values.numpy(), bias=False)
    assert skewness(values).tolist() == pytest.approx(expected[0].tolist())
    assert excess_kurtosis(values).tolist() == pytest.approx(expected[1].tolist())


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, never falling
    adjusted = holm(torch.tensor([0.03, 0.01, 0.04, 0.02]).double())
    assert adjusted.tolist() == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm(torch.tensor([0.9, 0.8])).tolist() == pytest.approx([1.0, 1.0])
