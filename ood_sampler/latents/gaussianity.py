"""Measure how far a set of latents is from white noise."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ood_sampler.latents.spectrum import band_power, colour_products, neighbour_products
from ood_sampler.statistics.moments import mean_and_variance
from ood_sampler.statistics.normality import (
    excess_kurtosis,
    holm,
    lilliefors_distance,
    lilliefors_p,
    shapiro_wilk,
    skewness,
)
from ood_sampler.statistics.resampling import REPLICATES, Interval, percentiles
from ood_sampler.statistics.resampling import draws as resample
from ood_sampler.store.sets import TensorSet

ERROR_RATE = 0.05
"""Chance that at least one test rejects a set of independent normal latents."""

DRAWS = 100_000
"""Number of simulated normal sets."""

_FAMILY = 4
"""Tests per coordinate: two of the coordinate, and two of a direction."""

_STANDARD_ERRORS = 1.959964
"""Standard errors from the mean of a normal distribution to the ends of its 95% interval."""


@dataclass(frozen=True)
class Shape:
    """Normality of several variables of a latent, averaged over the variables.

    Attributes:
        distance: Kolmogorov-Smirnov distance to the normal law of the same mean and variance.
        shapiro: 1 - W.
        skewness: absolute value of the skewness.
        kurtosis: excess over the normal law.
        rejected: share of the variables that a test rejects after Holm's correction over all tests
            of the set.
    """

    distance: float
    shapiro: float
    skewness: float
    kurtosis: float
    rejected: float


@dataclass(frozen=True)
class Gaussianity:
    r"""Statistics of a set of latents; white noise gives the values in brackets.

    Attributes:
        mean: root mean square over coordinates of the mean latent, corrected for its sampling
            error [0]; with a jackknife interval.
        deviation: mean over coordinates of the standard deviation [1].
        deviation_spread: standard deviation over coordinates of the standard deviation
            [$1 / \sqrt{2 (N - 1)}$].
        radius: mean distance to the mean latent over that of the chi law of variance 1 [1].
        radius_spread: standard deviation of that distance over that of the chi law of the set's own
            variance [1].
        radius_p: p-value of the test that `radius_spread` is 1.
        neighbours: correlation of horizontal and vertical neighbours [0].
        colours: correlation of two colours of a pixel [0]; None for one colour.
        low: power at frequencies below 1/8 cycle per pixel, relative to all [1].
        high: power at frequencies from 1/4 cycle per pixel on, relative to all [1].
        coordinates: normality of single coordinates.
        projections: normality along random directions.
    """

    mean: Interval
    deviation: float
    deviation_spread: float
    radius: float
    radius_spread: Interval
    radius_p: float
    neighbours: Interval
    colours: Interval | None
    low: Interval
    high: Interval
    coordinates: Shape
    projections: Shape


def gaussianity(
    latents: TensorSet, *, tests: int = 128, draws: int = DRAWS, seed: int = 0
) -> Gaussianity:
    r"""Compare a set of latents with white noise, in three passes over it.

    Spatial statistics are those of deviations from the mean latent. Intervals are bootstrapped over
    the latents, except that of the mean.

    Args:
        latents: shape $(C, H, W)$ each.
        tests: coordinates, drawn at random, and random directions whose normality is tested;
            at most `most_tests(draws)`.
        draws: simulated normal sets that distances are compared with.
        seed: of the coordinates, directions and resampling.

    Raises:
        ValueError: there are fewer than 12 or more than 5000 latents, or too many tests.
    """
    if not 1 <= tests <= most_tests(draws):
        raise ValueError(
            f"tests must be in 1..{most_tests(draws)}, got {tests}: with more, no distance to the "
            f"normal law is significant among {draws} simulated ones"
        )
    n, d = len(latents), math.prod(latents.shape)
    mean, variance = mean_and_variance(latents)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(d, generator=generator)[:tests]
    directions = torch.randn(d, tests, generator=generator)
    directions /= directions.norm(dim=0)
    rows, coordinates, projections, along_mean = _read(latents, mean, chosen, directions)
    squares = rows[:, 0]
    scale = float(squares.sum() / (n - 1) / d)
    resampled = resample(n, replicates=REPLICATES, seed=seed)

    def ratio(column: int) -> Interval:
        value = rows[:, column].sum() / squares.sum() * d
        sums = rows[:, column][resampled].sum(dim=1) / squares[resampled].sum(dim=1) * d
        return percentiles(float(value), sums)

    # chi law: mean close to sqrt(d), variance close to 1/2
    radii = (squares * n / (n - 1)).sqrt()
    dispersion = squares.var() * (n / (n - 1)) ** 2 / (2 * d * scale**2)
    expected = chi_deviation(d) * math.sqrt(scale)
    across, along = _shapes([coordinates, projections], draws)
    return Gaussianity(
        mean=_mean_size(squares, along_mean, float(mean.square().sum()), d),
        deviation=float(variance.sqrt().mean()),
        deviation_spread=float(variance.sqrt().std()),
        radius=float(radii.mean()) / chi_mean(d),
        radius_spread=percentiles(
            float(radii.std()) / expected, radii[resampled].std(dim=1) / expected
        ),
        radius_p=_two_sided(float(dispersion) * (n - 1), n - 1),
        neighbours=ratio(1),
        colours=ratio(2) if latents.shape[0] > 1 else None,
        low=ratio(3),
        high=ratio(4),
        coordinates=across,
        projections=along,
    )


def _read(
    latents: TensorSet, mean: Tensor, chosen: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Read the set once.

    Args:
        latents: shape $(C, H, W)$ each.
        mean: of the latents.
        chosen: indices of coordinates.
        directions: unit vectors, shape $(d, tests)$.

    Returns:
        For each latent its measures (`_measure`), the chosen coordinates and the projections of its
        deviation from the mean, and that deviation along the mean.
    """
    measures, coordinates, projections, along_mean = [], [], [], []
    for block in latents.blocks():
        centred = block.double() - mean
        flat = centred.flatten(1)
        measures.append(_measure(centred))
        coordinates.append(flat[:, chosen])
        # float32, as a product of large matrices is slow
        projections.append((flat.float() @ directions).double())
        along_mean.append(flat @ mean.flatten())
    return (
        torch.cat(measures),
        torch.cat(coordinates),
        torch.cat(projections),
        torch.cat(along_mean),
    )


