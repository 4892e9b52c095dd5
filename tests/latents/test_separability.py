import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ood_sampler.latents.separability import (
    CROSS_VALIDATED,
    Joined,
    Pair,
    auroc,
    detection,
    discriminant,
    fpr_at_tpr,
    log_odds_interval,
    shrinkage,
)
from ood_sampler.store.sets import InMemory

SHAPE = (3, 20, 20)
D = math.prod(SHAPE)


def normal(n: int, seed: int, *, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def shift(length: float) -> Tensor:
    direction = torch.randn(SHAPE, generator=torch.Generator().manual_seed(99))
    return length * direction / direction.norm()


def pair(outside: Tensor, inside: Tensor) -> Pair:
    return Pair(InMemory(outside), InMemory(inside))


def phi(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def test_joined_sets_follow_each_other() -> None:
    first, second = normal(3, 0), normal(4, 1)
    joined = Joined(InMemory(first), InMemory(second))
    assert len(joined) == 7
    assert joined.shape == SHAPE
    assert torch.equal(joined.take([5, 0, 3]), torch.cat([first, second])[[5, 0, 3]])
    assert torch.equal(torch.cat(list(joined.blocks(2))), torch.cat([first, second]))
    assert torch.equal(joined.take([1]), first[1:2])


class Stored(InMemory):
    """Like shards on disk, which tell no shape where nothing is read."""

    def take(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([self.items[index] for index in indices])


def test_a_block_of_one_set_alone_reads_nothing_of_the_other() -> None:
    first, second = normal(4, 0), normal(4, 1)
    joined = Joined(Stored(first), Stored(second))
    assert torch.equal(torch.cat(list(joined.blocks(4))), torch.cat([first, second]))


@pytest.mark.parametrize("length", [0.0, 10.0, 30.0])
@pytest.mark.parametrize("sizes", [(60, 60), (40, 120)])
def test_the_distance_of_means_is_that_of_the_laws(length: float, sizes: tuple[int, int]) -> None:
    n, m = sizes
    scale = 2.0
    found = pair(normal(n, 1, scale=scale) + shift(length), 5 + normal(m, 2, scale=scale))
    # 5 in every coordinate: far from the origin, as a length sqrt(d) 5 beside the shift
    expected = float((shift(length) - 5).norm()) / (scale * D**0.25)
    distance = found.distance(replicates=200)
    # the squared length has a deviation of 2 length sigma / sqrt(n), a hundredth of it here
    assert distance.value == pytest.approx(expected, rel=0.01)
    assert distance.low <= distance.value <= distance.high


@pytest.mark.parametrize("length", [0.0, 12.0, 30.0])
def test_the_squared_distance_is_unbiased(length: float) -> None:
    # the plain distance of the sample means of 30 latents would be sqrt(length^2 + d / 15)
    trials = [
        pair(normal(30, seed) + shift(length), normal(30, 1000 + seed)) for seed in range(0, 80)
    ]
    squares = []
    for trial in trials:
        n, K = trial.outside, trial.products
        ones = torch.ones(1, 30).double()
        value = float(trial._distance(ones, ones))
        squares.append(value**2)
        # against the definition, from the sums of products
        off = ~torch.eye(30, dtype=torch.bool)
        expected = K[:n, :n][off].mean() + K[n:, n:][off].mean() - 2 * K[:n, n:].mean()
        variance = (K.diagonal().sum() / 30 - K[:n, :n][off].mean() - K[n:, n:][off].mean()) / 2 / D
        assert value**2 == pytest.approx(
            max(float(expected), 0) / float(variance) / math.sqrt(D), rel=1e-6
        )
    found = torch.tensor(squares)
    error = float(found.std()) / len(found) ** 0.5
    if length:
        assert float(found.mean()) == pytest.approx(length**2 / math.sqrt(D), abs=5 * error)
    else:
        # half of the estimates are negative and count as 0
        assert float((found == 0).double().mean()) == pytest.approx(0.5, abs=5 * 0.5 / 80**0.5)


def test_the_interval_of_the_distance_covers_the_truth() -> None:
    covered = 0
    for seed in range(40):
        distance = pair(normal(40, seed) + shift(15), normal(40, 500 + seed)).distance(
            replicates=200
        )
        covered += distance.low <= 15 / D**0.25 <= distance.high
    # 95% of 40; the chance of 32 or fewer is below 0.001
    assert covered > 32


def test_a_linear_detector_of_white_noise_is_as_good_as_the_means_are_known() -> None:
    n, length = 200, 12.0
    pairs = [
        pair(normal(n, seed) + shift(length), normal(n, 100 + seed)).linear() for seed in (1, 2, 3)
    ]
    areas = [auroc(scores[:n], scores[n:]) for scores in pairs]
    # w is the true direction plus noise of the variance (1/k + 1/k) a coordinate, k = 4/5 n
    k = 0.8 * n
    expected = phi(length**2 / math.sqrt(2) / math.sqrt(length**2 + 2 * D / k))
    assert sum(areas) / 3 == pytest.approx(expected, abs=0.03)
    # the known means would give more
    assert phi(length / math.sqrt(2)) > 0.999


def test_equal_laws_cannot_be_told_apart() -> None:
    n = 200
    both = pair(normal(n, 1), normal(n, 2))
    # standard error of an area of 1/2: sqrt((2 n + 1) / (12 n^2)), larger across folds
    for scores in (both.linear(), both.typicality()):
        assert auroc(*both.split(scores)) == pytest.approx(0.5, abs=0.1)


def test_a_scale_is_found_by_the_radius_alone() -> None:
    n = 100
    for scale in (0.9, 1.1):
        both = pair(normal(n, 1, scale=scale), normal(n, 2))
        assert auroc(*both.split(both.typicality())) > 0.99
        assert auroc(*both.split(both.linear())) == pytest.approx(0.5, abs=0.15)


def test_the_detector_that_knows_one_set_measures_a_shift_by_the_radius() -> None:
    # r^2 grows by the square of the shift, which is 2 deviations sqrt(2 d) of it here
    n, length = 150, math.sqrt(2 * math.sqrt(2 * D))
    both = pair(normal(n, 1) + shift(length), normal(n, 2))
    # P(|2 + z| > |z'|) for independent standard normals
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 100_000, generator=generator)
    expected = float(((2 + z[0]).abs() > z[1].abs()).double().mean())
    assert auroc(*both.split(both.typicality())) == pytest.approx(expected, abs=0.08)


def test_the_discriminant_is_that_of_the_full_covariance_matrix() -> None:
    d = 30
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(24, d, generator=generator, dtype=torch.float64) * torch.linspace(0.2, 2, d)
    outside = torch.arange(24) < 10
    x[outside, 3:] += 0.8
    new = torch.randn(7, d, generator=generator, dtype=torch.float64)
    found = discriminant(x @ x.T, new @ x.T, outside=outside, d=d)

    ends = torch.stack([x[outside].mean(dim=0), x[~outside].mean(dim=0)])
    z = torch.where(outside[:, None], x - ends[0], x - ends[1])
    covariance = z.T @ z / 24
    rho = shrinkage(z @ z.T, d)
    assert 0 < rho < 1
    shrunk = (1 - rho) * covariance + rho * covariance.trace() / d * torch.eye(d)
    w = torch.linalg.solve(shrunk, ends[0] - ends[1])
    expected = (new @ w - (ends @ w).mean()) / ((ends[0] - ends[1]) @ w)
    torch.testing.assert_close(found, expected)


def test_the_shrinkage_is_that_of_the_definition() -> None:
    d, n = 15, 40
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.linspace(0.1, 3, d)
    S = z.T @ z / n
    target = S.trace() / d * torch.eye(d)
    error = sum(float((torch.outer(row, row) - S).square().sum()) for row in z) / n**2
    expected = min(1.0, error / float((S - target).square().sum()))
    assert shrinkage(z @ z.T, d) == pytest.approx(expected)
    # white noise in many dimensions: nothing but the mean variance can be learnt
    white = torch.randn(50, 3000, generator=generator, dtype=torch.float64)
    assert shrinkage(white @ white.T, 3000) > 0.95


def test_areas_and_rates_by_hand() -> None:
    positive, negative = torch.tensor([3.0, 2.0, 2.0, 0.0]), torch.tensor([2.0, 1.0])
    # wins: 3 beats both; 2 ties with 2 and beats 1, twice; 0 loses
    assert auroc(positive, negative) == (2 + 1.5 + 1.5 + 0) / 8
    assert fpr_at_tpr(positive, negative, tpr=0.75) == 0.5
    assert fpr_at_tpr(positive, negative, tpr=0.25) == 0
    assert fpr_at_tpr(positive, negative, tpr=1) == 1
    # ties at the threshold are all taken for positive
    assert fpr_at_tpr(torch.ones(4), torch.ones(3)) == 1
    with pytest.raises(ValueError, match=r"tpr must be in \(0, 1\], got 0"):
        fpr_at_tpr(positive, negative, tpr=0)


def test_areas_and_rates_of_normal_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    positive = 2 + torch.randn(4000, generator=generator)
    negative = torch.randn(4000, generator=generator)
    assert auroc(positive, negative) == pytest.approx(phi(math.sqrt(2)), abs=0.01)
    # 95% of N(2, 1) lie above 2 - 1.645
    assert fpr_at_tpr(positive, negative) == pytest.approx(1 - phi(2 - 1.645), abs=0.04)


def test_intervals_of_a_detector_hold_the_value() -> None:
    generator = torch.Generator().manual_seed(0)
    positive = 1 + torch.randn(80, generator=generator)
    negative = torch.randn(120, generator=generator)
    found = detection(positive, negative, replicates=400)
    assert found.auroc.value == pytest.approx(auroc(positive, negative))
    assert found.fpr95.value == pytest.approx(fpr_at_tpr(positive, negative))
    # Hanley & McNeil, 1982, eq. 2
    a = found.auroc.value
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = math.sqrt((a * (1 - a) + 79 * (q1 - a * a) + 119 * (q2 - a * a)) / (80 * 120))
    assert found.auroc.high - found.auroc.low == pytest.approx(2 * 1.96 * error, rel=0.25)
    assert found.fpr95.low <= found.fpr95.value <= found.fpr95.high
    assert found == detection(positive, negative, replicates=400)


@pytest.mark.parametrize(
    ("n", "length", "trials"), [(40, 0.0, 120), (40, 2.6, 120), (100, 2.0, 60)]
)
def test_the_interval_of_a_cross_validated_area_covers_the_truth(
    n: int, length: float, trials: int
) -> None:
    d = 400
    # of the difference of the means of 4/5 n latents each, as white noise has no other structure
    truth = phi(length**2 / math.sqrt(2 * (length**2 + 2 * d / (0.8 * n))))
    covered = {1.0: 0, CROSS_VALIDATED: 0}
    for seed in range(trials):
        both = torch.randn(2 * n, d, generator=torch.Generator().manual_seed(1000 * n + seed))
        both[:n] += length / math.sqrt(d)
        pictures = pair(both[:n], both[n:])
        scores = pictures.split(pictures.linear())
        for spread in covered:
            area = detection(*scores, spread=spread, replicates=80).auroc
            covered[spread] += area.low <= truth <= area.high
    assert covered[CROSS_VALIDATED] / trials >= 0.93
    # resampled scores alone, as if the detector were known
    assert covered[1.0] / trials < 0.9


def test_an_interval_in_log_odds_by_hand() -> None:
    # a deviation of 0.01 at 0.8, where log odds grow by 1 / 0.16, doubled: log 4 +- 1.96 / 8
    found = log_odds_interval(0.8, torch.tensor([0.8, 0.81, 0.79]), 2.0)
    low, high = (math.exp(math.log(4) + sign * 1.959964 / 8) for sign in (-1, 1))
    assert found == pytest.approx((0.8, low / (1 + low), high / (1 + high)), rel=1e-5)
    assert log_odds_interval(1.0, torch.ones(3), 2.0) == (1, 1, 1)
    apart = detection(torch.ones(40) + 1, torch.ones(40), spread=CROSS_VALIDATED).auroc
    assert apart == pytest.approx((1, 0.025 ** (1 / 40), 1))


@pytest.mark.parametrize(("n", "m"), [(10, 10), (10, 40), (40, 10)])
def test_perfect_separation_is_not_certain(n: int, m: int) -> None:
    high, low = torch.linspace(2, 3, n), torch.linspace(0, 1, m)
    # at the bound all of ten are as found with the chance of a fortieth
    reach = 1 - 0.025**0.1
    apart = detection(high, low)
    assert apart.auroc == pytest.approx((1, 1 - reach, 1))
    assert apart.fpr95 == pytest.approx((0, 0, reach))
    reversed_ = detection(low, high)
    assert reversed_.auroc == pytest.approx((0, 0, reach))
    assert reversed_.fpr95 == pytest.approx((1, 1 - reach, 1))


def test_resampling_many_latents_takes_no_cube_of_memory() -> None:
    n = 400
    both = pair(normal(n, 1)[:, :1, :2, :2], normal(n, 2)[:, :1, :2, :2])
    with torch.profiler.profile(profile_memory=True) as profile:
        both.distance(replicates=100)
    largest = max(event.cpu_memory_usage for event in profile.events())
    # counts and products, and not replicates x n x n of 8 bytes
    assert largest < 100 * n * n


@pytest.mark.parametrize(
    ("outside", "inside", "message"),
    [
        (torch.zeros(9, 2), torch.zeros(10, 2), "at least 10 latents each .*, got 9 and 10"),
        (torch.zeros(10, 2), torch.zeros(10, 3), r"the shape of inside \(3,\), got \(2,\)"),
    ],
)
def test_sets_that_do_not_fit_are_refused(outside: Tensor, inside: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair(outside, inside)
