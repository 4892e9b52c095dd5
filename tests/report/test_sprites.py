import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from ood_sampler.report.sprites import Sheet, sheet
from tests.report.exploring import photographs


def opened(made: Sheet) -> np.ndarray:
    data = base64.b64decode(made.source.removeprefix("data:image/webp;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_small_images_lie_on_the_sheet_as_they_are() -> None:
    images = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8)
    made = sheet(images, largest=96, most_bytes=10**6)
    assert (made.count, made.columns, made.edge, made.exact) == (7, 3, 16, True)
    laid = opened(made)
    assert laid.shape == (3 * 16, 3 * 16, 3)
    for k, image in enumerate(images):
        y, x = 16 * (k // 3), 16 * (k % 3)
        np.testing.assert_array_equal(laid[y : y + 16, x : x + 16], image.permute(1, 2, 0))


def test_large_images_are_reduced() -> None:
    made = sheet(photographs(4, 128, 0), largest=96, most_bytes=10**6, columns=4)
    assert (made.columns, made.edge, made.exact) == (4, 96, False)
    assert opened(made).shape == (96, 4 * 96, 3)


@pytest.mark.parametrize("size", [16, 64])
def test_a_sheet_is_never_larger_than_asked(size: int) -> None:
    noise = torch.randint(0, 256, (50, 3, size, size), dtype=torch.uint8)
    made = sheet(noise, largest=96, most_bytes=6000)
    assert len(base64.b64decode(made.source.partition(",")[2])) <= 6000
    assert not made.exact
    assert made.edge < size


def test_equal_images_make_equal_sheets() -> None:
    made = [sheet(photographs(9, 64, 3), largest=64, most_bytes=30_000) for _ in range(2)]
    assert made[0] == made[1]
