import math

import pytest
import torch
from torch import Tensor

from ood_sampler.data.labels import labelled_embedded
from ood_sampler.metrics.appearance import MEASURES, agreement, appearance
from ood_sampler.store.sets import Taken


def gaussian(*, long: float, ratio: float, degrees: float = 0.0, colour: float = 0.0) -> Tensor:
    """An elliptical Gaussian on a dark sky, shape (1, 3, 64, 64)."""
    axis = torch.arange(64, dtype=torch.float64) - 30.0
    angle = math.radians(degrees)
    x = axis * math.cos(angle) + axis[:, None] * math.sin(angle)
    y = axis[:, None] * math.cos(angle) - axis * math.sin(angle)
    light = torch.exp(-((x / long) ** 2) / 2 - (y / (ratio * long)) ** 2 / 2)
    bands = torch.stack([light * 10 ** (colour / 2.5), light, light])
    return (0.5 * bands / bands.max() + 0.1)[None] * 2 - 1


@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0])
@pytest.mark.parametrize("ratio", [0.4, 1.0])
def test_moments_are_those_of_a_gaussian(degrees: float, ratio: float) -> None:
    found = appearance(gaussian(long=6.0, ratio=ratio, degrees=degrees))
    assert float(found["axis_ratio"]) == pytest.approx(ratio, rel=0.02)
    # a Gaussian cut where it falls below 3% of full brightness, k = r^2 / (2 sigma^2) there
    k = math.log(0.5 / 0.03)
    kept = math.sqrt(1 - k * math.exp(-k) / (1 - math.exp(-k)))
    assert float(found["size"]) == pytest.approx(6 * kept, rel=0.01)


@pytest.mark.parametrize("colour", [-0.5, 0.0, 0.4])
def test_colour_is_a_ratio_of_light(colour: float) -> None:
    found = appearance(gaussian(long=5.0, ratio=0.7, colour=colour))
    assert float(found["colour"]) == pytest.approx(colour, abs=1e-6)


def test_an_empty_image_has_no_measures() -> None:
    found = appearance(torch.full((2, 3, 32, 32), -0.5))
    assert set(found) == set(MEASURES)
    assert all(values.isnan().all() for values in found.values())


def test_measures_of_galaxies_agree_with_what_they_were_drawn_with() -> None:
    domain = labelled_embedded(name="galaxy32", resolution=32, few_shot=300, held_out=2)
    assert domain.labels is not None
    found = appearance(Taken(domain.few_shot, 300).take(range(300)))
    labels = domain.labels.of(domain.few_shot)
    for name, least in (("colour", 0.8), ("axis_ratio", 0.5), ("size", 0.2)):
        score = agreement(found[name], labels[:, domain.labels.columns.index(name)])
        assert score.value > least, (name, score)
