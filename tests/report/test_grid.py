from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ood_sampler.report.grid import (
    NEAR_COPY,
    overview,
    save_grid,
    save_png,
    strip,
    tile,
    to_uint8,
    viewable,
)


def flat(values: list[int], size: int = 32) -> Tensor:
    """Images of one grey each, in [-1, 1]."""
    grey = torch.tensor(values, dtype=torch.float32) / 127.5 - 1
    return grey.view(-1, 1, 1, 1).expand(-1, 3, size, size)


def count(picture: Tensor, grey: int) -> int:
    return int((picture == grey).all(dim=0).sum())


def test_levels() -> None:
    images = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0, 1 / 127.5 - 1])
    assert to_uint8(images).tolist() == [0, 0, 128, 255, 255, 1]


def test_tile_places_row_by_row() -> None:
    canvas = tile(flat([10, 20, 30], size=4), columns=2, gap=1)
    assert canvas.shape == (3, 11, 11)
    assert canvas[0, [1, 1, 6], [1, 6, 1]].tolist() == [10, 20, 30]
    assert canvas[0, 4, 4] == 10
    # The gaps and the free place are white.
    assert (canvas[:, 0] == 255).all()
    assert (canvas[:, 5] == 255).all()
    assert (canvas[:, 6:, 6:] == 255).all()


@pytest.mark.parametrize(
    ("size", "shown"), [(16, 96), (28, 84), (32, 96), (64, 128), (96, 96), (128, 128), (256, 128)]
)
def test_viewable_size(size: int, shown: int) -> None:
    pictures = viewable(flat([10, 200], size=size))
    assert pictures.shape == (2, 3, shown, shown)
    assert pictures[:, 1, 0, shown - 1].tolist() == [10, 200]


def test_enlarged_pixels_stay_squares() -> None:
    image = torch.arange(32 * 32, dtype=torch.uint8).view(1, 1, 32, 32).expand(-1, 3, -1, -1)
    enlarged = viewable(image)
    assert enlarged[:, :, ::3, ::3].equal(image)
    assert enlarged[:, :, 2::3, 2::3].equal(image)


def test_overview_puts_each_sample_beside_its_nearest() -> None:
    samples, nearest = flat([1, 2, 3, 4, 5]), flat([101, 102, 103, 104, 105])
    picture = overview(samples, nearest, flat([150, 151]))
    # Four cards of 4 + 96 + 2 + 96 + 4 with gaps of 10 within margins of 16.
    assert picture.dtype == torch.uint8
    assert picture.shape[2] == 2 * 16 + 4 * 202 + 3 * 10
    for k in range(5):
        x, y = 16 + k % 4 * 212 + 4, 56 + k // 4 * 114 + 4
        sample = picture[:, y : y + 96, x : x + 96]
        neighbour = picture[:, y : y + 96, x + 98 : x + 194]
        assert (sample == k + 1).all()
        assert (neighbour == k + 101).all()
    assert count(picture, 150) == 96**2
    assert count(picture, 151) == 96**2


def test_overview_marks_near_copies_and_counts_them() -> None:
    many = flat(list(range(1, 7)))
    plain = overview(many, many, many)
    copies = [k in (1, 5) for k in range(40)]
    marked = overview(many, many, many, near_copies=copies)
    assert marked.shape == plain.shape
    colour = torch.tensor(NEAR_COPY, dtype=torch.uint8).view(3, 1, 1)
    frames = (marked == colour).all(dim=0)
    for k in range(6):
        # half way down the left side of a card
        assert frames[56 + k // 4 * 114 + 52, 16 + k % 4 * 212 + 1] == copies[k]
    # a key stands in the title
    assert frames[:40].sum() == 13**2
    assert not (plain == colour).all(dim=0).any()


def test_overview_shows_so_many_pairs() -> None:
    many = flat(list(range(1, 41)))
    shown = overview(many, many, many, pairs=8).unique().tolist()
    assert set(range(1, 9)) <= set(shown)
    tall, flat_ = (overview(many, many, many, pairs=pairs).shape[1] for pairs in (32, 8))
    # Six more rows of cards and three more of held-out images.
    assert tall - flat_ == 6 * 114 + 3 * 106


def test_overview_of_large_pictures() -> None:
    large = flat([7], size=200)
    picture = overview(large, flat([70], size=200), large)
    assert count(picture, 70) == 128**2


def test_overview_bad_input() -> None:
    with pytest.raises(ValueError, match="nearest must have the shape of samples"):
        overview(flat([1, 2]), flat([1]), flat([1]))
    with pytest.raises(ValueError, match="must not be empty, got 1 and 0"):
        overview(flat([1]), flat([1]), flat([]))


def test_strip_places_blocks_and_leaves_gaps_blank() -> None:
    # No dark text where there are no labels, so that each grey can be found.
    blocks: list[list[Tensor | None]] = [[flat([40, 41]), flat([42, 43])], [None, flat([44, 45])]]
    picture = strip(blocks, row_labels=["", ""], column_labels=["", ""], columns=1)[0]
    # Blocks are one image wide and two high, with gaps of 2, and 10 between blocks.
    width, height = 96 + 4, 2 * 98 + 2
    assert picture.shape == (2 * 16 + 2 * height + 10, 16 + 10 + 2 * width + 10 + 16)
    left, top = 26, 16
    for grey, i, j in ((40, 0, 0), (42, 0, 1), (44, 1, 1)):
        y, x = top + i * (height + 10) + 2, left + j * (width + 10) + 2
        assert (picture[y : y + 96, x : x + 96] == grey).all()
        assert (picture[y + 98 : y + 194, x : x + 96] == grey + 1).all()
    assert (picture[top + height + 10 :, left : left + width] == 255).all()


def test_strip_makes_room_for_labels() -> None:
    blocks = [[flat([40])]]
    plain, labelled = (
        strip(blocks, row_labels=[text], column_labels=[text], columns=1) for text in ("", "step=9")
    )
    assert labelled.shape[1] > plain.shape[1]
    assert labelled.shape[2] > plain.shape[2] + 30
    # The text is dark and lies outside the block.
    assert int((labelled[0] < 40).sum()) > 20
    with pytest.raises(ValueError, match="blocks must hold at least one image"):
        strip([[None]], row_labels=["a"], columns=1)


def test_files(tmp_path: Path) -> None:
    save_grid(flat([9, 90, 200]), tmp_path / "new" / "grid.png", columns=2)
    save_png(tile(flat([9], size=2), columns=1, gap=0), tmp_path / "one.png", scale=3)
    with Image.open(tmp_path / "new" / "grid.png") as grid:
        assert grid.size == (3 * (2 * 34 + 2), 3 * (2 * 34 + 2))
        assert np.asarray(grid)[6, 6].tolist() == [9, 9, 9]
    with Image.open(tmp_path / "one.png") as one:
        assert np.asarray(one).shape == (6, 6, 3)
    assert {path.name for path in tmp_path.rglob("*")} == {"new", "grid.png", "one.png"}
