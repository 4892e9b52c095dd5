r"""Simulate the target domain radiation32: starlight in turbulent molecular clouds.

The gas of a cloud is a log-normal field in a cube of 32 cells and 4 pc on a side. A few young stars
shine in it, and the interstellar field shines on it from outside; the image is the energy flux in
three bands on the middle plane of the cube. Fluxes are in units of the Habing field,
$1.6 \times 10^{-3}$ erg s$^{-1}$ cm$^{-2}$ (Habing, 1968), lengths in pc unless said otherwise.
"""

from dataclasses import dataclass

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

NAME = "radiation32"
SEED = 20240502
GENERATOR_VERSION = "1"

CELLS = 32
BOX = 4.0
CELL = BOX / CELLS
# Range of the map to colours in each band.
FLUX_LOW = np.array([0.08, 0.004, 0.0004])
FLUX_HIGH = np.array([2500.0, 8000.0, 40000.0])

# Bands shown as red, green, blue, as (shortest, longest) wavelength in micrometre; the last is the
# far ultraviolet between 6 and 13.6 eV in which the Habing field is defined.
BANDS = {"nir": (0.8, 2.4), "optical": (0.3, 0.8), "fuv": (0.0912, 0.2066)}
# Extinction over that at V (Cardelli et al., 1989, R_V = 3.1) at 1.25, 0.55 and 0.15 micrometre.
EXTINCTION = np.array([0.282, 1.0, 2.66])
MAGNITUDE = 0.4 * np.log(10)  # optical depth of one magnitude
# Interstellar field: 1 in the far ultraviolet, in all the 0.02 erg s^-1 cm^-2 of starlight of
# Mathis et al. (1983).
INTERSTELLAR = np.array([7.0, 5.0, 1.0])
# Added everywhere for what this model leaves out: light scattered by dust, and photons made by
# cosmic rays inside the cloud.
FLOOR = np.array([0.1, 0.005, 0.0005])
SOLAR_FLUX = 3.828e33 / (4 * np.pi * 3.0857e18**2 * 1.6e-3)  # of 1 solar luminosity at 1 pc

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Star:
    """A point source: position (z, y, x) in pc, luminosity in each band in solar luminosities."""

    position: Array
    luminosity: Array


def gaussian_field(rng: np.random.Generator, *, index: float = 11 / 3) -> Array:
    r"""Draw a periodic field, mean 0, variance 1, with the power $P(k) \propto k^{-\text{index}}$.

    The logarithm of the density in supersonic turbulence has a Kolmogorov spectrum,
    $4 \pi k^2 P(k) \propto k^{-5/3}$ (Kowal et al., 2007), hence $11/3$.
    """
    k = np.fft.fftfreq(CELLS, 1 / CELLS)
    k_half = np.fft.rfftfreq(CELLS, 1 / CELLS)
    square = k[:, None, None] ** 2 + k[:, None] ** 2 + k_half**2
    square[0, 0, 0] = np.inf  # removes the mean
    white = np.fft.rfftn(rng.standard_normal((CELLS, CELLS, CELLS)))
    field = np.fft.irfftn(white * square ** (-index / 4), s=(CELLS,) * 3, axes=(0, 1, 2))
    return np.asarray(field / field.std())


def log_normal_density(field: Array, *, mach: float, forcing: float) -> Array:
    r"""Turn a Gaussian field into a density of mean 1.

    $\rho \propto e^{\sigma_s g}$ with $\sigma_s^2 = \ln(1 + b^2 \mathcal{M}^2)$ for the Mach number
    $\mathcal{M}$; `forcing` is $b$, from 1/3 (solenoidal) to 1 (compressive turbulence)
    (Federrath et al., 2010).
    """
    density = np.exp(np.sqrt(np.log1p((forcing * mach) ** 2)) * field)
    return np.asarray(density / density.mean())


