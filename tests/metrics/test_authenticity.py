import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ood_sampler.metrics import feature_sets
from ood_sampler.metrics.authenticity import Authenticity, authentic, authenticity, nearest
from ood_sampler.statistics.intervals import mean_interval, with_bounds


def normal(rows: int, columns: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


REFERENCE = torch.tensor([[0.0], [1.0], [5.0]])  # own nearest at 1, 1 and 4


def test_nearest_by_hand() -> None:
    distance, indices = nearest(torch.tensor([[-2.0], [0.75], [2.5], [7.0]]), REFERENCE)
    assert distance.tolist() == [2.0, 0.25, 1.5, 2.0]
    assert indices.tolist() == [0, 1, 1, 2]


def test_authenticity_by_hand() -> None:
    # -2: 2 > 1; 0.75: 0.25 < 1; 2.5: 1.5 > 1; 7: 2 < 4 although it is as far as the others.
    samples = torch.tensor([[-2.0], [0.75], [2.5], [7.0]])
    score = authenticity(samples, REFERENCE)
    assert score.dtype == torch.float64
    assert float(score) == 0.5
    # Exactly as far as the neighbour is not farther.
    assert float(authenticity(torch.tensor([[-1.0]]), REFERENCE)) == 0


@settings(deadline=None, derandomize=True, max_examples=20)
@given(block=st.integers(1, 300), seed=st.integers(0, 1000))
def test_nearest_in_blocks(block: int, seed: int) -> None:
    samples, reference = normal(13, seed=seed), normal(9, seed=seed + 1)
    expected = (samples[:, None] - reference).square().sum(-1).sqrt().min(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_sets, "_BLOCK_ENTRIES", block)
        distance, indices = nearest(samples, reference)
    torch.testing.assert_close(distance, expected.values)
    assert indices.equal(expected.indices)


def test_copies_and_strangers() -> None:
    reference = normal(20)
    assert float(authenticity(reference, reference)) == 0
    assert float(authenticity(reference + 1e-6, reference)) == 0
    assert float(authenticity(reference + 100, reference)) == 1


def test_repeated_references_are_one() -> None:
    samples = torch.tensor([[-2.0], [0.0], [0.75], [2.5], [7.0]])
    expected = authentic(samples, REFERENCE).tolist()
    assert expected == [True, False, False, True, False]
    # of 1, which two samples are nearest to, there are ten; the last ones differ by rounding
    several = torch.cat([REFERENCE, REFERENCE[1:2].repeat(5, 1), REFERENCE[[1] * 4] + 2e-7])
    assert authentic(samples, several).tolist() == expected
    one_in_ten = torch.cat([normal(9), normal(9)[:1]])
    assert float(authenticity(one_in_ten, one_in_ten)) == 0


def test_copies_of_one_image_ten_times_are_no_new_images() -> None:
    image = normal(1)
    # nothing says how far from it a new image would lie
    for samples in (image.repeat(4, 1), image + 5):
        assert float(authenticity(samples, image.repeat(10, 1))) == 0


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 1000), cut=st.integers(1, 19))
def test_ignores_order_and_batches(seed: int, cut: int) -> None:
    samples, reference = normal(20, seed=seed), normal(15, seed=seed + 1)
    metric = Authenticity(seed=seed)
    metric.update(few_shot=reference.flip(0))
    for batch in samples.roll(cut, 0).split([cut, 20 - cut]):
        metric.update(new=batch)
    expected = mean_interval(authentic(samples, reference), seed=seed)
    assert metric.compute() == with_bounds({"authenticity": expected})


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="reference must hold at least 2 vectors, got 1"):
        authenticity(normal(3), normal(1))
    with pytest.raises(ValueError, match=r"reference must be as wide as samples \(4\), got 2"):
        nearest(normal(3), normal(3, 2))
