from collections.abc import Callable

import pytest
import torch
from criteria_options import OPTIONS
from safetensors.torch import load, save
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.samplers.bands import BandsSampler
from ood_sampler.samplers.base import GaveUpError, InvertedSet, Sampler
from ood_sampler.samplers.circle import CircleSampler
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.samplers.criteria import CriteriaOptions
from ood_sampler.samplers.gaussian import GaussianSampler
from ood_sampler.samplers.geometric import GeometricSampler
from ood_sampler.samplers.hypersphere import HypersphereSampler
from ood_sampler.samplers.lerp import LerpSampler
from ood_sampler.samplers.lowrank import LowRankSampler
from ood_sampler.samplers.noised import NoisedSampler
from ood_sampler.samplers.permutation import PermutationSampler
from ood_sampler.samplers.rejection import RejectionSampler
from ood_sampler.samplers.slerp import SlerpSampler
from ood_sampler.samplers.standard import StandardSampler
from ood_sampler.samplers.white import WhiteSampler
from ood_sampler.store.sets import InMemory

# what a few latents in four dimensions allow
LOOSE = CriteriaOptions(**{**OPTIONS, "references": 3, "tolerance": 2.0})  # type: ignore[typeddict-item]

STRATEGIES = {
    "standard": StandardSampler(),
    "noised": NoisedSampler(),
    "gaussian-scalar": GaussianSampler("scalar"),
    "gaussian-diagonal": GaussianSampler("diagonal"),
    "lowrank": LowRankSampler(3),
    "lowrank-cross-validated": LowRankSampler(None),
    "slerp-pair": SlerpSampler("pair", 20),
    "slerp-gaussian": SlerpSampler("gaussian", 20),
    "cog": CogSampler(2),
    "cog-4": CogSampler(4),
    "cog-capped": CogSampler(4, cap=0.4),
    "cog-local": CogSampler(2, cap=0.6, among=3),
    "white": WhiteSampler(2, 0.4),
    "white-4": WhiteSampler(4, 1.0, cap=0.4),
    "lerp": LerpSampler(),
    "bands": BandsSampler(1),
    "circle-origin": CircleSampler("origin"),
    "circle-mean": CircleSampler("mean"),
    "permutation": PermutationSampler(),
    "hypersphere-tangent": HypersphereSampler("tangent"),
    "hypersphere-vmf": HypersphereSampler("vmf"),
    "rejection-slerp": RejectionSampler("slerp", attempts=5000, **LOOSE),
    "rejection-gaussian": RejectionSampler("gaussian", attempts=5000, **LOOSE),
    "geometric-scalar": GeometricSampler("scalar", **LOOSE),
    "geometric-diagonal": GeometricSampler("diagonal", **LOOSE),
}
CRITERIA = {"rejection-slerp", "rejection-gaussian", "geometric-scalar", "geometric-diagonal"}
MINIMUM = {
    **dict.fromkeys(["standard", "noised", "permutation"], 1),
    **dict.fromkeys(["cog-local", "lowrank", "lowrank-cross-validated", *CRITERIA], 3),
    "cog-4": 4,
    "cog-capped": 4,
    "white-4": 4,
}
COMBINES = {"slerp-pair", "cog", "cog-4", "cog-local", "lerp", "circle-origin", "circle-mean"}
COMBINES |= {"cog-capped", "hypersphere-tangent", "rejection-slerp"}

each_strategy = pytest.mark.parametrize("name", STRATEGIES)
MakeSet = Callable[..., InvertedSet]


def noise(indices: list[int], seed: int = 0) -> SampleNoise:
    return SampleNoise(seed, indices, stream=Stream.LATENT)


def test_interface_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Sampler()  # type: ignore[abstract]


@each_strategy
def test_draws_ignore_the_batch(name: str, make_set: MakeSet) -> None:
    sampler, inverted = STRATEGIES[name], make_set(6, 3, 32, 32, step=999)
    sampler.check(inverted)
    fitted = sampler.fit(inverted)
    together = sampler.draw(fitted, inverted, noise(list(range(10))))
    assert tuple(together.shape) == (10, 3, 32, 32)
    assert together.dtype == torch.float32
    assert together.isfinite().all()
    for split in ([[i] for i in range(10)], [[0, 1, 2, 3, 4, 5, 6], [7, 8, 9]]):
        parts = [sampler.draw(fitted, inverted, noise(indices)) for indices in split]
        assert torch.equal(together, torch.cat(parts))
    backwards = sampler.draw(fitted, inverted, noise(list(range(9, -1, -1))))
    assert torch.equal(together, backwards.flip(0))


@each_strategy
def test_draws_differ_by_index_and_seed(name: str, make_set: MakeSet) -> None:
    sampler, inverted = STRATEGIES[name], make_set(60, 1, 2, 2, step=999)
    fitted = sampler.fit(inverted)
    draws = [sampler.draw(fitted, inverted, noise(list(range(20)), seed)) for seed in (0, 1, 0)]
    assert torch.equal(draws[0], draws[2])
    # pairs meet at a few thousand places only: now and then at the same
    assert len(torch.cat(draws[:2]).flatten(1).unique(dim=0)) > 35


@each_strategy
def test_what_is_learned_can_be_stored(name: str, make_set: MakeSet) -> None:
    sampler, inverted = STRATEGIES[name], make_set(6, 1, 2, 2, step=999)
    fitted = sampler.fit(inverted)
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in fitted.values())
    restored = load(save(fitted))
    expected = sampler.draw(fitted, inverted, noise([0, 1]))
    assert torch.equal(sampler.draw(restored, inverted, noise([0, 1])), expected)


@each_strategy
def test_fewest_images(name: str, make_set: MakeSet) -> None:
    sampler, fewest = STRATEGIES[name], MINIMUM.get(name, 2)
    assert sampler.minimum_images == fewest
    inverted = make_set(fewest, 1, 2, 2, step=999)
    sampler.check(inverted)
    assert sampler.draw(sampler.fit(inverted), inverted, noise([0, 1])).isfinite().all()
    if name != "standard":  # which does not look at the set
        with pytest.raises(GaveUpError, match=f"needs at least {fewest} .* got {fewest - 1}: add"):
            sampler.check(make_set(fewest - 1, 1, 2, 2, step=999))


def outside_the_span(draws: Tensor, members: Tensor) -> float:
    """Largest relative distance of draws from the linear span of the members."""
    basis = torch.linalg.qr(members.double().flatten(1).T).Q
    rows = draws.double().flatten(1)
    return float(((rows - rows @ basis @ basis.T).norm(dim=1) / rows.norm(dim=1)).max())


@each_strategy
def test_mixing_stays_within_the_set(name: str, make_set: MakeSet) -> None:
    sampler, inverted = STRATEGIES[name], make_set(6, 3, 4, 4, step=999)
    assert isinstance(inverted.latents, InMemory)
    draws = sampler.draw(sampler.fit(inverted), inverted, noise(list(range(20))))
    distance = outside_the_span(draws, inverted.latents.items)
    assert (distance < 1e-5) == (name in COMBINES)
    # these are made of pixels or frequencies of members
    assert sampler.mixes == (name in COMBINES | {"bands", "permutation"})
