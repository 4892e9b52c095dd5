import math

import pytest
import torch
from torch import Tensor

from ood_sampler.latents.spectrum import (
    HIGH,
    LOW,
    band_power,
    colour_products,
    frequencies,
    neighbour_products,
)


def noise(n: int = 200, channels: int = 2, side: int = 24, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, side, side, generator=generator, dtype=torch.float64)


def close(values: Tensor, expected: float) -> bool:
    """Within five standard errors of the mean over latents."""
    error = float(values.std()) / len(values) ** 0.5
    return float(values.mean()) == pytest.approx(expected, abs=5 * error)


def test_neighbours_of_a_moving_average_are_correlated_as_known() -> None:
    white = noise()
    # w_i + w_{i+1} over sqrt(2): variance 1, correlation 1/2 along a row and none along a column
    rows = (white + white.roll(1, dims=3)) / math.sqrt(2)
    products = neighbour_products(rows)
    assert close(products[:, 0], 0.5)
    assert close(products[:, 1], 0)
    columns = (white - white.roll(1, dims=2)) / math.sqrt(2)
    products = neighbour_products(columns)
    assert close(products[:, 0], 0)
    assert close(products[:, 1], -0.5)


def test_colours_with_a_common_part_are_correlated_as_known() -> None:
    white = noise(channels=4)
    common = white[:, :1]
    mixed = math.sqrt(0.3) * common + math.sqrt(0.7) * white[:, 1:]
    assert close(colour_products(mixed), 0.3)
    assert close(colour_products(white), 0)


def test_frequencies_are_in_cycles_a_pixel() -> None:
    f = frequencies(8, 8)
    assert f[0, 0] == 0
    assert f[0, 1] == f[1, 0] == f[7, 0] == 1 / 8
    assert float(f[4, 4]) == pytest.approx(0.5 * math.sqrt(2))


@pytest.mark.parametrize(
    ("frequency", "band"), [((0, 2), 0), ((3, 0), 1), ((0, 4), 1), ((6, 2), 2), ((12, 12), 2)]
)
def test_a_wave_lies_in_its_band(frequency: tuple[int, int], band: int) -> None:
    i = torch.arange(24, dtype=torch.float64)
    phase = 2 * math.pi * (frequency[0] * i[:, None] + frequency[1] * i[None, :]) / 24
    power = band_power(phase.cos().expand(1, 3, 24, 24))[0]
    assert power[band] > 0.1
    assert power.sum() == pytest.approx(float(power[band]))


def test_white_noise_has_its_variance_in_every_band() -> None:
    power = band_power(3 * noise())
    for band in power.T:
        assert close(band, 9)


def test_a_known_spectrum_is_recovered() -> None:
    # |1 + exp(2 pi i f)|^2 / 2 = 1 + cos(2 pi f_x) is the power of the moving average along a row
    white = noise()
    power = band_power((white + white.roll(1, dims=3)) / math.sqrt(2))
    gain = 1 + torch.cos(2 * math.pi * torch.fft.fftfreq(24, dtype=torch.float64)).expand(24, 24)
    f = frequencies(24, 24)
    for measured, band in zip(power.T, (f < LOW, (f >= LOW) & (f < HIGH), f >= HIGH), strict=True):
        assert close(measured, float(gain[band].mean()))


def test_bands_together_hold_the_mean_square() -> None:
    latents = noise(5)
    f = frequencies(24, 24)
    shares = torch.stack([f < LOW, (f >= LOW) & (f < HIGH), f >= HIGH]).double().mean(dim=(1, 2))
    expected = latents.square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(band_power(latents) @ shares, expected)
