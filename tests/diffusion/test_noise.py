import math
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise, Stream


def noise(
    seed: int = 0, indices: list[int] | None = None, stream: Stream = Stream.LATENT
) -> SampleNoise:
    return SampleNoise(seed, [0] if indices is None else indices, stream=stream)


def all_draws(source: SampleNoise) -> list[Tensor]:
    """Several kinds in a row: a later draw depends on how much the earlier ones took."""
    return [source.normal(3, 5), source.uniform(), source.choice(20, 4), source.normal(2)]


def test_a_draw_depends_on_seed_and_index_alone() -> None:
    indices = [7, 0, 10**12, 3]
    together = all_draws(noise(5, indices))
    alone = [all_draws(noise(5, [index])) for index in indices]
    for k, batch in enumerate(together):
        assert torch.equal(batch, torch.cat([draws[k] for draws in alone]))


def test_key_and_counter_are_those_of_stored_results() -> None:
    philox = np.random.Philox(key=np.array([5, 7], dtype=np.uint64), counter=[0, 0, 0, 1])
    expected = np.random.Generator(philox).standard_normal((2, 3), dtype=np.float32)
    draw = noise(5, [7], Stream.DECODE).normal(2, 3)
    assert torch.equal(draw[0], torch.from_numpy(expected))


def test_shapes_and_types() -> None:
    source = noise(0, [1, 2, 3])
    assert len(source) == 3
    for draw, shape, dtype in (
        (source.normal(2, 4), (3, 2, 4), torch.float32),
        (source.normal(), (3,), torch.float32),
        (source.uniform(), (3,), torch.float32),
        (source.uniform(2), (3, 2), torch.float32),
        (source.choice(9, 4), (3, 4), torch.int64),
    ):
        assert tuple(draw.shape) == shape
        assert draw.dtype == dtype


def test_seeds_indices_streams_and_draws_are_independent() -> None:
    n = 40_000
    source = noise()
    draws = [
        source.normal(n),
        source.normal(n),
        noise(1).normal(n),
        noise(0, [1]).normal(n),
        noise(1, [1]).normal(n),
        noise(2**32).normal(n),
        noise(2**63).normal(n),
        noise(2**64 - 1).normal(n),
        noise(2**64 - 2).normal(n),
        noise(0, [2**32]).normal(n),
        *(noise(stream=stream).normal(n) for stream in Stream if stream != Stream.LATENT),
    ]
    for a, b in combinations(draws, 2):
        assert abs(float((a.double() * b.double()).mean())) < 5 / math.sqrt(n)


def test_streams_have_their_own_numbers() -> None:
    # they are part of every result: a new purpose takes a new number
    assert (Stream.LATENT, Stream.DECODE, Stream.FIT) == (0, 1, 2)


def test_some_streams_go_on_where_they_are() -> None:
    source, whole = noise(5, [7, 3, 4]), noise(5, [7, 3, 4])
    expected = torch.stack([whole.normal(2) for _ in range(3)])
    assert torch.equal(source.normal(2), expected[0])
    some = source.only([2, 0])
    assert len(some) == 2
    assert list(some.indices) == [4, 7]
    assert torch.equal(some.normal(2), expected[1, [2, 0]])
    # the ones left out have not moved
    assert torch.equal(source.normal(2)[1], expected[1, 1])
    assert torch.equal(some.attempts(0, [1]).normal(4), noise(5, [4]).attempts(0, [1]).normal(4))


def test_an_attempt_depends_on_seed_index_and_number_alone() -> None:
    source = noise(5, [7, 3])
    attempts = all_draws(source.attempts(1, range(2, 5)))
    # whatever was drawn before, by whatever batch, in whatever blocks
    other = noise(5, [3])
    other.normal(11)
    parts = [all_draws(other.attempts(0, [number])) for number in (2, 3, 4)]
    for k, batch in enumerate(attempts):
        assert torch.equal(batch, torch.cat([part[k] for part in parts]))
    again = noise(5, [3])
    other = noise(5, [3])
    other.attempts(0, range(4)).normal(5)
    assert torch.equal(other.normal(5), again.normal(5))


def test_attempts_are_independent() -> None:
    n = 40_000
    draws = [
        noise(0, [1]).normal(n),
        *noise(0, [1]).attempts(0, [0, 1, 2, 10_000]).normal(n).split(1),
        noise(0, [2]).attempts(0, [0]).normal(n),
        noise(1, [1]).attempts(0, [0]).normal(n),
        noise(0, [1], Stream.DECODE).attempts(0, [0]).normal(n),
    ]
    for a, b in combinations(draws, 2):
        assert abs(float((a.double() * b.double()).mean())) < 5 / math.sqrt(n)


def test_normal_has_the_moments() -> None:
    n = 100_000
    z = noise(3, [0, 1]).normal(n // 2).double().flatten()
    # variances of z, z^2, z^3, z^4 are 1, 2, 15, 96
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((z**power).mean()) - moment) < 5 * math.sqrt(variance / n)


def test_uniform_has_the_moments() -> None:
    n = 100_000
    u = noise(3).uniform(n).double()
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    # variances of u and u^2 are 1/12 and 4/45
    for power, moment, variance in ((1, 1 / 2, 1 / 12), (2, 1 / 3, 4 / 45)):
        assert abs(float((u**power).mean()) - moment) < 5 * math.sqrt(variance / n)


def test_choice_is_distinct_and_even() -> None:
    n, population, k = 4000, 5, 3
    chosen = noise(1, list(range(n))).choice(population, k)
    assert (chosen.sort(dim=1).values.diff(dim=1) > 0).all()
    # each place holds each number with probability 1/5
    share = 1 / population
    counts = torch.stack([(chosen == number).sum(0) for number in range(population)]) / n
    assert (counts - share).abs().max() < 5 * math.sqrt(share * (1 - share) / n)
    with pytest.raises(ValueError, match="larger sample than population"):
        noise().choice(2, 3)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match=r"seed must be in 0\.\.2\*\*64 - 1, got"):
        noise(seed)
