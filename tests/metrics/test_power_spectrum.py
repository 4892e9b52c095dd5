import math

import pytest
import torch
from torch import Tensor

from ood_sampler.metrics.power_spectrum import log_spectra, spectrum_distance, wave_numbers


def noise(rows: int, bands: int, resolution: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, bands, resolution, resolution, generator=generator).double()


def test_white_noise_is_flat_at_its_variance() -> None:
    spectra = 10 ** log_spectra(3 * noise(400, 1, 32))
    # the mean of n modes of power 9 spreads by 9 / sqrt(n / 2), its logarithm is lower by 1 / n
    assert torch.allclose(spectra.mean(0), torch.full((12,), 9.0).double(), rtol=0.1)
    assert float(spectra[:, -1].mean()) == pytest.approx(9, rel=0.02)


@pytest.mark.parametrize(("wave_number", "ring"), [(1, 0), (4, 3), (8, 7), (12, 9), (16, 11)])
def test_a_wave_is_in_its_ring(wave_number: int, ring: int) -> None:
    x = torch.arange(32, dtype=torch.float64)
    wave = 2 * torch.cos(2 * math.pi * wave_number * x / 32)
    fields = (7 + wave.expand(32, 32))[None, None]
    power = 10 ** log_spectra(fields)[0]
    assert int(power.argmax()) == ring
    assert float(power[ring] / power.sum()) > 1 - 1e-9
    assert torch.equal(log_spectra(fields.mT), log_spectra(fields))
    assert abs(float(wave_numbers(32)[ring]) - wave_number) < 1


def test_power_of_a_wave() -> None:
    # amplitude 2 at k = 1: the modes +-1 hold 2^2 / 4 R^2 each, of the 8 that round to 1
    x = torch.arange(32, dtype=torch.float64)
    fields = (2 * torch.cos(2 * math.pi * x / 32)).expand(1, 1, 32, 32)
    assert float(10 ** log_spectra(fields)[0, 0]) == pytest.approx(2 * 32**2 / 8)


def test_bands_are_averaged_as_logarithms() -> None:
    fields = noise(3, 1, 16)
    both = torch.cat([fields, 1000 * fields], dim=1)
    torch.testing.assert_close(log_spectra(both), log_spectra(fields) + 3)


def test_a_constant_field_has_a_spectrum() -> None:
    assert log_spectra(torch.ones(1, 1, 8, 8)).isfinite().all()


@pytest.mark.parametrize(
    ("resolution", "starts"),
    [
        (7, [1, 2, 3]),
        (15, [1, 2, 3, 4, 5, 6, 7]),
        (16, [1, 2, 3, 4, 5, 6, 7, 8]),
        (24, [1, 2, 3, 4, 5, 6, 7, 8, 10, 11]),
        (30, [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13]),
    ],
)
def test_rings_begin_at_whole_wave_numbers_four_an_octave(
    resolution: int, starts: list[int]
) -> None:
    """Each wave has its power in the last ring that begins at its length, rounded, or before."""
    x = torch.arange(resolution, dtype=torch.float64) * 2 * math.pi / resolution
    half = resolution // 2
    modes = [(a, b) for a in range(half + 1) for b in range(half + 1) if a or b]
    waves = torch.stack([torch.cos(a * x[:, None] + b * x) for a, b in modes])
    power = 10 ** log_spectra(waves[:, None])
    assert power.shape[1] == len(starts)
    for (a, b), rings in zip(modes, power, strict=True):
        length = round(math.hypot(a, b))
        if length > half:
            assert float(rings.max()) < 1e-9
        else:
            ring = sum(start <= length for start in starts) - 1
            assert float(rings[ring] / rings.sum()) > 1 - 1e-9


@pytest.mark.parametrize("resolution", [8, 15, 32, 256])
def test_wave_numbers_increase_and_end_at_half_of_the_grid(resolution: int) -> None:
    numbers = wave_numbers(resolution)
    assert (numbers.diff() > 0).all()
    assert 1 <= float(numbers[0]) < 1.5
    assert float(numbers[-1]) <= resolution // 2 + 0.5
    assert log_spectra(noise(1, 1, resolution)).shape == (1, len(numbers))


def test_distance() -> None:
    spectra = torch.tensor([[1.0, 2.0], [3.0, 2.0]]).double()
    reference = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]).double()
    # means 2, 2 against 1, 1
    assert spectrum_distance(spectra, reference).value == 1
    assert spectrum_distance(reference, reference) == (0, 0, 0)


def test_the_seed_gives_draws_of_its_own_to_each_set() -> None:
    spectra = log_spectra(noise(30, 1, 8))
    # one draw for both would make each resampled distance 0
    assert spectrum_distance(spectra, spectra).high > 0
    other = log_spectra(noise(30, 1, 8, 1))
    found = [spectrum_distance(spectra, other, seed=seed) for seed in (0, 1, 1)]
    assert found[0] != found[1] == found[2]
    assert found[0].value == found[1].value


def test_the_interval_of_a_distance_is_as_wide_as_repeated_draws_say() -> None:
    found = [
        spectrum_distance(
            log_spectra(1.2 * noise(80, 1, 16, seed)), log_spectra(noise(120, 1, 16, seed + 99))
        )
        for seed in range(40)
    ]
    spread = float(torch.tensor([value for value, _, _ in found]).std())
    width = sum(high - low for _, low, high in found) / 40
    assert width == pytest.approx(2 * 1.96 * spread, rel=5 / 80**0.5)
    assert all(low <= value <= high for value, low, high in found)
    truth = 2 * math.log10(1.2)
    assert sum(low <= truth <= high for _, low, high in found) >= 32
