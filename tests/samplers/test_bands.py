import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.samplers.bands import BandsSampler
from ood_sampler.samplers.base import InvertedSet
from ood_sampler.store.sets import InMemory

MakeSet = Callable[..., InvertedSet]
Draw = Callable[..., Tensor]


def spectra(images: Tensor) -> Tensor:
    return torch.fft.fft2(images.double())


def radial(side: int) -> Tensor:
    k = torch.arange(side)
    k = torch.minimum(k, side - k)
    return torch.sqrt((k[:, None] ** 2 + k**2).double())


def projection(side: int, cutoff: float) -> Tensor:
    """On low frequencies, from the definition: a sum over plane waves."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    points = torch.stack([y.flatten(), x.flatten()], dim=1).double()
    chosen = points[radial(side).flatten() <= cutoff]
    waves = 2 * math.pi / side * points @ chosen.T
    return (waves[:, None] - waves).cos().sum(2) / side**2


@pytest.mark.parametrize("cutoff", [0.5, 1, 2, 2.5, 5.6])
@pytest.mark.parametrize("side", [7, 8])
def test_each_frequency_comes_from_one_member(
    side: int, cutoff: float, make_set: MakeSet, draw: Draw
) -> None:
    if side == 7 and cutoff > 3 * 2**0.5:
        return
    inverted, n = make_set(4, 3, side, side), 20
    members = spectra(inverted.latents.take(range(4)))
    draws = spectra(draw(BandsSampler(cutoff), inverted, n).reshape(n, 3, side, side))
    low = radial(side) <= cutoff
    for z in draws:
        coarse = [i for i in range(4) if (z - members[i])[:, low].abs().max() < 1e-3]
        fine = [i for i in range(4) if (z - members[i])[:, ~low].abs().max() < 1e-3]
        assert len(coarse) == len(fine) == 1
        assert coarse != fine


def test_moments_are_those_of_the_bands(
    make_set: MakeSet, draw: Draw, check_moments: Callable[..., None]
) -> None:
    n = 6
    inverted = make_set(n, 1, 4, 4)
    data = inverted.latents.take(range(n)).double().flatten(1)
    of_one = torch.cov(data.T, correction=0)
    low = projection(4, 1.0)
    high = torch.eye(16) - low
    mixed = low @ of_one @ high
    # two members drawn without repetition have the covariance -P / (n - 1), P that of one
    covariance = low @ of_one @ low + high @ of_one @ high - (mixed + mixed.T) / (n - 1)
    check_moments(draw(BandsSampler(1.0), inverted, 4000), data.mean(0), covariance)


def test_a_stationary_gaussian_is_kept(draw: Draw, make_set: MakeSet) -> None:
    n, side = 400, 8
    generator = torch.Generator().manual_seed(0)
    power = 1 / (1 + radial(side))
    white = torch.randn(n, 1, side, side, generator=generator, dtype=torch.float64)
    field = torch.fft.ifft2(spectra(white) * power.sqrt()).real + 5
    latents = InMemory(field.float())
    some = make_set(1, 1, side, side)
    inverted = InvertedSet(latents, latents, some.schedule, some.step)
    draws = draw(BandsSampler(2), inverted, n).reshape(n, 1, side, side)
    measured = (spectra(draws - 5).abs().square() / side**2).mean((0, 1))
    # exponential, by the members and by the draws; real at 0 and the Nyquist frequency
    assert ((measured / power - 1).abs() < 5 * math.sqrt(2 * 2 / n)).all()


def test_what_leaves_nothing_of_the_second_is_refused(make_set: MakeSet) -> None:
    inverted = make_set(3, 3, 8, 8)
    BandsSampler(5.6).check(inverted)
    with pytest.raises(ValueError, match=r"cutoff must be < 5.657 cycles an image, got 6: "):
        BandsSampler(6).check(inverted)
    # and it is true of it
    source = SampleNoise(0, range(3), stream=Stream.LATENT)
    chosen = SampleNoise(0, range(3), stream=Stream.LATENT).choice(3, 2)[:, 0]
    draws = BandsSampler(6).draw({}, inverted, source)
    torch.testing.assert_close(draws, inverted.latents.take(chosen.tolist()))


@pytest.mark.parametrize("cutoff", [0, -1.0, math.inf, math.nan])
def test_bad_cutoff(cutoff: float) -> None:
    with pytest.raises(ValueError, match=f"cutoff must be > 0 and finite, got {cutoff}"):
        BandsSampler(cutoff)
