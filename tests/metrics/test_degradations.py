"""Each degradation against its closed form, one by one and in sets."""

import io
import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ood_sampler.metrics.degradations import (
    Blend,
    Blur,
    Degradation,
    Hue,
    InDomain,
    Jpeg,
    MissingMode,
    Noise,
    Paste,
    degradations,
    degrade,
    gaussian_blur,
    turn_hue,
)
from ood_sampler.metrics.features import quantise
from ood_sampler.store.sets import InMemory


def pictures(count: int = 12, side: int = 16, *, seed: int = 0) -> Tensor:
    """Images of 8 bits, in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(256, (count, 3, side, side), generator=generator)
    return levels.float() / 127.5 - 1


SET = InMemory(pictures())
IN_DOMAIN = InMemory(pictures(5, seed=1))
ALL = degradations(IN_DOMAIN)


def name(degradation: Degradation) -> str:
    return degradation.words


@pytest.mark.parametrize("degradation", ALL, ids=name)
def test_a_picture_is_the_same_in_batches_of_any_size(degradation: Degradation) -> None:
    kept = degradation.kept(SET, seed=3)
    whole = degrade(degradation, SET, seed=3)
    assert whole.dtype == torch.uint8
    assert whole.shape == (len(kept), 3, 16, 16)
    one_by_one = [degrade(degradation, SET, seed=3, numbers=[number]) for number in kept]
    assert torch.cat(one_by_one[::-1]).flip(0).equal(whole)


@pytest.mark.parametrize(
    "degradation", [Blend(2), Noise(0.05), Paste(0.25), InDomain(0.1, IN_DOMAIN)], ids=name
)
def test_random_choices_depend_on_the_seed_and_on_the_picture(degradation: Degradation) -> None:
    copies = InMemory(pictures(1).expand(12, -1, -1, -1)) if degradation.kind == "noise" else SET
    first, again, other = (degrade(degradation, copies, seed=seed) for seed in (0, 0, 1))
    assert first.equal(again)
    assert not first.equal(other)
    assert len(first.flatten(1).unique(dim=0)) == 12


def test_strengths_rise_within_each_kind_and_words_tell_all_apart() -> None:
    for first, second in pairwise(ALL):
        assert first.kind != second.kind or first.strength < second.strength
    assert len({degradation.words for degradation in ALL}) == len(ALL)
    kinds = list(dict.fromkeys(degradation.kind for degradation in ALL))
    assert [degradation.kind for degradation in ALL] == sorted(
        (degradation.kind for degradation in ALL), key=kinds.index
    )


@pytest.mark.parametrize(
    ("degradation", "said"),
    [
        (Blend(2), "blends of 2 or more"),
        (Blur(0.015), "blur of 1.5% of the side or more"),
        (Noise(0.02), "noise of 2% of the range or more"),
        (Jpeg(60), "JPEG of quality 60 or less"),
        (Paste(0.25), "25% of another image pasted in or more"),
        (Hue(30), "hue turned by 30° or more"),
        (MissingMode(0.2), "a missing mode of 20% or more"),
        (InDomain(0.1, IN_DOMAIN), "10% in-domain images or more"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_words(degradation: Degradation, said: str) -> None:
    assert f"{degradation.words} {degradation.beyond}" == said


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_blend_is_the_mean_of_the_picture_and_of_others(count: int) -> None:
    # an image of number k is 4^k at its pixels: a sum tells which ones are in it
    powers = 4.0 ** torch.arange(12)
    coded = InMemory(powers.view(-1, 1, 1, 1).expand(-1, 3, 4, 4))
    for number in range(12):
        mixed = Blend(count).picture(coded, number, seed=0)
        total = round(count * float(mixed[0, 0, 0]))
        found = [k for k in range(12) if total // 4**k % 4]
        assert total == sum(4**k for k in found)
        assert len(found) == count
        assert number in found


def test_larger_blends_hold_smaller_ones() -> None:
    values = torch.randn(12, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    two, three = (Blend(count).picture(InMemory(values), 7, seed=0) for count in (2, 3))
    third = 3 * three - 2 * two
    assert (values - third).abs().amax(dim=(1, 2, 3)).min() < 1e-5


def test_blends_need_as_many_pictures() -> None:
    with pytest.raises(ValueError, match="images must be more than 4 to be mixed, got 4"):
        degrade(Blend(5), InMemory(pictures(4)), seed=0)


def test_noise_has_the_stated_deviation() -> None:
    grey = InMemory(torch.zeros(8, 3, 64, 64))
    levels = degrade(Noise(0.05), grey, seed=0).double()
    n = levels.numel()
    variance = (0.05 * 255) ** 2 + 1 / 12  # rounding adds that of a level
    assert float(levels.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / n))
    # between two levels
    assert float(levels.mean()) == pytest.approx(127.5, abs=5 * math.sqrt(variance / n))
    neighbours = (levels[..., 1:] - 127.5) * (levels[..., :-1] - 127.5)
    assert float(neighbours.mean()) / variance == pytest.approx(0, abs=5 / math.sqrt(n))


def test_a_blur_scales_waves_by_the_transform_of_its_kernel() -> None:
    sigma, side = 2.0, 64
    x = torch.arange(side)
    for periods in (2, 4, 8):
        omega = 2 * math.pi * periods / side
        wave = (omega * x).cos().expand(1, 3, side, side)
        across = gaussian_blur(wave, sigma)
        down = gaussian_blur(wave.transpose(2, 3), sigma).transpose(2, 3)
        inner = slice(16, 48)  # away from mirrored edges
        factor = math.exp(-((sigma * omega) ** 2) / 2)
        # of the kernel that is cut lie 6e-5 outside
        assert across[..., inner].numpy() == pytest.approx(
            factor * wave[..., inner].numpy(), abs=2e-4
        )
        assert down.numpy() == pytest.approx(across.numpy(), abs=1e-6)


def test_a_blur_is_relative_to_the_side_and_keeps_what_is_even() -> None:
    even = torch.full((1, 3, 16, 16), 0.25)
    assert gaussian_blur(even, 1.5).numpy() == pytest.approx(0.25, abs=1e-6)
    images = pictures(1, 32)
    found = Blur(0.06).picture(InMemory(images), 0, seed=0)
    assert found.equal(gaussian_blur(images, 0.06 * 32)[0])
    # each channel by itself
    images[:, 1:] = 0
    assert gaussian_blur(images, 1.0)[:, 1:].abs().max() == 0


@pytest.mark.parametrize("quality", [90, 30])
def test_jpeg_is_what_pillow_reads_from_its_file(quality: int) -> None:
    made = degrade(Jpeg(quality), SET, seed=0)
    levels = quantise(SET.items[4]).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality, subsampling=2)
    expected = np.asarray(Image.open(file)).transpose(2, 0, 1)
    assert np.array_equal(made[4].numpy(), expected)
    assert not np.array_equal(expected, quantise(SET.items[4]).numpy())


def test_a_quarter_of_another_picture_is_pasted_in_as_a_square() -> None:
    numbered = InMemory(torch.arange(12.0).view(-1, 1, 1, 1).expand(-1, 3, 16, 16))
    tops = set()
    for number in range(12):
        pasted = Paste(0.25).picture(numbered, number, seed=0)
        changed = pasted != number
        assert changed[0].equal(changed[1])
        rows, columns = changed[0].any(1).nonzero().ravel(), changed[0].any(0).nonzero().ravel()
        assert len(rows) == len(columns) == 8
        assert int(changed[0].sum()) == 64
        assert len(pasted[changed].unique()) == 1
        tops.add(int(rows[0]))
    assert len(tops) > 3


def test_what_is_pasted_in_stays_where_it_was() -> None:
    pasted = Paste(0.25).picture(SET, 2, seed=0)
    others = [k for k in range(12) if k != 2]
    from_other = [(pasted == SET.items[k]).all(0).sum() for k in others]
    own = (pasted == SET.items[2]).all(0).sum()
    assert int(own) + int(max(from_other)) >= 256
    assert int(max(from_other)) >= 64


def test_hues_turn_about_greys() -> None:
    images = pictures(3)
    assert turn_hue(images, 360).numpy() == pytest.approx(images.numpy(), abs=1e-5)
    assert turn_hue(images, 120).numpy() == pytest.approx(images.roll(1, 1).numpy(), abs=1e-6)
    twice = turn_hue(turn_hue(images, 50), 40)
    assert twice.numpy() == pytest.approx(turn_hue(images, 90).numpy(), abs=1e-5)
    mean = images.mean(1)
    assert turn_hue(images, 77).mean(1).numpy() == pytest.approx(mean.numpy(), abs=1e-6)
    assert turn_hue(images, 77).norm(dim=1).numpy() == pytest.approx(
        images.norm(dim=1).numpy(), abs=1e-5
    )
    assert degrade(Hue(360), SET, seed=0).equal(quantise(SET.items))


def clustered(bright: Sequence[float], sizes: Sequence[int]) -> InMemory:
    """Images of one brightness for each cluster, with little noise."""
    values = torch.repeat_interleave(torch.tensor(bright), torch.tensor(sizes))
    noise = torch.randn(len(values), 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return InMemory(values.view(-1, 1, 1, 1) + 0.05 * noise)


def test_the_mode_farthest_from_the_mean_is_left_out() -> None:
    # the brightest ones are too few to be a mode
    images = clustered([0.9, -0.8, -0.1, 0.1, 0.4], [5, 20, 25, 30, 20])
    left_out = MissingMode(0.2)
    assert list(left_out.kept(images, seed=0)) == [*range(5), *range(25, 100)]
    assert degrade(left_out, images, seed=0)[5:].equal(quantise(images.items[25:]))


def test_a_larger_missing_mode_holds_smaller_ones() -> None:
    images = clustered([-0.8, -0.1, 0.1, 0.4], [25, 25, 30, 20])
    most, more, some = (set(MissingMode(share).kept(images, seed=0)) for share in (0.5, 0.25, 0.1))
    assert len(most) == 50
    assert more == set(range(25, 100))
    assert len(some) == 90
    assert most < more < some


def test_a_tenth_of_in_domain_pictures_is_mixed_in() -> None:
    many = InMemory(pictures(40, 8))
    own = InMemory(pictures(5, 8, seed=1))
    mixed = degrade(InDomain(0.1, own), many, seed=0)
    changed = (mixed != quantise(many.items)).flatten(1).any(1)
    assert int(changed.sum()) == 4
    # each of them once
    assert (
        mixed[changed]
        .flatten(1)
        .unique(dim=0)
        .equal(quantise(own.items[:4]).flatten(1).unique(dim=0))
    )


def test_where_all_are_in_domain_there_are_no_more_than_given() -> None:
    assert degrade(InDomain(1.0, IN_DOMAIN), SET, seed=0).equal(quantise(IN_DOMAIN.items))
    few = InMemory(SET.items[:3])
    assert degrade(InDomain(1.0, IN_DOMAIN), few, seed=0).equal(quantise(IN_DOMAIN.items[:3]))


def test_too_few_in_domain_pictures_are_told() -> None:
    with pytest.raises(ValueError, match=r"must be >= 6 \(0\.5 of 12 images\), got 5: raise"):
        degrade(InDomain(0.5, IN_DOMAIN), SET, seed=0)
