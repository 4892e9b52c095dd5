"""Spatial differences between latents and white noise: neighbours, colours, frequencies."""

import torch
from torch import Tensor

LOW, HIGH = 1 / 8, 1 / 4
"""Cycles per pixel where the low band ends and the high band begins."""


def neighbour_products(centred: Tensor) -> Tensor:
    r"""Mean product of horizontal and of vertical neighbours per latent, shape $(B, 2)$.

    Divided by the mean square it is the correlation at a distance of one pixel: 0 for white noise.

    Args:
        centred: latents about their mean, shape $(B, C, H, W)$, $H, W \ge 2$.
    """
    horizontal = (centred[..., :, 1:] * centred[..., :, :-1]).mean(dim=(1, 2, 3))
    vertical = (centred[..., 1:, :] * centred[..., :-1, :]).mean(dim=(1, 2, 3))
    return torch.stack([horizontal, vertical], dim=1)


def colour_products(centred: Tensor) -> Tensor:
    r"""Mean product of two colours of a pixel per latent, over pairs of colours, shape $(B,)$.

    Args:
        centred: latents about their mean, shape $(B, C, H, W)$, $C \ge 2$.
    """
    C = centred.shape[1]
    pairs = centred.sum(dim=1).square() - centred.square().sum(dim=1)
    product: Tensor = pairs.mean(dim=(1, 2)) / (C * (C - 1))
    return product


def frequencies(height: int, width: int) -> Tensor:
    """Radial frequency of each Fourier coefficient in cycles per pixel, shape (height, width)."""
    vertical = torch.fft.fftfreq(height, dtype=torch.float64)
    horizontal = torch.fft.fftfreq(width, dtype=torch.float64)
    return torch.hypot(vertical[:, None], horizontal[None, :])


def band_power(centred: Tensor) -> Tensor:
    r"""Power in the low, middle and high band per latent, shape $(B, 3)$.

    The mean over a band of $|\hat z|^2 / (H W)$: $\sigma^2$ for white noise of variance $\sigma^2$.
    The mean over all frequencies is the mean square.

    Args:
        centred: latents about their mean, shape $(B, C, H, W)$.
    """
    power = torch.fft.fft2(centred.double(), norm="ortho").abs().square().mean(dim=1)
    f = frequencies(*centred.shape[-2:])
    bands = [f < LOW, (f >= LOW) & (f < HIGH), f >= HIGH]
    return torch.stack([power[:, band].mean(dim=1) for band in bands], dim=1)
