import pytest
import torch

from ood_sampler.statistics.ranks import rank_correlation, ranks


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 7.0])).tolist() == [2.5, 1.0, 2.5, 4.0]


def test_the_correlation_is_that_of_scipy() -> None:
    from scipy.stats import spearmanr

    x = torch.tensor([1.0, 5.0, 2.0, 2.0, 9.0, 4.0])
    y = torch.tensor([0.3, 0.2, 0.8, 0.1, 0.9, 0.7])
    assert rank_correlation(x, y)[0] == pytest.approx(spearmanr(x, y).statistic)


def test_the_p_value_counts_permutations() -> None:
    x = torch.arange(4.0)
    # of 24 orders, the rising and the falling one reach |rho| = 1
    assert rank_correlation(x, x.exp()) == (pytest.approx(1.0), pytest.approx(2 / 24))
    assert rank_correlation(x, -x)[0] == pytest.approx(-1.0)
    # 0, 1, 3, 2: sum of d^2 = 2, rho = 1 - 6 * 2 / 60 = 0.8; |rho| >= 0.8 in 8 orders
    rho, p = rank_correlation(x, torch.tensor([0.0, 1.0, 3.0, 2.0]))
    assert rho == pytest.approx(0.8)
    assert p == pytest.approx(8 / 24)


def test_many_pairs_are_permuted_at_random() -> None:
    x = torch.arange(30.0)
    rho, p = rank_correlation(x, x.flip(0).square())
    assert rho == pytest.approx(-1.0)
    assert p == pytest.approx(1 / 20_001)


def test_a_constant_has_no_rank_correlation() -> None:
    assert rank_correlation(torch.ones(5), torch.arange(5.0)) == (0.0, 1.0)


def test_two_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3, got 2"):
        rank_correlation(torch.ones(2), torch.ones(2))
