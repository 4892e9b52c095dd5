"""Directions of attributes: which images they come from, and images moved along them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ood_sampler.latents.alignment import Alignment, alignment
from ood_sampler.latents.geometry import gram
from ood_sampler.latents.sphere import mean_direction, mean_logarithm, mean_pair_logarithm, move
from ood_sampler.pipeline.keys import selected
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.statistics.moments import mean_and_variance
from ood_sampler.store.node import Node
from ood_sampler.store.sets import Selected
from ood_sampler.store.versions import code_version
from ood_sampler.studies.paths import PIXELS, SPHERE, At, finite_latents, frames, latents_of

_THIRD = 1 / 3


@dataclass(frozen=True)
class Sides:
    """Few-shot images without an attribute and with it, by number.

    Attributes:
        without: those with the lower value.
        having: those with the higher value.
    """

    without: tuple[int, ...]
    having: tuple[int, ...]

    @property
    def key(self) -> dict[str, Any]:
        """As JSON."""
        return {"without": list(self.without), "having": list(self.having)}


def sides(values: Tensor, among: Sequence[int]) -> Sides:
    """Divide images by a label: of two values by these, else the lowest and the highest third.

    Where a third of all have the lowest or the highest value, all of these are taken; where the
    thirds would overlap, those below the mean and those above it.

    Args:
        values: of all few-shot images, NaN where unknown, shape (N,).
        among: numbers of those to divide.
    """
    known = [k for k in among if bool(values[k].isfinite())]
    found = values[known]
    if not known:
        return Sides((), ())
    low, high = found.quantile(_THIRD), found.quantile(1 - _THIRD)
    if low >= high or len(found.unique()) == 2:
        low = high = found.mean()
    return Sides(
        tuple(k for k in known if values[k] <= low and (values[k] < high or low < high)),
        tuple(k for k in known if values[k] >= high and (values[k] > low or low < high)),
    )


class Direction(NamedTuple):
    """The way from images without an attribute to images with it.

    Attributes:
        mean: Fréchet mean of the directions of both, a unit vector, shape (d,).
        tangent: mean logarithm of those with it less that of those without, a tangent vector there.
        straight: mean of those with it less mean of those without, shape of a latent.
        pairs: cosine of `tangent` with the mean of the transported directions of pairs.
    """

    mean: Tensor
    tangent: Tensor
    straight: Tensor
    pairs: float


def direction(run: Pipeline, of: Sides) -> Direction:
    """Find the direction in the latents of a run, or in its images if it has no model.

    Latents that are not finite are left out.
    """

    def find() -> Direction:
        good = set(finite_latents(run))
        latents = latents_of(run)
        without, having = (
            Selected(latents, [k for k in side if k in good]) for side in (of.without, of.having)
        )
        both = Selected(latents, [*without.indices, *having.indices])
        m = mean_direction(both)
        tangent = mean_logarithm(having, m) - mean_logarithm(without, m)
        pairs = mean_pair_logarithm(without, having, m)
        means = [mean_and_variance(side)[0] for side in (without, having)]
        cosine = float(cosine_similarity(tangent, pairs, dim=0))
        return Direction(m, tangent, means[1] - means[0], cosine)

    digest = run.inversion.outputs[str(run.settings.step)].digest
    return run.session.once(("direction", digest, of), find)


def aligned(run: Pipeline, of: Sides, *, permutations: int) -> Alignment:
    """How well directions of independent pairs agree in the latents of a run."""
    good = set(finite_latents(run))
    without, having = ([k for k in side if k in good] for side in (of.without, of.having))
    latents = selected(latents_of(run), [*without, *having])
    products = gram(latents, torch.zeros(latents.shape))
    return alignment(products, len(without), permutations=permutations, seed=run.settings.seed)


def moved(
    run: Pipeline,
    of: Sides,
    method: str,
    *,
    count: int,
    strengths: Sequence[float],
    purpose: str,
    source: Pipeline | None = None,
) -> Node:
    """Images moved along a direction: image $k$ at strength $j$ of $S$ is item $k S + j$.

    Args:
        run: whose latents give the direction, and whose codec decodes.
        of: images that it is found from.
        method: `SPHERE`, else a straight line.
        count: the first so many images of `source`.
        strengths: 1 is as far as the two sides are apart.
        purpose: of the stage.
        source: run whose few-shot images are moved; None takes those of `run`.
    """
    whose = run if source is None else source
    inversion = run.inversion.outputs[str(run.settings.step)]
    key = {
        "direction": inversion.digest,
        **of.key,
        "method": "line" if method == PIXELS else method,
        "geometry": code_version(move, mean_and_variance),
    }
    return frames(
        run,
        "move",
        partial(_begin, run, whose, of, method),
        key,
        count=count,
        positions=strengths,
        of=purpose,
        source=whose.inversion,
    )


def still(run: Pipeline, count: int) -> Node:
    """The first images inverted and decoded, not moved."""

    def begin() -> At:
        latents = latents_of(run)
        return lambda numbers, _: latents.take(list(numbers))

    return frames(
        run, "move", begin, {"method": "none"}, count=count, positions=[0.0], of="not moved"
    )


def _begin(run: Pipeline, whose: Pipeline, of: Sides, method: str) -> At:
    found = direction(run, of)
    latents = latents_of(whose)

    def at(numbers: Sequence[int], strength: Tensor) -> Tensor:
        z = latents.take(list(numbers)).double()
        if method == SPHERE:
            items = zip(z, strength.tolist(), strict=True)
            return torch.cat([move(x[None], found.mean, found.tangent, s) for x, s in items])
        return z + strength.reshape(-1, *[1] * (z.ndim - 1)) * found.straight

    return at


def least(of: Mapping[str, Sides]) -> tuple[str, int]:
    """The attribute with the fewest images on one side, and their number."""
    counts = {name: min(len(s.without), len(s.having)) for name, s in of.items()}
    name = min(counts, key=lambda each: counts[each])
    return name, counts[name]
