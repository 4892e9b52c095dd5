from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ood_sampler.metrics import feature_sets
from ood_sampler.metrics.capture import CapturedFraction, captured_fraction, subsample


def normal(rows: int, columns: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def measure(samples: Tensor, in_domain: Tensor, target: Tensor, seed: int = 0) -> float:
    metric = CapturedFraction(nearest_k=3, seed=seed)
    metric.update(generated=samples, in_domain=in_domain, held_out=target)
    return cast(float, metric.compute()["captured"])


def test_by_hand() -> None:
    in_domain, target = torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([[2.0], [10.0], [11.0]])
    samples = torch.tensor([[0.4], [1.8], [9.4], [12.0]])
    # One neighbour: 0.4 and 9.4 are in-domain. Of three, 0.4 sees 0, 1, 2; 1.8 sees 2, 1, 0 and is
    # captured as well; 9.4 sees 9, 10, 11 and is not.
    fraction = captured_fraction(samples, in_domain, target, nearest_k=1)
    assert fraction.dtype == torch.float64
    assert float(fraction) == 0.5
    assert float(captured_fraction(samples[1:2], in_domain, target, nearest_k=1)) == 0
    assert float(captured_fraction(samples[1:2], in_domain, target, nearest_k=3)) == 1
    assert float(captured_fraction(samples[2:3], in_domain, target, nearest_k=1)) == 1
    assert float(captured_fraction(samples[2:3], in_domain, target, nearest_k=3)) == 0


@settings(deadline=None, derandomize=True, max_examples=25)
@given(half=st.integers(0, 9), block=st.integers(1, 300), seed=st.integers(0, 1000))
def test_is_the_vote_of_the_nearest(half: int, block: int, seed: int) -> None:
    samples, in_domain, target = (normal(10, seed=seed + i) + 0.3 * i for i in range(3))
    nearest_k = 2 * half + 1
    union = torch.cat([in_domain, target])
    order = (samples[:, None] - union).square().sum(-1).argsort(1)[:, :nearest_k]
    votes = (order < 10).double().mean(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_sets, "_BLOCK_ENTRIES", block)
        fraction = captured_fraction(samples, in_domain, target, nearest_k=nearest_k)
    assert float(fraction) == float((votes > 0.5).double().mean())


@settings(deadline=None, derandomize=True, max_examples=10)
@given(n=st.integers(3, 12), m=st.integers(3, 12), seed=st.integers(0, 1000))
def test_separated_clusters(n: int, m: int, seed: int) -> None:
    in_domain, target = normal(n, seed=seed), normal(m, seed=seed + 1) + 1000
    samples = normal(6, seed=seed + 2)
    assert measure(samples, in_domain, target) == 1
    assert measure(samples + 1000, in_domain, target) == 0


def test_equal_distance_is_not_captured() -> None:
    same = normal(5)
    assert measure(normal(4, seed=1), same, same) == 0


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 1000), cut=st.integers(1, 39), larger=st.booleans())
def test_ignores_order_and_batches(seed: int, cut: int, larger: bool) -> None:
    samples, many, few = (normal(rows, seed=seed + rows) for rows in (30, 40, 10))
    sets = (few, many) if larger else (many, few)
    metric = CapturedFraction(nearest_k=3, seed=seed)
    metric.update(generated=samples.flip(0))
    metric.update(**{"in_domain" if larger else "held_out": few.flip(0)})
    for batch in many.roll(cut, 0).split([cut, 40 - cut]):
        metric.update(**{"held_out" if larger else "in_domain": batch})
    assert metric.compute()["captured"] == measure(samples, *sets, seed=seed)


def test_larger_set_has_no_advantage() -> None:
    # All from one distribution: half are captured, whichever set was larger.
    samples, many, few = normal(2000), normal(900, seed=1), normal(300, seed=2)
    # The two sets are drawn once, so their own chance deviation is part of the error.
    errors = (0.25 / 2000 + 0.25 / 300) ** 0.5
    assert measure(samples, many, few) == pytest.approx(0.5, abs=5 * errors)
    assert measure(samples, few, many) == pytest.approx(0.5, abs=5 * errors)


def test_subsample_draws_distinct_rows_by_seed() -> None:
    x = torch.arange(40.0).reshape(20, 2)
    first = subsample(x, 8, seed=0)
    assert first.unique(dim=0).shape == (8, 2)
    assert (first[:, 1] - first[:, 0] == 1).all()
    assert (first[:, 0] % 2 == 0).all()
    assert not first.equal(subsample(x, 8, seed=1))
    assert first.equal(subsample(x.flip(0), 8, seed=0))
    # Every row is drawn 8 / 20 of the time.
    counts = torch.stack(
        [torch.isin(x[:, 0], subsample(x, 8, seed=s)[:, 0]).double() for s in range(400)]
    )
    error = (0.4 * 0.6 / 400) ** 0.5
    torch.testing.assert_close(
        counts.mean(0), torch.full((20,), 0.4).double(), rtol=0, atol=5 * error
    )


@pytest.mark.parametrize("name", ["samples", "in_domain", "target"])
def test_sets_that_are_no_features_are_refused_by_name(name: str) -> None:
    sets = {each: normal(5) for each in ("samples", "in_domain", "target")}
    for wrong, message in (
        (normal(5)[0], rf"{name} must have shape \(N, D\), got \(4,\)"),
        (normal(0), f"{name} must hold at least 1 vectors, got 0"),
        (normal(5).where(torch.eye(5, 4) == 0, torch.nan), f"{name} must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            captured_fraction(**{**sets, name: wrong}, nearest_k=1)
    wide = "in_domain must be as wide as samples" if name == "samples" else f"{name} must be as"
    with pytest.raises(ValueError, match=wide):
        captured_fraction(**{**sets, name: normal(5, 6)}, nearest_k=1)


def test_the_interval_is_drawn_by_the_seed() -> None:
    # references of one size, of which none is cut
    sets = {"generated": normal(50), "in_domain": normal(40, seed=1), "held_out": normal(40, seed=2)}
    found = [CapturedFraction(nearest_k=3, seed=seed).figures(**sets) for seed in (1, 2, 2)]
    assert found[0]["captured"] == found[1]["captured"]
    assert found[0] != found[1] == found[2]


def test_metric_draws_by_its_seed() -> None:
    samples, many, few = normal(500), normal(300, seed=1), normal(20, seed=2)
    for sets in ((many, few), (few, many)):
        assert measure(samples, *sets, seed=0) == measure(samples, *sets, seed=0)
        assert measure(samples, *sets, seed=0) != measure(samples, *sets, seed=1)


def test_bad_input() -> None:
    for nearest_k in (0, 2, -1):
        with pytest.raises(ValueError, match=f"nearest_k must be odd and >= 1.*got {nearest_k}"):
            CapturedFraction(nearest_k=nearest_k, seed=0)
    with pytest.raises(ValueError, match="target must be as large as in_domain, got 4 and 5"):
        captured_fraction(normal(2), normal(5), normal(4), nearest_k=1)
    captured_fraction(normal(2), normal(3), normal(3), nearest_k=5)
    with pytest.raises(ValueError, match="nearest_k must be at most 5 for reference sets of 3"):
        captured_fraction(normal(2), normal(3), normal(3), nearest_k=7)
