"""The geometric criteria of the inverted set, met by construction."""

import math
from dataclasses import dataclass
from typing import Literal, Unpack

import torch
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.latents.geometry import ROUNDS, Criteria, criteria_of_products
from ood_sampler.samplers.base import Fitted, GaveUpError, InvertedSet
from ood_sampler.samplers.criteria import (
    CriteriaOptions,
    CriteriaSampler,
    Targets,
    take_rows,
    targets_of,
)
from ood_sampler.statistics.moments import mean_and_variance

_PROBES = 32
"""Draws with which `fit` checks the construction."""

_CHOICES = 8
"""Draws of references, of which the best is taken."""

_BLOCK_BYTES = 2**25
"""Bytes of references in memory at a time."""

_ITERATIONS = 4


class GeometricSampler(CriteriaSampler):
    r"""Place a random direction on the shell where the three criteria hold.

    With the mean $\mu$ of the set, its unit vector $\hat\mu$ and random references $r_j$,

    $$z = h \hat\mu + \rho v, \quad \lVert v \rVert = 1, \quad v \perp \mu, \quad
    v \perp \textstyle\sum_j r_j,$$

    and $v$ is free otherwise. Then $z \cdot z = h^2 + \rho^2$ and $z \cdot r_j$ is
    $h \hat\mu \cdot r_j + \rho v \cdot r_j$, whose last term has mean zero. These determine the
    criteria: the distances are $\sqrt{z \cdot z - 2 z \cdot r_j + r_j \cdot r_j}$, the cosines at
    the origin $z \cdot r_j / (\lVert z \rVert \lVert r_j \rVert)$, and those at the latent
    $(r_j - z) \cdot (r_l - z) / (\lVert r_j - z \rVert \lVert r_l - z \rVert)$.

    The component $h$ and the radius $\rho$ are solved per sample, starting from the measured ones:
    $h^2 + \rho^2$ is the mean square norm of members, and $h \lVert \mu \rVert$ the mean product of
    two. As distance $D$ and pair angle $P$ both follow from the radius
    ($\lVert r_j - r_l \rVert = 2 D \sin(P/2)$ for equal distances), eight draws of references are
    made, and the one whose mutual distances fit best is taken. The remaining misfit is distributed
    by least squares, in units of the tolerances.

    Args:
        covariance: of the free directions: `scalar`, all alike, or `diagonal`, in proportion to
            each coordinate's standard deviation.
        options: values and tolerances of the criteria, see `CriteriaSampler`.

    Raises:
        ValueError: a value is out of its range.
    """

    def __init__(
        self,
        covariance: Literal["scalar", "diagonal"],
        **options: Unpack[CriteriaOptions],
    ) -> None:
        if covariance not in ("scalar", "diagonal"):
            raise ValueError(f"covariance must be scalar or diagonal, got {covariance!r}")
        super().__init__(**options)
        self.covariance = covariance

    def fit(self, inverted: InvertedSet) -> Fitted:
        """Measure the shell, and the shares of draws on it that meet the criteria.

        One share is against the references that each draw was solved for, one against others, as
        the choice of references changes the criteria by more than the tolerances.

        Raises:
            GaveUpError: the latents are all equal, or none of 32 draws meets them.
        """
        products, targets = self.measure(inverted.latents)
        mean, variance = mean_and_variance(inverted.latents)
        n, length = len(products), mean.norm().clamp(min=1e-30)
        diagonal = products.diagonal()
        component = (products.sum() - diagonal.sum()) / (n * (n - 1)) / length
        radius = (diagonal.mean() - component.square()).clamp(min=0).sqrt()
        if self.covariance == "scalar":
            variance = variance.mean().expand_as(variance).contiguous()
        fitted = {
            "axis": (mean / length).float(),
            "std": variance.sqrt().float(),
            "component": component.float(),
            "radius": radius.float(),
            "products": products.float(),
            "along": (products.mean(1) / length).float(),
            "values": targets.values,
            "tolerances": targets.tolerances,
        }
        if not targets.values[0] > 0:
            raise GaveUpError("GeometricSampler needs latents that differ, and they are all equal")
        probes = SampleNoise(0, range(_PROBES), stream=Stream.FIT)
        drawn, measured = self._make(fitted, inverted, probes)
        passed = targets.passed(measured).all(1).double().mean()
        if not passed:
            apart = float(_distances(products).sum() / (n * (n - 1)))
            distance = float(targets.values[0])
            fitting = math.degrees(2 * math.asin(min(1.0, apart / (2 * distance))))
            raise GaveUpError(
                f"none of {_PROBES} latents of GeometricSampler meets all three criteria, which "
                f"are {targets.describe(measured)}: with distance={distance:.6g} goes "
                f"pair_angle={fitting:.4g}, as one follows from the other; set both so or to null, "
                f"or raise sampler.{targets.hardest(measured)}_tolerance"
            )
        others = self._passed_against_others(drawn, products, inverted, targets, probes)
        return {**fitted, "acceptance": passed.float(), "acceptance_of_others": others.float()}

    def _passed_against_others(
        self,
        drawn: Tensor,
        products: Tensor,
        inverted: InvertedSet,
        targets: Targets,
        noise: SampleNoise,
    ) -> Tensor:
        """Share of measurements against random references that meet the criteria."""
        z, k = drawn.double().flatten(1), self.references_of(inverted.latents)
        beside = torch.cat([z @ b.double().flatten(1).T for b in inverted.latents.blocks()], dim=1)
        shares = []
        for _ in range(ROUNDS):
            index = noise.choice(len(products), k)
            between = products[index[:, :, None], index[:, None, :]]
            found = criteria_of_products(z.square().sum(1), beside.gather(1, index), between)
            shares.append(targets.passed(found).all(1).double().mean())
        return torch.stack(shares).mean()

    def remarks(self, fitted: Fitted) -> list[str]:
        own, others = (100 * float(fitted[name]) for name in ("acceptance", "acceptance_of_others"))
        return [
            f"geometric: about {own:.3g} % of the latents meet the criteria against the references "
            f"that each was solved for, about {others:.2g} % against others drawn at random"
        ]

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        return self._make(fitted, inverted, noise)[0]

    def _make(
        self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise
    ) -> tuple[Tensor, Criteria]:
        """Make latents, and measure them against their own references."""
        axis = fitted["axis"].flatten()
        targets = targets_of(fitted)
        index = self.choose_references(fitted, noise)
        directions = noise.normal(*inverted.latents.shape).flatten(1) * fitted["std"].flatten()
        v, beside = [], []
        each = 4 * axis.numel() * index.shape[1]
        for block in torch.arange(len(index)).split(max(1, _BLOCK_BYTES // each)):
            members, places = take_rows(inverted.latents, index[block])
            for x, rows in zip(directions[block], places, strict=True):
                direction, overlap = _free(x, axis, members[rows])
                v.append(direction)
                beside.append(overlap)
        shell = _Shell(
            along=fitted["along"][index].double(),
            beside=torch.stack(beside).double(),
            between=fitted["products"][index[:, :, None], index[:, None, :]].double(),
        )
        place, measured = shell.solve(
            targets, torch.stack([fitted["component"], fitted["radius"]]).double()
        )
        h, rho = place.float()[:, :, None].unbind(1)
        return (h * axis + rho * torch.stack(v)).reshape(len(v), *inverted.latents.shape), measured

    def choose_references(self, fitted: Fitted, noise: SampleNoise) -> Tensor:
        """Indices of the references, the best-fitting of some draws, shape (B, k)."""
        products = fitted["products"]
        n = len(products)
        k = min(self.references, n - 1)
        drawn = torch.stack([noise.choice(n, k) for _ in range(_CHOICES)], dim=1)
        apart = _distances(products[drawn[:, :, :, None], drawn[:, :, None, :]].double())
        between = apart.sum((2, 3)) / (k * (k - 1))
        distance, _, angle = fitted["values"].double()
        best = (between - 2 * distance * (angle / 2).deg2rad().sin()).abs().argmin(dim=1)
        return drawn[torch.arange(len(drawn)), best]


def _distances(products: Tensor) -> Tensor:
    """Distances between the members of sets from their inner products, shape (..., N, N)."""
    squares = products.diagonal(dim1=-2, dim2=-1)
    squared: Tensor = squares[..., :, None] - 2 * products + squares[..., None, :]
    return squared.clamp(min=0).sqrt()


def _free(x: Tensor, axis: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vector of `x` in the free directions, and its products with the references."""
    mean = references.mean(0)
    across = mean - (mean @ axis) * axis
    across = across / across.norm().clamp(min=1e-30)
    v = x - (x @ axis) * axis - (x @ across) * across
    v = v / v.norm().clamp(min=1e-30)
    return v, references @ v


@dataclass(frozen=True)
class _Shell:
    r"""All quantities besides $h$ and $\rho$ that the criteria of $z = h \hat\mu + \rho v$ need.

    Attributes:
        along: $\hat\mu \cdot r_j$, shape $(B, k)$.
        beside: $v \cdot r_j$, shape $(B, k)$.
        between: $r_j \cdot r_l$, shape $(B, k, k)$.
    """

    along: Tensor
    beside: Tensor
    between: Tensor

    def criteria(self, place: Tensor) -> Criteria:
        r"""Criteria at $(h, \rho)$, shape $(B, 2)$."""
        h, rho = place[:, :1], place[:, 1:]
        products = h * self.along + rho * self.beside
        return criteria_of_products(place.square().sum(1), products, self.between)

    def solve(self, targets: Targets, start: Tensor) -> tuple[Tensor, Criteria]:
        r"""Fit $(h, \rho)$ to the criteria, in tolerances, by Gauss-Newton from `start`."""
        radius = start[1].clamp(min=1e-30)
        step = 1e-4 * radius * torch.eye(2, dtype=start.dtype)
        place = start.expand(len(self.along), 2)
        for _ in range(_ITERATIONS):
            misfit = targets.deviations(self.criteria(place))
            slopes = [
                (targets.deviations(self.criteria(place + move)) - misfit) / (1e-4 * radius)
                for move in step
            ]
            # a change by the whole radius weighs as much as one tolerance
            pull = (place - start) / radius.square()
            first, second = (
                (slope * misfit).sum(1) + p for slope, p in zip(slopes, pull.unbind(1), strict=True)
            )
            a, c = (slope.square().sum(1) + 1 / radius.square() for slope in slopes)
            b = (slopes[0] * slopes[1]).sum(1)
            move = torch.stack([c * first - b * second, a * second - b * first], dim=1)
            move = (move / (a * c - b * b)[:, None]).clamp(-radius / 2, radius / 2)
            place = place - move
            place = torch.stack([place[:, 0], place[:, 1].clamp(min=1e-6 * radius)], dim=1)
        return place, self.criteria(place)
