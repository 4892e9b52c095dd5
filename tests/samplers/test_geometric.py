import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from criteria_options import OPTIONS
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.latents.geometry import criteria
from ood_sampler.samplers.base import GaveUpError, InvertedSet
from ood_sampler.samplers.criteria import Targets, targets_of
from ood_sampler.samplers.geometric import GeometricSampler, _Shell
from ood_sampler.store.sets import InMemory

MakeGaussian = Callable[..., InvertedSet]
S, LENGTH, D = 0.7, 12.0, 3072


def geometric(covariance: Any = "scalar", **options: Any) -> GeometricSampler:  # noqa: ANN401
    return GeometricSampler(covariance, **{**OPTIONS, **options})


def noise(n: int, seed: int = 7) -> SampleNoise:
    return SampleNoise(seed, range(n), stream=Stream.LATENT)


@pytest.fixture
def gaussian(make_gaussian: MakeGaussian) -> InvertedSet:
    return make_gaussian(40, 3, 32, 32, std=S, length=LENGTH)


@pytest.mark.parametrize("covariance", ["scalar", "diagonal"])
def test_draws_meet_the_criteria(covariance: str, gaussian: InvertedSet) -> None:
    sampler, n = geometric(covariance), 100
    fitted = sampler.fit(gaussian)
    z = sampler.draw(fitted, gaussian, noise(n))
    index = sampler.choose_references(fitted, noise(n))
    references = gaussian.latents.take(index.flatten().tolist()).unflatten(0, index.shape)
    targets = targets_of(fitted)
    deviations = targets.deviations(criteria(z, references))
    assert float((deviations.abs() <= 1).all(1).double().mean()) > 0.95
    # nothing but the references' distances from each other keeps them from the values
    assert float(deviations[:, 1].abs().max()) < 0.02
    assert float(fitted["acceptance"]) > 0.95
    # no bias against references that were not chosen
    others = noise(n, seed=8).choice(40, 10)
    others = gaussian.latents.take(others.flatten().tolist()).unflatten(0, others.shape)
    free = targets.deviations(criteria(z, others))
    assert (free.mean(0).abs() < 5 * free.std(0) / math.sqrt(n) + 0.1).all()


def test_shell_is_that_of_the_gaussian(gaussian: InvertedSet) -> None:
    n, members = 200, 40
    sampler = geometric()
    fitted = sampler.fit(gaussian)
    z = sampler.draw(fitted, gaussian, noise(n)).double().flatten(1)
    squares = LENGTH**2 + S**2 * D
    # fresh draws of N(mu, s^2 I) have these norms, and the product |mu|^2 with the sample mean
    assert abs(float(z.square().sum(1).mean()) / squares - 1) < 5 * math.sqrt(2 / D / members)
    mean = gaussian.latents.take(range(members)).double().flatten(1).mean(0)
    products = z @ mean
    # of the sample mean with mu and of its estimate: s |mu| / sqrt N each
    assert abs(float(products.mean()) - LENGTH**2) < 10 * S * LENGTH / math.sqrt(members) + S**2 * (
        5 * math.sqrt(2 * D) / members
    )
    assert float(fitted["component"]) == pytest.approx(
        float(products.mean() / mean.norm()), rel=0.02
    )

    # which is where the search begins
    norm = fitted["component"].square() + fitted["radius"].square()
    assert float(norm / squares) == pytest.approx(1, abs=5 * math.sqrt(2 / D / members))


def test_free_directions_are_free(gaussian: InvertedSet) -> None:
    sampler, n = geometric(), 60
    fitted = sampler.fit(gaussian)
    z = sampler.draw(fitted, gaussian, noise(n)).double().flatten(1)
    axis = fitted["axis"].double().flatten()
    h = z @ axis
    v = z - h[:, None] * axis
    cosines = (v @ v.T) / v.norm(dim=1) / v.norm(dim=1)[:, None]
    off = cosines[~torch.eye(n, dtype=torch.bool)]
    # of independent directions: mean 0, variance 1 / d
    assert abs(float(off.mean())) < 5 / math.sqrt(D * n * (n - 1) / 2)
    assert float(off.square().mean()) == pytest.approx(1 / D, rel=0.2)
    # free of the axis and of the references' mean
    index = sampler.choose_references(fitted, noise(n))
    for i in range(5):
        middle = gaussian.latents.take(index[i].tolist()).double().flatten(1).mean(0)
        assert float(z[i] @ middle) == pytest.approx(float(h[i] * (middle @ axis)), rel=1e-5)


@pytest.mark.parametrize("covariance", ["scalar", "diagonal"])
def test_directions_vary_as_they_should(covariance: str, make_set: MakeGaussian) -> None:
    # deviations that grow from 0.5 to 1.5 along the coordinates
    inverted = make_set(300, 3, 16, 16, mean=1.0)
    variance = inverted.latents.take(range(300)).flatten(1).var(0)
    sampler = geometric(covariance, tolerance=1.0)
    z = sampler.draw(sampler.fit(inverted), inverted, noise(300)).flatten(1)
    lower, upper = (values.mean() for values in z.var(0).chunk(2))
    expected = float(variance[384:].mean() / variance[:384].mean())
    assert expected > 1.5
    assert float(upper / lower) == pytest.approx(
        1.0 if covariance == "scalar" else expected, rel=0.05
    )


