"""Latents a minute of the Gaussian strategies, and `geometric` against `rejection`."""

import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Literal

import torch

from experiments.bench.table import Ratio, seconds
from ood_sampler.data.domain import embedded_domain
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.diffusion.solvers import MultistepSolver
from ood_sampler.latents.geometry import criteria
from ood_sampler.models.frozen import FrozenModel
from ood_sampler.samplers.base import Fitted, InvertedSet, Sampler
from ood_sampler.samplers.criteria import CriteriaOptions, targets_of
from ood_sampler.samplers.gaussian import GaussianSampler
from ood_sampler.samplers.geometric import GeometricSampler
from ood_sampler.samplers.lowrank import LowRankSampler
from ood_sampler.samplers.noised import NoisedSampler
from ood_sampler.samplers.rejection import RejectionSampler
from ood_sampler.samplers.standard import StandardSampler
from ood_sampler.store.artifacts import SHARD
from ood_sampler.store.sets import InMemory

A_MINUTE = 1_000_000
ACCEPTED = 100.0
PICTURES = 200
STEP = 500
SHARDS = 16
"""A timing: some hundredths of a second."""
REPEATS = 15

# The paper's: 0.3 of a distance of 611.4, and 0.1 degrees
DISTANCE_TOLERANCE = 0.3 / 611.4
ANGLE_TOLERANCE = 0.1


def measure() -> Iterator[Ratio]:
    """Yield the latents a minute, and the ratio of accepted latents for both candidates."""
    inverted = galaxies()
    yield from latents_a_minute(inverted)
    yield from accepted(inverted)


def galaxies() -> InvertedSet:
    """Embedded images, inverted with few evaluations."""
    model = FrozenModel(name="dog32", path="dog32", resolution=32)
    few_shot = embedded_domain(
        name="galaxy32", resolution=32, few_shot=PICTURES, held_out=None
    ).few_shot
    images = torch.stack([few_shot[i] for i in range(PICTURES)])
    solver = MultistepSolver(steps=12, power=2)
    with torch.inference_mode():
        blocks = [solver.invert(model.denoiser, x, [STEP])[STEP] for x in images.split(SHARD)]
    # tensors of inference mode are not for use outside of it
    return InvertedSet(
        images=InMemory(images),
        latents=InMemory(torch.cat(blocks).clone()),
        schedule=model.schedule,
        step=STEP,
    )


def latents_a_minute(inverted: InvertedSet) -> Iterator[Ratio]:
    """Draw shards as a run does."""
    strategies: dict[str, Sampler] = {
        "standard": StandardSampler(),
        "gaussian, scalar": GaussianSampler("scalar"),
        "gaussian, diagonal": GaussianSampler("diagonal"),
        "lowrank 40": LowRankSampler(40),
        "noised": NoisedSampler(),
    }
    for name, sampler in strategies.items():
        fitted = sampler.fit(inverted)
        draw_shards(sampler, fitted, inverted, 2)
        work = partial(draw_shards, sampler, fitted, inverted, SHARDS)
        rates = sorted(60 * SHARDS * SHARD / seconds(work) for _ in range(REPEATS))
        busy = processor_seconds(sampler, fitted, inverted)
        yield Ratio(
            name=f"latents a minute, {name}, 3x32x32",
            measured=statistics.median(rates),
            goal=A_MINUTE,
            at_most=False,
            detail=f"by the clock; shards of {SHARD}; {REPEATS} repeats, {rates[0]:.3g} to "
            f"{rates[-1]:.3g}; {60 * SHARDS * SHARD / busy:.3g} a minute of processor time",
        )


def processor_seconds(sampler: Sampler, fitted: Fitted, inverted: InvertedSet) -> float:
    """Of all threads: other processes that take turns on the machine do not count."""
    start = time.process_time()
    draw_shards(sampler, fitted, inverted, SHARDS)
    return time.process_time() - start


def accepted(inverted: InvertedSet) -> Iterator[Ratio]:
    """Latents a second that meet the same criteria, by construction and by rejection."""
    distance = float(GeometricSampler("diagonal", **options()).fit(inverted)["values"][0])
    paper = options(distance * DISTANCE_TOLERANCE, ANGLE_TOLERANCE)
    candidates: Literal["slerp", "gaussian"]
    for candidates, count in (("gaussian", 24), ("slerp", 12)):
        strict, detail = accepted_ratio(inverted, candidates, count, paper)
        loose, _ = accepted_ratio(inverted, candidates, 4 * count, options())
        yield Ratio(
            name=f"accepted latents a second, geometric over rejection of {candidates}",
            measured=strict,
            goal=ACCEPTED,
            at_most=False,
            detail=f"{PICTURES} galaxies inverted by dog32 to {STEP}, the paper's tolerances; "
            f"{detail}; {loose:.3g} with the default tolerances",
        )


def options(distance: float | None = None, angle: float | None = None) -> CriteriaOptions:
    """Measured values; tolerances as given, or the default ones."""
    return CriteriaOptions(
        references=10,
        distance=None,
        origin_angle=None,
        pair_angle=None,
        tolerance=0.25,
        distance_tolerance=distance,
        origin_angle_tolerance=angle,
        pair_angle_tolerance=angle,
    )


def accepted_ratio(
    inverted: InvertedSet,
    candidates: Literal["slerp", "gaussian"],
    count: int,
    criteria_options: CriteriaOptions,
) -> tuple[float, str]:
    """Ratio of the rates, and the two shares of accepted ones."""
    rejection = RejectionSampler(candidates, attempts=100_000, **criteria_options)
    geometric = GeometricSampler("diagonal", **criteria_options)
    rejected, made = rejection.fit(inverted), geometric.fit(inverted)
    noise = SampleNoise(0, range(count), stream=Stream.LATENT)
    slow = seconds(lambda: rejection.draw(rejected, inverted, noise)) / count
    fast = statistics.median(
        seconds(lambda: draw_shards(geometric, made, inverted, 4)) / (4 * SHARD)
        for _ in range(REPEATS)
    )
    own, other = passed(geometric, made, inverted)
    return own * slow / fast, (
        f"{100 * float(rejected['acceptance']):.2g} % of candidates, {1e3 * slow:.3g} ms a latent "
        f"(of {count}), against {own:.1%}, {1e3 * fast:.2g} ms; against references that it did not "
        f"choose {other:.1%} of geometric's"
    )


def passed(
    sampler: GeometricSampler, fitted: Fitted, inverted: InvertedSet, count: int = 512
) -> tuple[float, float]:
    """Shares of latents that meet the criteria, against their own references and random others."""

    def noise(seed: int) -> SampleNoise:
        return SampleNoise(seed, range(count), stream=Stream.LATENT)

    z = sampler.draw(fitted, inverted, noise(1))
    own = sampler.choose_references(fitted, noise(1))
    other = noise(2).choice(len(inverted.latents), own.shape[1])
    shares = []
    for index in (own, other):
        references = inverted.latents.take(index.flatten().tolist()).unflatten(0, index.shape)
        met = targets_of(fitted).passed(criteria(z, references)).all(1)
        shares.append(float(met.double().mean()))
    return shares[0], shares[1]


def draw_shards(sampler: Sampler, fitted: Fitted, inverted: InvertedSet, shards: int) -> None:
    """Draw as the pipeline does, shard by shard."""
    for shard in range(shards):
        indices = range(shard * SHARD, (shard + 1) * SHARD)
        sampler.draw(fitted, inverted, SampleNoise(0, indices, stream=Stream.LATENT))