def most_tests(draws: int = DRAWS) -> int:
    """Largest number of coordinates whose tests can all reject after Holm's correction.

    The smallest p-value of a distance is 1 / (1 + draws), and the strictest level of the family is
    the rate over its size.
    """
    return int(ERROR_RATE * (1 + draws) / _FAMILY)


def chi_mean(d: int) -> float:
    r"""$\sqrt 2\, \Gamma((d + 1) / 2) / \Gamma(d / 2)$, the mean norm of $\mathcal{N}(0, I_d)$."""
    return math.sqrt(2) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))


def chi_deviation(d: int) -> float:
    r"""Standard deviation of the norm of $\mathcal{N}(0, I_d)$, close to $1 / \sqrt 2$."""
    # d - mean^2 cancels; its expansion is exact to 1e-9 where that loses digits
    return math.sqrt(d - chi_mean(d) ** 2 if d < 100 else 0.5 - 1 / (8 * d) - 1 / (16 * d**2))


def _mean_size(squares: Tensor, along: Tensor, mean_square: float, d: int) -> Interval:
    r"""Root mean square of the true mean latent, from products of different latents.

    $U = \frac{1}{n} \sum_i h_i$ with $h_i = \frac{1}{n - 1} \sum_{j \ne i} z_i \cdot z_j$ is
    unbiased for $\lVert \mu \rVert^2$, and its jackknife variance is
    $\frac{4}{n} \big( \frac{n - 1}{n - 2} \big)^2 \text{Var}(h_i)$ (Efron & Stein, 1981): on
    average never too small, and about twice the true one if $\mu = 0$. A negative square counts
    as 0.

    Args:
        squares: $\lVert z_i - \bar z \rVert^2$, shape $(n,)$.
        along: $(z_i - \bar z) \cdot \bar z$, shape $(n,)$.
        mean_square: $\lVert \bar z \rVert^2$.
        d: dimension of a latent.
    """
    n = len(squares)
    # product of z_i with the sum of all, minus that with itself
    others = (n * (along + mean_square) - squares - 2 * along - mean_square) / (n - 1)
    value = float(others.mean())
    error = 2 * (n - 1) / (n - 2) * float(others.std()) / math.sqrt(n)
    reach = _STANDARD_ERRORS * error
    ends = (value, value - reach, value + reach)
    return Interval(*(math.sqrt(max(end, 0) / d) for end in ends))


def _measure(centred: Tensor) -> Tensor:
    """Compute the squared norm, and means over a latent: neighbours, colours, low and high band."""
    bands = band_power(centred)
    colours = colour_products(centred) if centred.shape[1] > 1 else torch.zeros(len(centred))
    columns = [
        centred.flatten(1).square().sum(dim=1),
        neighbour_products(centred).mean(dim=1),
        colours,
        bands[:, 0],
        bands[:, 2],
    ]
    return torch.stack(columns, dim=1)


def _shapes(sets: list[Tensor], draws: int) -> list[Shape]:
    """Measure the normality of some matrices, with all tests as one family."""
    values = torch.cat(sets, dim=1)
    distance = lilliefors_distance(values)
    W, p = shapiro_wilk(values)
    family = torch.cat([lilliefors_p(distance, len(values), draws=draws), p])
    rejected = (holm(family) <= ERROR_RATE).reshape(2, -1).any(dim=0)
    figures = torch.stack(
        [
            distance,
            1 - W,
            skewness(values).abs(),
            excess_kurtosis(values),
            rejected.double(),
        ]
    )
    parts = figures.split([part.shape[1] for part in sets], dim=1)
    return [Shape(*part.mean(dim=1).tolist()) for part in parts]


def _two_sided(statistic: float, freedom: int) -> float:
    """Two-sided p-value of a chi-squared statistic: twice the chance of its smaller tail."""
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    below = float(torch.special.gammainc(half[0], half[1]))
    above = float(torch.special.gammaincc(half[0], half[1]))
    return min(1.0, 2 * min(below, above))
