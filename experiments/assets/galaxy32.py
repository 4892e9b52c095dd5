r"""Simulate the target domain galaxy32: colour stamps of galaxies in a survey.

Each galaxy is a Sérsic bulge and an inclined disc with arms, a bar, a ring, star-forming knots and
dust, drawn by GalSim (Rowe et al., 2015) through a Moffat point spread function into the bands
(i, r, g), which become (red, green, blue) by an asinh stretch (Lupton et al., 2004).
Lengths are in pixels, fluxes in units of the standard deviation of the sky in one pixel.
What each galaxy was drawn with stands in `labels.csv`, beside the images.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import galsim
import numpy as np
from image_set import (
    FEW_SHOT,
    arguments,
    image_stream,
    images_of,
    safetensors_bytes,
    write_atomically,
    write_preview,
)
from numpy.typing import NDArray

NAME = "galaxy32"
SEED = 20240501
GENERATOR_VERSION = "1"

SIZE = 32
BANDS = ("i", "r", "g")
WAVELENGTH = np.array([0.77, 0.62, 0.48])  # micrometre, of the bands i, r, g
EXTINCTION = np.array([0.64, 0.84, 1.16])  # A_band / A_V, Cardelli et al. (1989), R_V = 3.1

# Flux in (i, r, g) of one unit of r-band flux: the colours of stellar populations, and of H II
# regions, which add the H alpha line to r.
OLD = np.array([1.42, 1.00, 0.52])
MIXED = np.array([1.18, 1.00, 0.76])
YOUNG = np.array([0.86, 1.00, 1.18])
NEBULAR = np.array([0.80, 1.15, 1.00])
WHITE = np.array([1.16, 1.00, 0.80])  # the colour shown as grey

PLANE = 180  # samples across the face-on disc
STEP = 0.3  # pixels per sample

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Morphology:
    """Ranges (low, high) from which a class of galaxies is drawn uniformly."""

    share: float  # of all galaxies
    bulge: tuple[float, float]  # fraction of the flux in r
    arms: tuple[int, int]  # number of arms, both ends included; 0: none
    contrast: tuple[float, float]  # of the arms
    bar: tuple[float, float]  # flux of the bar over that of the disc
    ring: tuple[float, float]  # flux of the ring over that of the disc
    knots: tuple[int, int]  # number of star-forming knots, both ends included
    knot_flux: tuple[float, float]  # flux of all knots over that of the disc
    clumpiness: tuple[float, float]  # standard deviation of the logarithm of the young stars
    size: tuple[float, float]  # exponential scale length of the disc
    axis_ratio: tuple[float, float]


MORPHOLOGIES = {
    "early": Morphology(
        0.14, (0.55, 1.0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0),
        (3.6, 6.0), (0.45, 1.0),
    ),
    "lenticular": Morphology(
        0.10, (0.25, 0.5), (0, 0), (0, 0), (0.0, 0.6), (0.0, 0.5), (0, 0), (0, 0), (0.0, 0.15),
        (4.2, 6.2), (0.2, 1.0),
    ),
    "grand_design": Morphology(
        0.24, (0.06, 0.25), (2, 2), (1.6, 3.2), (0, 0), (0, 0), (10, 40), (0.1, 0.35), (0.1, 0.4),
        (5.0, 7.0), (0.4, 1.0),
    ),
    "barred": Morphology(
        0.16, (0.04, 0.16), (2, 2), (1.6, 3.0), (0.25, 0.6), (0.0, 0.4), (8, 30), (0.1, 0.3),
        (0.1, 0.4), (5.0, 7.0), (0.45, 1.0),
    ),
    "flocculent": Morphology(
        0.14, (0.03, 0.15), (3, 4), (0.8, 1.6), (0.0, 0.3), (0, 0), (25, 80), (0.25, 0.6),
        (0.4, 0.8), (5.0, 7.0), (0.4, 1.0),
    ),
    "ring": Morphology(
        0.05, (0.15, 0.4), (0, 0), (0, 0), (0.0, 0.4), (1.2, 3.0), (12, 40), (0.2, 0.6),
        (0.1, 0.4), (3.8, 5.4), (0.5, 1.0),
    ),
    "edge_on": Morphology(
        0.07, (0.08, 0.3), (2, 2), (0.4, 1.2), (0, 0), (0, 0), (10, 40), (0.1, 0.3), (0.2, 0.5),
        (4.4, 6.2), (0.14, 0.28),
    ),
    "clumpy": Morphology(
        0.10, (0.0, 0.03), (0, 0), (0, 0), (0.0, 0.3), (0, 0), (6, 30), (0.4, 1.2), (0.7, 1.2),
        (4.4, 6.6), (0.45, 0.95),
    ),
}  # fmt: skip


def smooth_noise(rng: np.random.Generator, length: float) -> Array:
    """Draw a Gaussian field on the plane, mean 0, variance 1, correlated over `length` pixels."""
    k = 2 * np.pi * np.fft.fftfreq(PLANE, STEP)
    window = np.exp(-0.5 * length**2 * (k[:, None] ** 2 + k**2))
    window[0, 0] = 0.0
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((PLANE, PLANE))) * window).real
    return np.asarray(field / field.std())


def knots_on(rng: np.random.Generator, density: Array, count: int) -> Array:
    """Draw `count` round Gaussian knots at positions drawn from `density`; the fluxes add to 1."""
    cells = np.searchsorted(np.cumsum(density), rng.random(count) * density.sum())
    y, x = np.divmod(np.minimum(cells, density.size - 1), PLANE)
    width = rng.uniform(0.4, 1.1, count) / STEP
    flux = rng.lognormal(0.0, 0.8, count)
    grid = np.arange(PLANE)
    along_x = np.exp(-0.5 * ((grid - x[:, None]) / width[:, None]) ** 2)
    along_y = np.exp(-0.5 * ((grid - y[:, None]) / width[:, None]) ** 2)
    weight = flux / flux.sum() / (2 * np.pi * width**2)
    return np.asarray((along_y * weight[:, None]).T @ along_x)


Parameters = Mapping[str, float]
"""What a galaxy was drawn with, by name; the names are the columns of `labels.csv`."""


def face_on_disc(
    rng: np.random.Generator, kind: Morphology, scale: float
) -> tuple[Array, Parameters]:
    r"""Draw the disc in its own plane, shape (3, PLANE, PLANE), flux 1 in r.

    Arms follow the logarithmic spiral $m (\varphi - \ln(r / r_0) / \tan\psi) = 0$ of pitch $\psi$,
    with the profile $\exp(\kappa (\cos(\cdot) - 1))$; dust lies on their inner edge.

    Returns:
        The disc, and the number of its arms and knots and the flux of bar and ring over its own.
    """
    axis = (np.arange(PLANE) - (PLANE - 1) / 2) * STEP
    x, y = axis, axis[:, None]
    lopsided = rng.normal(0.0, 0.1, 2) * scale * (1 + 2 * (kind.bulge[1] < 0.05))
    r = np.hypot(x - lopsided[0], y - lopsided[1])
    phi = np.arctan2(y, x)
    disc = np.exp(-r / scale)

    arms = int(rng.integers(kind.arms[0], kind.arms[1] + 1))
    contrast = rng.uniform(*kind.contrast)
    pitch = np.radians(rng.uniform(14, 32)) * rng.choice([-1, 1])
    bar = rng.uniform(*kind.bar)
    bar_length = scale * rng.uniform(0.7, 1.1)
    start = bar_length if bar > 0.15 else 0.35 * scale
    warp = 0.3 * smooth_noise(rng, 0.9 * scale)
    phase = arms * (phi - np.log(np.maximum(r, 0.3) / start) / np.tan(pitch)) + warp
    rise = 1 - np.exp(-((r / start) ** 3))
    spiral = rise * np.exp(contrast * 1.6 * (np.cos(phase) - 1)) if arms else np.zeros_like(r)

    clumps = np.exp(rng.uniform(*kind.clumpiness) * smooth_noise(rng, rng.uniform(0.8, 1.6)))
    young = np.exp(-r / (1.15 * scale)) * (0.12 + spiral if arms else 1.0) * clumps
    old = disc * (1 + contrast * 0.6 * spiral)
    bar_shape = np.exp(-((x / bar_length) ** 4) - (y / (0.24 * bar_length)) ** 2)
    ring_radius = scale * rng.uniform(1.7, 2.4)
    ring_shape = np.exp(-0.5 * ((r - ring_radius) / rng.uniform(0.8, 1.3)) ** 2)

    young_share = rng.uniform(0.3, 0.65) if kind.knots[1] else 0.05
    ring = rng.uniform(*kind.ring)
    red, blue = (1 - young_share) * old / old.sum(), young_share * young / young.sum()
    blue = blue + ring * ring_shape * clumps / (ring_shape * clumps).sum()
    red = red + bar * bar_shape / bar_shape.sum()
    disc_bands = MIXED[:, None, None] * red + YOUNG[:, None, None] * blue

    count = int(rng.integers(kind.knots[0], kind.knots[1] + 1))
    flux = rng.uniform(*kind.knot_flux)
    if count:
        knots = flux * knots_on(rng, blue / blue.sum(), count)
        disc_bands += (YOUNG + rng.uniform(0, 0.5) * (NEBULAR - YOUNG))[:, None, None] * knots

    if arms:
        lane = np.exp(5 * (np.cos(phase - 0.9 * np.sign(pitch)) - 1)) * rise
        depth = rng.uniform(0.2, 1.0) * lane * np.exp(-r / (2 * scale))
        disc_bands *= np.exp(-depth * EXTINCTION[:, None, None])
    drawn = {"arms": arms, "bar": bar, "ring": ring, "knots": count}
    return np.asarray(disc_bands / disc_bands[1].sum()), drawn


def neighbours(rng: np.random.Generator) -> list[tuple[galsim.GSObject, Array]]:
    """Draw stars and small galaxies beside the target: objects of flux 1 and their colours."""
    found: list[tuple[galsim.GSObject, Array]] = []
    for _ in range(rng.poisson(0.35)):
        radius, angle = rng.uniform(10, 19), rng.uniform(0, 2 * np.pi)
        blend = rng.random()
        colour = blend * OLD + (1 - blend) * YOUNG
        flux = rng.lognormal(np.log(0.03), 0.7)
        if rng.random() < 0.5:
            item = galsim.DeltaFunction()
        else:
            item = galsim.Exponential(half_light_radius=rng.uniform(0.8, 1.8))
            item = item.shear(q=rng.uniform(0.35, 1), beta=angle * galsim.radians)
            flux *= 2
        found.append((item.shift(radius * np.cos(angle), radius * np.sin(angle)), flux * colour))
    return found


def stretch(bands: Array, *, softening: float, white: float) -> NDArray[np.uint8]:
    r"""Map bands of shape (3, H, W) to colours, after Lupton et al. (2004).

    All bands of a pixel are scaled by
    $\operatorname{asinh}(I / s) / (I \operatorname{asinh}(w / s))$, softening $s$ and white $w$,
    which keeps the hue. $I$ is the brightest band, not the mean as in the paper: a core redder
    than its surroundings would otherwise be shown darker than they are.
    """
    balanced = bands / WHITE[:, None, None]
    intensity = np.clip(balanced.max(axis=0), 1e-6, None)
    colour = (
        balanced / intensity * np.arcsinh(intensity / softening) / np.arcsinh(white / softening)
    )
    return np.asarray(np.round(255 * np.clip(colour, 0, 1)), dtype=np.uint8)


def galaxy(seed: int, index: int) -> NDArray[np.uint8]:
    """Simulate image `index` of the set: colours of shape (3, 32, 32)."""
    return simulate(seed, index)[0]


def simulate(seed: int, index: int) -> tuple[NDArray[np.uint8], Parameters]:
    """Simulate image `index` of the set, and tell what it was drawn with."""
    rng = image_stream(seed, index)
    kinds = list(MORPHOLOGIES.values())
    kind = kinds[int(np.searchsorted(np.cumsum([k.share for k in kinds])[:-1], rng.random()))]

    scale = rng.uniform(*kind.size)
    axis_ratio = rng.uniform(*kind.axis_ratio)
    position_angle = rng.uniform(0, 180) * galsim.degrees
    bulge_share = rng.uniform(*kind.bulge)
    bulge = galsim.Sersic(
        n=rng.uniform(1.2, 4.0),
        half_light_radius=scale * (0.3 + 0.9 * max(bulge_share - 0.3, 0)) * rng.uniform(0.7, 1.2),
        trunc=24.0,
    ).shear(q=max(axis_ratio, rng.uniform(0.55, 0.95)), beta=position_angle)
    disc_bands, drawn = face_on_disc(rng, kind, scale)
    roll = rng.uniform(0, 360) * galsim.degrees
    shear = galsim.Shear(g1=rng.normal(0, 0.03), g2=rng.normal(0, 0.03))
    centre = rng.normal(0.0, 0.5, 2)
    reddening = np.exp(-rng.gamma(2.0, 0.12) * EXTINCTION)
    reddening /= reddening[1]
    bulge_colour = OLD * reddening
    beside = neighbours(rng)

    fwhm = rng.uniform(1.3, 2.2)
    beta = rng.uniform(2.8, 4.5)
    psf_shear = galsim.Shear(g1=rng.normal(0, 0.02), g2=rng.normal(0, 0.02))
    bands = np.empty((3, SIZE, SIZE))
    fluxes = np.empty(3)
    for band in range(3):
        disc = galsim.InterpolatedImage(
            galsim.Image(disc_bands[band], scale=STEP),
            x_interpolant="cubic",
            normalization="flux",
            calculate_stepk=False,
            calculate_maxk=False,
        )
        disc = disc.rotate(roll).transform(1, 0, 0, axis_ratio).rotate(position_angle)
        disc_flux = float(disc_bands[band].sum() * reddening[band])
        parts = [disc.withFlux((1 - bulge_share) * disc_flux)]
        parts.append(bulge.withFlux(bulge_share * bulge_colour[band]))
        fluxes[band] = sum(part.flux for part in parts)
        target = galsim.Sum(parts).shear(shear).shift(*centre)
        scene = galsim.Sum([target, *(item.withFlux(c[band]) for item, c in beside)])
        # Seeing shrinks with wavelength as the power -1/5 (Kolmogorov turbulence).
        width = fwhm * (WAVELENGTH[band] / WAVELENGTH[1]) ** -0.2
        psf = galsim.Moffat(beta=beta, fwhm=width).shear(psf_shear)
        bands[band] = galsim.Convolve(scene, psf).drawImage(nx=SIZE, ny=SIZE, scale=1.0).array

    brightness = rng.lognormal(np.log(14000.0), 0.45)
    bands = np.maximum(bands, 0) * brightness
    # The object adds shot noise to that of the sky, whose level is 3 units.
    noisy = bands + np.sqrt(1 + bands / 3) * rng.standard_normal(bands.shape)
    # The pedestal keeps the noise of the sky from being cut at zero.
    parameters = {
        "colour": 2.5 * np.log10(fluxes[0] / fluxes[2]),
        "axis_ratio": axis_ratio,
        "size": scale,
        "bulge": bulge_share,
        **drawn,
        "brightness": 2.5 * np.log10(brightness),
    }
    return stretch(noisy + 1.5 * WHITE[:, None, None], softening=10.0, white=600.0), parameters


def labels(found: Sequence[Parameters]) -> bytes:
    """Write the parameters as CSV, four significant digits, a line for each image."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *found[0]])
    for index, parameters in enumerate(found):
        values = (f"{value:.4g}" for value in parameters.values())
        writer.writerow([f"{NAME}/{index:04d}", *values])
    return text.getvalue().encode()


def main() -> None:
    """Write the set, its metadata, its labels and its preview."""
    options = arguments(NAME, seed=SEED)
    found: list[Parameters] = []

    def image(seed: int, index: int) -> NDArray[np.uint8]:
        drawn, parameters = simulate(seed, index)
        found.append(parameters)
        return drawn

    images = images_of(image, seed=options.seed, count=options.count)
    metadata = {
        "seed": str(options.seed),
        "few_shot": str(FEW_SHOT),
        "generator": f"{NAME} {GENERATOR_VERSION}",
        "galsim": galsim.__version__,
        "bands": " ".join(BANDS),
    }
    content = safetensors_bytes({"images": images}, metadata)
    write_atomically(options.out / f"{NAME}.safetensors", content)
    write_atomically(options.out / "labels.csv", labels(found))
    write_preview(options.out / "preview.png", images)


if __name__ == "__main__":
    main()
