import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from criteria_options import OPTIONS

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.latents.geometry import Criteria
from ood_sampler.samplers.base import Fitted, InvertedSet
from ood_sampler.samplers.criteria import CriteriaSampler, Targets


class Plain(CriteriaSampler):
    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> torch.Tensor:
        raise NotImplementedError


def plain(**options: Any) -> Plain:  # noqa: ANN401 options of different types
    return Plain(**{**OPTIONS, **options})


def test_values_and_spreads_of_a_gaussian(make_gaussian: Callable[..., InvertedSet]) -> None:
    n, d, s, length, k = 60, 3072, 0.7, 12.0, 10
    latents = make_gaussian(n, 3, 32, 32, std=s, length=length).latents
    products, targets = plain(tolerance=1.0).measure(latents)
    rows = latents.take(range(n)).double().flatten(1)
    torch.testing.assert_close(products, rows @ rows.T)
    radius = s * math.sqrt(d)
    distance, origin, pair = targets.values.tolist()
    # squared distances 2 s^2 d, relative error of a radius 1 / sqrt(2 d)
    assert abs(distance / (math.sqrt(2) * radius) - 1) < 5 / math.sqrt(2 * d * n)
    cosine = length**2 / (length**2 + radius**2)
    assert abs(math.cos(math.radians(origin)) - cosine) < 5 / math.sqrt(d * n)
    # three points of any triangle have 60 degrees in the mean
    assert abs(pair - 60) < 0.05
    # a distance varies with both radii, and the mean over k of them with 1 / k of one: in all
    # s / 2 sqrt(1 + 1 / k), and s^2 sqrt(d) of the product adds s^2 d / (2 s^2 d) / k
    expected = s * math.sqrt((1 / 4 + 1 / 4 / k) + 1 / 2 / k)
    assert abs(float(targets.tolerances[0]) / expected - 1) < 5 / math.sqrt(2 * n)


def test_tolerances_scale_and_numbers_override(make_set: Callable[..., InvertedSet]) -> None:
    latents = make_set(8, 3, 4, 4).latents
    measured = plain().measure(latents)[1]
    torch.testing.assert_close(
        plain(tolerance=0.5).measure(latents)[1].tolerances, 2 * measured.tolerances
    )
    given = plain(distance=611.4, origin_angle_tolerance=0.1, pair_angle=60).measure(latents)[1]
    torch.testing.assert_close(given.values, torch.tensor([611.4, float(measured.values[1]), 60.0]))
    expected = measured.tolerances.clone()
    expected[1] = 0.1
    torch.testing.assert_close(given.tolerances, expected)


def test_equal_latents_leave_a_tolerance(make_set: Callable[..., InvertedSet]) -> None:
    latents = make_set(3, 1, 2, 2).latents
    latents.items[:] = latents.items[:1]  # type: ignore[attr-defined]
    targets = plain().measure(latents)[1]
    assert float(targets.values[0]) < 1e-6
    assert (targets.tolerances >= 0).all()


def criteria(*rows: tuple[float, float, float]) -> Criteria:
    return Criteria(*torch.tensor(rows, dtype=torch.float64).unbind(1))


def test_passing_needs_each_criterion_within_its_tolerance() -> None:
    targets = Targets(torch.tensor([10.0, 80, 60]), torch.tensor([2.0, 1, 0.5]))
    measured = criteria((11, 80.5, 60), (8.1, 79.1, 60.4), (12.1, 80, 60), (10, 78.9, 59.4))
    assert targets.passed(measured).tolist() == [
        [True, True, True],
        [True, True, True],
        [False, True, True],
        [True, False, False],
    ]
    deviations = targets.deviations(measured)
    assert deviations[0].tolist() == [0.5, 0.5, 0]
    assert float(deviations[3, 1]) == pytest.approx(-1.1)
    assert "distance 10 +- 2 (met by 75.00%" in targets.describe(measured)
    assert "origin_angle 80 +- 1° (met by 75.00%" in targets.describe(measured)


def test_the_hardest_criterion_is_named() -> None:
    targets = Targets(torch.tensor([10.0, 80, 60]), torch.tensor([1.0, 1, 1]))
    assert targets.hardest(criteria((10, 80, 60), (10, 82, 60), (12, 82, 60))) == "origin_angle"
    # of those that nothing meets, the farthest
    assert targets.hardest(criteria((12, 83, 65), (7, 75, 68))) == "pair_angle"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"references": 1}, "references must be >= 2, got 1"),
        ({"distance": 0.0}, "distance must be > 0 and finite, or null, got 0.0"),
        ({"distance": math.inf}, "distance must be > 0 and finite, or null, got inf"),
        ({"origin_angle": 180.0}, "origin_angle must be in .0, 180. degrees, or null, got 180"),
        ({"pair_angle": -1.0}, "pair_angle must be in .0, 180. degrees, or null, got -1"),
        ({"tolerance": 0.0}, "tolerance must be > 0 and finite, got 0"),
        ({"distance_tolerance": -0.3}, "distance_tolerance must be > 0 and finite, got -0.3"),
        ({"origin_angle_tolerance": math.nan}, "origin_angle_tolerance must be > 0 and finite"),
        ({"pair_angle_tolerance": 0.0}, "pair_angle_tolerance must be > 0 and finite, got 0"),
    ],
)
def test_bad_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain(**options)
