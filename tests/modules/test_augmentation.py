import pytest
import torch

from ood_sampler.modules.augmentation import Augmentation

ALL = Augmentation(colour=1.0, shift=0.25, cutout=0.5)
NONE = Augmentation(colour=0.0, shift=0.0, cutout=0.0)


def stream() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_strength_zero_leaves_images_as_they_are() -> None:
    images = torch.rand(5, 3, 8, 8) * 2 - 1
    torch.testing.assert_close(NONE(images, stream()), images)


def test_the_same_stream_changes_images_alike() -> None:
    images = torch.rand(5, 3, 8, 8)
    assert torch.equal(ALL(images, stream()), ALL(images, stream()))
    assert not torch.equal(ALL(images, stream()), images)


def test_shifts_move_by_whole_pixels_and_bring_zeros_in() -> None:
    images = torch.rand(200, 3, 8, 8) + 1
    moved = Augmentation(colour=0.0, shift=0.25, cutout=0.0)(images, stream())
    seen = set()
    for image, after in zip(images, moved, strict=True):
        found = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(shifted(image, down, right), after)
        ]
        assert len(found) == 1
        seen |= set(found)
    assert len(seen) == 25


def shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
    return padded[:, 2 - down : 10 - down, 2 - right : 10 - right]


def test_a_square_is_cut_out() -> None:
    cut = Augmentation(colour=0.0, shift=0.0, cutout=0.5)(torch.ones(300, 3, 8, 8), stream())
    missing = (cut == 0).flatten(1).sum(1) // 3
    # of side four, or as much of it as is inside
    assert missing.max() == 16
    assert set(missing.tolist()) <= {a * b for a in (2, 3, 4) for b in (2, 3, 4)}
    assert set(cut.unique().tolist()) == {0.0, 1.0}


def test_colours_change_in_the_ranges_of_the_source() -> None:
    images = torch.rand(2000, 3, 4, 4)
    images -= images.mean((1, 2, 3), keepdim=True)
    changed = Augmentation(colour=1.0, shift=0.0, cutout=0.0)(images, stream())
    brightness = changed.mean((1, 2, 3))
    assert brightness.abs().max() <= 0.5
    assert abs(float(brightness.mean())) < 5 * (1 / 12 / 2000) ** 0.5
    grey, before = changed.mean(1), images.mean(1)
    contrast = (grey - brightness[:, None, None]).flatten(1).norm(dim=1) / before.flatten(1).norm(
        dim=1
    )
    assert contrast.min() >= 0.5 - 1e-4
    assert contrast.max() <= 1.5 + 1e-4
    apart = (changed - changed.mean(1, keepdim=True)).flatten(1).norm(dim=1)
    was = (images - images.mean(1, keepdim=True)).flatten(1).norm(dim=1)
    assert (apart / was / contrast).max() <= 2 + 1e-3


def test_the_gradient_passes_through() -> None:
    images = (torch.rand(2, 3, 4, 4, dtype=torch.float64) * 2 - 1).requires_grad_()
    augmented = Augmentation(colour=0.5, shift=0.25, cutout=0.25)

    def changed(x: torch.Tensor) -> torch.Tensor:
        return augmented(x, stream())

    assert torch.autograd.gradcheck(changed, images)


@pytest.mark.parametrize("name", ["colour", "shift", "cutout"])
def test_a_strength_out_of_range_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be between 0 and 1, got 1.5"):
        Augmentation(**{"colour": 0.0, "shift": 0.0, "cutout": 0.0, name: 1.5})
