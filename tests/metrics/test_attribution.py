import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ood_sampler.metrics.attribution import attribution
from ood_sampler.metrics.blend import best_pair, forward_selection


def normal(rows: int, columns: int = 30, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def orthogonal(rows: int) -> Tensor:
    """Vectors of mean 0 and length 1 at right angles."""
    return torch.linalg.qr(torch.cat([torch.ones(1, 30).double(), normal(rows)]).T).Q.T[1:]


def r_squared(sample: Tensor, chosen: Tensor) -> float:
    """Share of variance explained by least squares with an intercept."""
    y = sample.numpy()
    design = np.column_stack([np.ones(len(y)), chosen.numpy().T])
    residual = y - design @ np.linalg.lstsq(design, y)[0]
    return float(1 - residual @ residual / ((y - y.mean()) @ (y - y.mean())))


def test_mixtures_of_orthogonal_pictures_are_taken_apart() -> None:
    reference = orthogonal(9)
    weights = torch.zeros(3, 9, dtype=torch.float64)
    weights[0, [7, 2, 4, 0, 5]] = torch.tensor([5.0, -4.0, 3.0, 2.0, 1.0]).double()
    weights[1, [3, 8]] = torch.tensor([1.0, 2.0]).double()
    weights[2, 6] = -1
    indices, shares = attribution(weights @ reference + 3, reference)
    assert indices[0].tolist() == [7, 2, 4, 0, 5]
    # squares of the weights over their sum
    assert shares[0].tolist() == pytest.approx([25 / 55, 16 / 55, 9 / 55, 4 / 55, 1 / 55])
    assert indices[1, :2].tolist() == [8, 3]
    assert shares[1].tolist() == pytest.approx([0.8, 0.2, 0, 0, 0], abs=1e-12)
    assert indices[2, 0] == 6
    assert shares[2].tolist() == pytest.approx([1, 0, 0, 0, 0], abs=1e-12)
    assert all(len(set(row)) == 5 for row in indices.tolist())


def test_a_picture_like_an_earlier_one_gets_what_it_adds() -> None:
    a, b = orthogonal(2)
    # correlation 0.6: the sum of both is explained to 0.8 by either, and wholly by both
    reference = torch.stack([0.6 * a + 0.8 * b, a])
    indices, shares = attribution((reference[0] + reference[1])[None], reference)
    assert sorted(indices[0].tolist()) == [0, 1]
    assert shares[0].tolist() == pytest.approx([0.8, 0.2])
    # the one that explains more alone comes first, wherever it stands
    for turned in (reference, reference.flip(0)):
        indices, shares = attribution((turned[0] + 2 * turned[1])[None], turned)
        assert indices[0].tolist() == [1, 0]
        # a + 2 b of correlation 0.6: variance 1 + 4 + 2.4, product with b 2.6
        assert shares[0].tolist() == pytest.approx([2.6**2 / 7.4, 1 - 2.6**2 / 7.4])


@settings(deadline=None, derandomize=True, max_examples=15)
@given(seed=st.integers(0, 1000), size=st.integers(2, 7))
def test_shares_add_up_to_the_blend_score(seed: int, size: int) -> None:
    samples, reference = normal(6, seed=seed), normal(7, seed=seed + 1)
    indices, shares = attribution(samples, reference, size=size)
    blend = forward_selection(
        samples, reference, best_pair(samples, reference).indices, size=size
    ).r_squared
    torch.testing.assert_close(shares.sum(dim=1), blend, rtol=1e-9, atol=0)
    for sample, rows, parts in zip(samples, indices, shares, strict=True):
        explained = [r_squared(sample, reference[rows[:k]]) for k in range(1, size + 1)]
        assert parts.tolist() == pytest.approx(np.diff([0, *explained]).tolist(), abs=1e-9)


def test_few_pictures_are_all_chosen() -> None:
    indices, shares = attribution(normal(4), normal(3, seed=1))
    assert indices.sort(dim=1).values.tolist() == [[0, 1, 2]] * 4
    assert shares.shape == (4, 3)


def test_constant_samples_are_attributed_to_nothing() -> None:
    assert attribution(torch.ones(1, 30), normal(3)).shares.tolist() == [[0, 0, 0]]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"size must be at least that of start \(2\), got 1"):
        attribution(normal(2), normal(4), size=1)
