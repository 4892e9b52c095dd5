"""Non-parametric morphology of galaxies, by `statmorph` (Rodriguez-Gomez et al., 2019)."""

import logging
import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ood_sampler.faults import install

MEASURES = ("concentration", "asymmetry", "gini", "m20")

BAD = 2
"""Least flag that `statmorph` gives to bad measurements."""

_THRESHOLD = 1.5
"""Standard deviations of the background above which a pixel belongs to a source."""

_SMALLEST_NOISE = 1e-3
"""Least noise relative to the brightest pixel, so that a noiseless background has a weight."""

_MEDIAN_TO_DEVIATION = 1.4826


class Morphology(NamedTuple):
    r"""Measures per image, float64, $(N,)$, NaN where `flag`, int64, is `BAD` or above.

    Attributes:
        concentration: $C = 5 \log_{10}(r_{80} / r_{20})$ (Conselice, 2003).
        asymmetry: $A$, the part changed by a rotation of 180 degrees, minus that of the background
            (same).
        gini: Inequality of the flux between pixels, 0 to 1 (Lotz et al., 2004).
        m20: $M_{20}$, logarithm of the second moment of the brightest fifth of the flux over that
            of all (same).
        flag: 0 good, 1 suspect, 2 bad, 4 nothing could be measured.
    """

    concentration: Tensor
    asymmetry: Tensor
    gini: Tensor
    m20: Tensor
    flag: Tensor


def check_statmorph() -> None:
    """Check that `statmorph` is installed.

    Raises:
        ValueError: It is not; says what to install.
    """
    try:
        import statmorph  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"concentration, asymmetry, Gini and M20 need the package statmorph: {install('astro')}"
        ) from error


def morphology(images: Tensor) -> Morphology:
    """Measure the largest source of each image; a failure is flagged, not left out.

    The background is the median of the border, and its noise the scaled median deviation there. The
    source is the largest connected region of pixels above 1.5 standard deviations.

    Args:
        images: Brightness in any linear unit, shape $(N, H, W)$.

    Raises:
        ValueError: `statmorph` is not installed.
    """
    check_statmorph()
    logger = logging.getLogger("astropy")
    level = logger.level
    # one line per doubtful image, which has a flag anyway
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = [_measure(image) for image in images.double().numpy(force=True)]
    finally:
        logger.setLevel(level)
    concentration, asymmetry, gini, m20, flag = (
        torch.tensor(values, dtype=torch.float64) for values in zip(*found, strict=True)
    )
    return Morphology(concentration, asymmetry, gini, m20, flag.long())


def _measure(image: np.ndarray) -> tuple[float, float, float, float, int]:
    import statmorph

    border = np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
    background = np.median(border)
    noise = _MEDIAN_TO_DEVIATION * np.median(np.abs(border - background))
    signal = image - background
    noise = max(noise, _SMALLEST_NOISE * signal.max())
    if noise <= 0:
        return (np.nan, np.nan, np.nan, np.nan, 4)
    # morphology does not depend on the unit, and some sums would overflow
    signal, noise = signal / signal.max(), noise / signal.max()
    source = largest_region(signal > _THRESHOLD * noise)
    if not source.any():
        return (np.nan, np.nan, np.nan, np.nan, 4)
    weights = np.full_like(signal, noise)
    (found,) = statmorph.source_morphology(signal, source.astype(int), weightmap=weights)
    if found.flag >= BAD:
        return (np.nan, np.nan, np.nan, np.nan, int(found.flag))
    return (found.concentration, found.asymmetry, found.gini, found.m20, int(found.flag))


def largest_region(mask: np.ndarray) -> np.ndarray:
    """The largest connected region of a mask, shape (H, W)."""
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    if not count:
        return mask
    largest: np.ndarray = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    return largest