def interpolate(density: Array, points: Array) -> Array:
    """Read the density at points (z, y, x) in pc, shape (..., 3): trilinear, constant outside."""
    cell = np.clip(points / CELL - 0.5, 0, CELLS - 1)
    low = np.minimum(cell.astype(np.intp), CELLS - 2)
    weight = cell - low
    value = np.zeros(points.shape[:-1])
    for corner in np.ndindex(2, 2, 2):
        share = np.where(corner, weight, 1 - weight).prod(axis=-1)
        z, y, x = np.moveaxis(low + np.array(corner), -1, 0)
        value += share * density[z, y, x]
    return value


def column(density: Array, start: Array, ends: Array, *, samples: int = 48) -> Array:
    r"""Integrate $\int \rho \, dl$ from one point to each of `ends`, shape (N, 3), by midpoints."""
    fraction = (np.arange(samples) + 0.5) / samples
    points = start + fraction[:, None, None] * (ends - start)
    length = np.linalg.norm(ends - start, axis=-1)
    return np.asarray(interpolate(density, points).mean(axis=0) * length)


def stellar_flux(
    density: Array, stars: list[Star], points: Array, *, opacity: Array, nearest: float = CELL
) -> Array:
    r"""Add the fluxes of `stars` at `points`, shape (N, 3), in each band: shape (bands, N).

    $$F_b(x) = \sum_\star \frac{L_{\star, b}}{4 \pi r^2} e^{-\kappa_b \int_\star^x \rho \, dl}$$
    with `opacity` $\kappa_b$ in 1/pc at the mean density. Within `nearest` of a star the distance
    in $1/r^2$ is `nearest`, as a cell cannot resolve the pole.
    """
    flux = np.zeros((len(opacity), len(points)))
    for star in stars:
        distance = np.maximum(np.linalg.norm(points - star.position, axis=-1), nearest)
        tau = opacity[:, None] * column(density, star.position, points)
        flux += SOLAR_FLUX * star.luminosity[:, None] / distance**2 * np.exp(-tau)
    return flux


def external_flux(density: Array, *, plane: int, opacity: Array) -> Array:
    r"""Return how much of an isotropic outer field reaches `plane`, shape (bands, CELLS, CELLS).

    The mean of $e^{-\tau}$ over the 26 directions to the neighbours of a cell, each followed
    through half a box of the periodic cloud: the six-ray approximation (Glover & Mac Low, 2007)
    with more rays.
    """
    y, x = np.mgrid[:CELLS, :CELLS]
    transmitted = np.zeros((len(opacity), CELLS, CELLS))
    directions = [d for d in np.ndindex(3, 3, 3) if d != (1, 1, 1)]
    for direction in directions:
        step = np.array(direction) - 1
        length = float(np.linalg.norm(step))
        along = np.arange(round(CELLS / 2 / length))[:, None, None]
        cells = density[
            (plane + step[0] * along) % CELLS,
            (y + step[1] * along) % CELLS,
            (x + step[2] * along) % CELLS,
        ]
        # The path starts in the middle of its own cell.
        tau = CELL * length * (cells.sum(axis=0) - cells[0] / 2)
        transmitted += np.exp(-opacity[:, None, None] * tau)
    return transmitted / len(directions)


def band_shares(temperature: float) -> Array:
    """Return the share of a black body's luminosity in each band, at a temperature in K."""
    shares = []
    for low, high in BANDS.values():
        wavelength = low + (high - low) * (np.arange(200) + 0.5) / 200
        x = 14387.77 / (wavelength * temperature)
        # B(T) dlambda over sigma T^4 / pi is (15 / pi^4) x^4 / (e^x - 1) dlambda / lambda.
        power = 15 / np.pi**4 * x**4 / np.expm1(x) / wavelength
        shares.append(power.mean() * (high - low))
    return np.array(shares)


def young_star(rng: np.random.Generator, position: Array) -> Star:
    """Draw a hot main-sequence star (B8 to O9) or, one time in four, a cool protostar."""
    if rng.random() < 0.75:
        log_luminosity = rng.uniform(2.0, 4.3)
        temperature = 10 ** (4.03 + 0.18 * (log_luminosity - 2.0))
    else:
        log_luminosity = rng.uniform(1.8, 3.3)
        temperature = rng.uniform(3200, 5500)
    return Star(position, 10**log_luminosity * band_shares(temperature))


