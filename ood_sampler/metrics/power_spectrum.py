"""Radially averaged power spectra of images or fields, and a distance between those of two sets."""

import torch
from torch import Tensor

from ood_sampler.statistics.intervals import centred_interval
from ood_sampler.statistics.resampling import Interval, resampling_weights

_FLOOR = 1e-30
"""Power of a constant field, so that its logarithm is finite."""

_BINS_AN_OCTAVE = 4


def wave_numbers(resolution: int) -> Tensor:
    """Mean wave number of each bin of `log_spectra`, in cycles per side, float64, $(K,)$."""
    length, bins = _modes(resolution)
    counted = bins >= 0
    total = torch.zeros(int(bins.max()) + 1, dtype=torch.float64)
    sums = total.scatter_add(0, bins[counted], length[counted])
    return sums / bins[counted].bincount()


def log_spectra(fields: Tensor) -> Tensor:
    r"""Base-10 logarithm of the radially averaged power spectrum of each field.

    $$P(k) = \Big\langle \frac{1}{R^2} \Big| \sum_{r} F(r) e^{-2 \pi i q \cdot r / R} \Big|^2
    \Big\rangle_{q \in k}$$

    over the modes $q \ne 0$ in a ring; white noise of variance $\sigma^2$ has $P = \sigma^2$ at all
    $k$. There are four rings per octave, rounded to whole wave numbers, up to the $R / 2$ of the
    grid. Logarithms are averaged over bands, so that no band counts more for its unit.

    Args:
        fields: Shape $(N, C, R, R)$.

    Returns:
        Float64, shape $(N, K)$.
    """
    resolution = fields.shape[-1]
    power = torch.fft.fft2(fields.double(), norm="ortho").abs().square().flatten(start_dim=2)
    _, bins = _modes(resolution)
    counted = bins >= 0
    rings = torch.nn.functional.one_hot(bins[counted]).double()
    means: Tensor = power[:, :, counted] @ (rings / rings.sum(dim=0))
    return means.clamp(min=_FLOOR).log10().mean(dim=1)


def _modes(resolution: int) -> tuple[Tensor, Tensor]:
    """Length and ring of each mode of the transform, $(R^2,)$; ring -1 is none."""
    axis = torch.fft.fftfreq(resolution, d=1 / resolution, dtype=torch.float64)
    length = torch.hypot(axis[:, None], axis).flatten()
    largest = resolution // 2
    steps = range(_BINS_AN_OCTAVE * largest.bit_length() + 1)
    starts = {round(2 ** (step / _BINS_AN_OCTAVE)) for step in steps}
    edges = torch.tensor([*sorted(start for start in starts if start <= largest), largest + 1])
    ring = torch.bucketize(length.round(), edges.double(), right=True) - 1
    return length, torch.where(ring < len(edges) - 1, ring, -1)


def spectrum_distance(spectra: Tensor, reference: Tensor, *, seed: int = 0) -> Interval:
    r"""Root mean square, over rings, of the difference between the mean logarithms of two sets.

    In decades: 0.3 is a factor of 2 in power. The interval is that of `centred_interval`, with both
    sets resampled.

    Args:
        spectra: From `log_spectra`, shape $(N, K)$.
        reference: Likewise, shape $(M, K)$.
        seed: Of the resampling.
    """
    difference = spectra.mean(dim=0) - reference.mean(dim=0)
    resampled = [
        resampling_weights(len(rows), seed=2 * seed + k) @ rows / len(rows)
        for k, rows in enumerate((spectra, reference))
    ]
    return centred_interval(
        float(difference.square().mean().sqrt()),
        (resampled[0] - resampled[1]).square().mean(dim=1).sqrt(),
    )