@pytest.mark.parametrize("values", [(54.9, 83.6, 59.9), (58.0, 82.0, 60.5)])
def test_the_misfit_and_the_move_are_least(
    values: tuple[float, float, float], gaussian: InvertedSet
) -> None:
    """No place has less of both than the solution: their gradient vanishes, by autograd."""
    members = gaussian.latents.take(range(40)).double().reshape(4, 10, D)
    axis = members.mean((0, 1)) / members.mean((0, 1)).norm()
    v = torch.randn(4, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    v -= (v @ axis)[:, None] * axis
    v /= v.norm(dim=1, keepdim=True)
    shell = _Shell(
        along=members @ axis,
        beside=(members @ v[:, :, None])[:, :, 0],
        between=members @ members.mT,
    )
    targets = Targets(torch.tensor(values), torch.full((3,), 0.3))
    start = torch.tensor([LENGTH, S * math.sqrt(D)], dtype=torch.float64)
    place = shell.solve(targets, start)[0].requires_grad_()

    def misfit(place: Tensor) -> Tensor:
        moved = ((place - start) / start[1]).square().sum(1)
        return targets.deviations(shell.criteria(place)).square().sum(1) + moved

    (slope,) = torch.autograd.grad(misfit(place).sum(), place, create_graph=True)
    rows = [torch.autograd.grad(slope[:, i].sum(), place, retain_graph=True)[0] for i in (0, 1)]
    left = torch.linalg.solve(torch.stack(rows, dim=1), slope) / start[1]
    # a step of 1e-4 of the radius leaves about that share of the slopes, and far less of the place
    assert float(left.detach().abs().max()) < 1e-5


@pytest.mark.parametrize("factor", [0.9, 1.2])
def test_values_that_fit_each_other_are_met(factor: float, gaussian: InvertedSet) -> None:
    measured = geometric().fit(gaussian)
    distance = factor * float(measured["values"][0])
    angle = math.degrees(2 * math.asin(0.5 / factor))
    sampler = geometric(distance=distance, pair_angle=angle, origin_angle=84.0)
    fitted = sampler.fit(gaussian)
    index = sampler.choose_references(fitted, noise(40))
    references = gaussian.latents.take(index.flatten().tolist()).unflatten(0, index.shape)
    found = criteria(sampler.draw(fitted, gaussian, noise(40)), references)
    for values, expected in zip(found, (distance, 84.0, angle), strict=True):
        assert float(values.mean()) == pytest.approx(expected, rel=1e-3)
    assert float(fitted["acceptance"]) > 0.9


def test_values_that_contradict_each_other_are_refused(gaussian: InvertedSet) -> None:
    distance = 1.2 * float(geometric().fit(gaussian)["values"][0])
    with pytest.raises(GaveUpError, match="none of 32 latents of GeometricSampler") as caught:
        geometric(distance=distance).fit(gaussian)
    fitting = math.degrees(2 * math.asin(0.5 / 1.2))
    assert f"goes pair_angle={fitting:.3g}" in str(caught.value)
    assert "_tolerance" in str(caught.value)


def test_a_mean_at_the_origin_gives_right_angles(make_gaussian: MakeGaussian) -> None:
    inverted = make_gaussian(40, 3, 16, 16, std=1.0, length=0.0)
    sampler = geometric(tolerance=1.0)
    fitted = sampler.fit(inverted)
    assert float(fitted["values"][1]) == pytest.approx(90, abs=0.5)
    z = sampler.draw(fitted, inverted, noise(50)).flatten(1)
    assert float(z.square().sum(1).mean()) == pytest.approx(768, rel=0.05)
    assert float(fitted["acceptance"]) > 0.9


def test_both_shares_are_told(gaussian: InvertedSet) -> None:
    sampler, n = geometric(), 300
    fitted = sampler.fit(gaussian)
    own, others = (float(fitted[name]) for name in ("acceptance", "acceptance_of_others"))
    assert sampler.remarks(fitted) == [
        f"geometric: about {100 * own:.3g} % of the latents meet the criteria against the "
        f"references that each was solved for, about {100 * others:.2g} % against others drawn at "
        "random"
    ]
    # other draws, each against references of its own choice and against ten at random
    z, index = sampler.draw(fitted, gaussian, noise(n)), sampler.choose_references(fitted, noise(n))
    for numbers, share, spread in (
        (index, own, 1 / 32 + 1 / n),
        (noise(n, seed=8).choice(40, 10), others, 1 / n),
    ):
        references = gaussian.latents.take(numbers.flatten().tolist()).unflatten(0, numbers.shape)
        met = targets_of(fitted).passed(criteria(z, references)).all(1).double().mean()
        assert abs(float(met) - share) < 5 * math.sqrt(max(share * (1 - share), 0.01) * spread)
    assert own > 0.95
    assert 0.01 < others < 0.3


def test_equal_latents_are_refused(gaussian: InvertedSet) -> None:
    same = replace(gaussian, latents=InMemory(torch.ones(12, *gaussian.latents.shape)))
    with pytest.raises(GaveUpError, match="latents that differ, and they are all equal"):
        geometric().fit(same)


def test_unknown_covariance() -> None:
    with pytest.raises(ValueError, match="covariance must be scalar or diagonal, got 'full'"):
        geometric("full")