def cavity(density: Array, star: Star, radius: float) -> Array:
    """Empty the gas around a star, which its radiation and wind have driven out."""
    centre = (np.arange(CELLS) + 0.5) * CELL
    z, y, x = star.position
    square = (centre[:, None, None] - z) ** 2 + (centre[:, None] - y) ** 2 + (centre - x) ** 2
    return np.asarray(density * (1 - 0.95 * np.exp(-((square / radius**2) ** 2))))


def radiation(seed: int, index: int) -> NDArray[np.float16]:
    """Simulate image `index` of the set: fluxes in Habing units, shape (3, 32, 32)."""
    rng = image_stream(seed, index)
    density = log_normal_density(
        gaussian_field(rng), mach=rng.uniform(5, 18), forcing=rng.uniform(1 / 3, 0.8)
    )
    extinction = 10 ** rng.uniform(0.75, 1.5)  # A_V across the cube at the mean density
    opacity = MAGNITUDE * extinction / BOX * EXTINCTION

    plane = CELLS // 2
    height = (plane + 0.5) * CELL
    stars = []
    for _ in range(2 + rng.poisson(2.0)):
        # Stars form in dense gas: of several places, the one with the most of it.
        places = rng.uniform(0.04 * BOX, 0.96 * BOX, (6, 3))
        places[:, 0] = height + rng.normal(0, 3 * CELL, 6)
        star = young_star(rng, places[np.argmax(interpolate(density, places))])
        stars.append(star)
        density = cavity(density, star, CELL * rng.uniform(1.5, 5.0))

    centre = (np.arange(CELLS) + 0.5) * CELL
    y, x = np.meshgrid(centre, centre, indexing="ij")
    points = np.stack([np.full_like(x, height), y, x], axis=-1).reshape(-1, 3)
    flux = stellar_flux(density, stars, points, opacity=opacity).reshape(3, CELLS, CELLS)
    # The cube is the inside of a larger cloud, whose envelope dims the interstellar field.
    envelope = MAGNITUDE * rng.uniform(2.0, 7.0) * EXTINCTION
    outside = rng.lognormal(0.7, 0.8) * INTERSTELLAR * np.exp(-envelope)
    flux += outside[:, None, None] * external_flux(density, plane=plane, opacity=opacity)
    return np.asarray(flux + FLOOR[:, None, None], dtype=np.float16)


def colours(fields: NDArray[np.float16]) -> NDArray[np.uint8]:
    """Map fluxes of shape (N, 3, H, W) to 8-bit colours on a logarithmic scale, to be looked at."""
    low, high = np.log(FLUX_LOW[:, None, None]), np.log(FLUX_HIGH[:, None, None])
    unit = (np.log(fields.astype(np.float64)) - low) / (high - low)
    return np.asarray(np.round(255 * unit.clip(0, 1)), dtype=np.uint8)


def main() -> None:
    """Write the set, its metadata and its preview."""
    options = arguments(NAME, seed=SEED)
    fields = images_of(radiation, seed=options.seed, count=options.count)
    metadata = {
        "seed": str(options.seed),
        "few_shot": str(FEW_SHOT),
        "generator": f"{NAME} {GENERATOR_VERSION}",
        "bands": " ".join(BANDS),
        "units": "Habing field, 1.6e-3 erg s^-1 cm^-2",
        "flux_low": " ".join(map(repr, FLUX_LOW.tolist())),
        "flux_high": " ".join(map(repr, FLUX_HIGH.tolist())),
    }
    content = safetensors_bytes({"fields": fields}, metadata)
    write_atomically(options.out / f"{NAME}.safetensors", content)
    write_preview(options.out / "preview.png", colours(fields))


if __name__ == "__main__":
    main()
