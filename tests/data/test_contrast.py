import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ood_sampler.data.contrast import used_range, warn_of_narrow_range
from ood_sampler.data.domain import folder_domain


def test_range_is_that_of_the_central_values_of_all_images() -> None:
    ramp = torch.linspace(-1, 1, 10_001).view(1, 1, -1)
    flat = torch.zeros_like(ramp)
    narrow = 0.1 * ramp
    hot = narrow.clone()
    hot[..., :90] = 1
    image = torch.cat([ramp, flat, narrow, hot])
    assert used_range([image]) == pytest.approx([0.98, 0, 0.098, 0.1], abs=0.005)
    # two images, each at one level, use what lies between them
    assert used_range([flat - 0.5, flat + 0.7]) == pytest.approx([0.6], abs=0.005)


@pytest.mark.parametrize(("bands", "warned"), [(None, False), (3, True), (1, False)])
def test_one_dark_channel_matters_where_each_has_a_scale(bands: int | None, warned: bool) -> None:
    ramp = torch.linspace(-1, 1, 64).view(1, 8, 8)
    images = [torch.cat([ramp, ramp, ramp / 20])] * 4
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_narrow_range("stars", images, bands=bands)
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == warned
    if warned:
        assert "the few-shot images of stars use 5.1% of the range" in messages[0]
        assert "limits of band 2 may come from a few outliers: set data.quantiles" in messages[0]


def test_pictures_of_twelve_bits_in_sixteen_are_told() -> None:
    levels = torch.arange(0, 4096, dtype=torch.float64) / 65535
    images = [(levels * 255).round().div(127.5).sub(1).view(1, 64, 64).expand(3, 64, 64)] * 3
    with pytest.warns(UserWarning, match=r"use 6\.3% of .* 12 bits .*data\.quantiles"):
        warn_of_narrow_range("microscope", images)


def test_files_of_twelve_bits_in_sixteen_are_told(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for index in range(6):
        pixels = generator.integers(0, 4096, (16, 16), dtype=np.uint16)
        Image.fromarray(pixels).save(
            tmp_path / f"{index}.tiff" if index % 2 else tmp_path / f"{index}.png"
        )
    with pytest.warns(UserWarning, match=r"few-shot images of camera use 6\.3% of .* 12 bits"):
        folder_domain(
            name="camera",
            root=str(tmp_path),
            resolution=16,
            few_shot=3,
            held_out=None,
            held_out_root=None,
            seed=0,
            on_error="raise",
        )
