import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.latents.geometry import (
    ROUNDS,
    arc_over_chord,
    combine,
    criteria,
    criteria_of_products,
    frechet_mean,
    gram,
    member_criteria,
    slerp,
)
from ood_sampler.store.sets import InMemory


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def full(u: float, n: int) -> Tensor:
    return torch.full((n,), u, dtype=torch.float64)


def angle(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten(1), b.flatten(1)
    return ((a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)).clamp(-1, 1).acos()


def ends(n: int = 4) -> tuple[Tensor, Tensor]:
    return normal(n, 3, 2, 2), 3 * normal(n, 3, 2, 2, seed=1)


def test_slerp_starts_and_ends_at_the_ends() -> None:
    z_1, z_2 = ends()
    torch.testing.assert_close(slerp(z_1, z_2, full(0, 4)), z_1, rtol=0, atol=1e-14)
    torch.testing.assert_close(slerp(z_1, z_2, full(1, 4)), z_2, rtol=0, atol=1e-14)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(u=st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_slerp_is_even_in_angle_and_norm(u: list[float]) -> None:
    z_1, z_2 = ends()
    v = torch.tensor(u, dtype=torch.float64)
    z = slerp(z_1, z_2, v)
    norm_1, norm_2 = z_1.flatten(1).norm(dim=1), z_2.flatten(1).norm(dim=1)
    torch.testing.assert_close(z.flatten(1).norm(dim=1), (1 - v) * norm_1 + v * norm_2)
    whole = angle(z_1, z_2)
    torch.testing.assert_close(angle(z_1, z), v * whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(angle(z, z_2), (1 - v) * whole, rtol=0, atol=1e-6)


def test_slerp_of_a_quarter_turn() -> None:
    z_1, z_2 = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    third = slerp(z_1, z_2, torch.tensor([1 / 3]))
    norm = 2 / 3 + 3 / 3
    expected = torch.tensor([[norm * math.cos(math.pi / 6), norm * math.sin(math.pi / 6)]])
    torch.testing.assert_close(third, expected)


def test_slerp_of_parallel_latents_is_straight() -> None:
    z_1 = normal(2, 5)
    for z_2 in (z_1, 2 * z_1, z_1 + 1e-10 * normal(2, 5, seed=1)):
        z = slerp(z_1, z_2, full(0.25, 2))
        torch.testing.assert_close(z, 0.75 * z_1 + 0.25 * z_2, rtol=0, atol=1e-9)


def test_slerp_of_opposite_latents_is_finite() -> None:
    z_1 = normal(2, 5)
    z = slerp(z_1, -z_1, full(0.25, 2))
    torch.testing.assert_close(z, 0.5 * z_1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("delta", [1e-4, 1e-3, math.pi - 1e-3])
def test_slerp_is_accurate_at_small_and_large_angles(delta: float) -> None:
    z_1 = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    z_2 = torch.tensor([[math.cos(delta), math.sin(delta)]], dtype=torch.float64)
    expected = torch.tensor([[math.cos(0.3 * delta), math.sin(0.3 * delta)]], dtype=torch.float64)
    torch.testing.assert_close(slerp(z_1, z_2, full(0.3, 1)), expected, rtol=0, atol=1e-11)


def test_slerp_keeps_precision_and_rows() -> None:
    z_1, z_2 = (z.float() for z in ends())
    u = torch.tensor([0.1, 0.5, 0.9, 0.3])
    z = slerp(z_1, z_2, u)
    assert z.dtype == torch.float32
    alone = [slerp(z_1[i : i + 1], z_2[i : i + 1], u[i : i + 1]) for i in range(4)]
    assert torch.equal(z, torch.cat(alone))


@settings(deadline=None, derandomize=True, max_examples=50)
@given(
    rows=st.lists(
        st.lists(st.floats(-5, 5), min_size=3, max_size=3).filter(lambda w: math.hypot(*w) > 1e-3),
        min_size=1,
        max_size=4,
    )
)
def test_combination_keeps_mean_and_covariance(rows: list[list[float]]) -> None:
    weights = torch.tensor(rows, dtype=torch.float64)
    b, k = weights.shape
    mean = normal(2, 2)
    # mean: copies of it combine to it
    copies = mean.expand(b, k, 2, 2)
    torch.testing.assert_close(combine(copies, weights, mean), mean.expand(b, 2, 2))
    # covariance: the combination is linear in z_i - mean, and its coefficients have unit length
    effects = []
    for i in range(k):
        moved = copies.clone()
        moved[:, i] += 1
        effects.append(combine(moved, weights, mean) - mean)
    squares = torch.stack(effects).square().sum(0)
    torch.testing.assert_close(squares, torch.ones_like(squares))
    torch.testing.assert_close(
        torch.stack([effect[:, 0, 0] for effect in effects], dim=1),
        weights / weights.square().sum(1, keepdim=True).sqrt(),
    )


def test_combination_by_hand() -> None:
    z = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    mean = torch.tensor([10.0, 20.0])
    combined = combine(z, torch.tensor([[3.0, 4.0]]), mean)
    # w / |w| = (0.6, 0.8), so that the mean has the weight 1 - 1.4
    torch.testing.assert_close(combined, torch.tensor([[0.6 - 4.0, 1.6 - 8.0]]))


def test_combinations_of_gaussian_latents_are_gaussian() -> None:
    n, k = 40_000, 3
    root = torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=torch.float64)
    mean = torch.tensor([5.0, -3.0], dtype=torch.float64)
    z = mean + normal(n, k, 2) @ root.T
    combined = combine(z, normal(n, k, seed=1), mean)
    centred = combined - mean
    covariance = root @ root.T
    assert (centred.mean(0).abs() < 5 * covariance.diag().sqrt() / math.sqrt(n)).all()
    variances = covariance.diag()
    spread = ((covariance.square() + torch.outer(variances, variances)) / n).sqrt()
    assert ((centred.T @ centred / n - covariance).abs() < 5 * spread).all()


def test_criteria_by_hand() -> None:
    z = torch.tensor([[1.0, 0.0]])
    references = torch.tensor([[[1.0, 1.0], [3.0, 0.0]]])
    measured = criteria(z, references)
    # distances 1 and 2; angles at the origin 45 and 0; at z from straight up to straight right
    assert [value.tolist() for value in measured] == [
        pytest.approx([1.5]),
        pytest.approx([22.5]),
        pytest.approx([90.0]),
    ]


@pytest.mark.parametrize("k", [2, 3, 6])
def test_criteria_of_a_simplex(k: int) -> None:
    corners = 2 * torch.eye(k + 1)
    measured = criteria(corners[:1], corners[None, 1:])
    expected = (2 * math.sqrt(2), 90.0, 60.0)
    assert [float(value) for value in measured] == [pytest.approx(v) for v in expected]


def test_criteria_are_those_of_each_latent_alone_and_of_its_references_in_any_order() -> None:
    z, references = 3 + normal(5, 2, 3), 3 + normal(5, 4, 2, 3, seed=1)
    together = criteria(z, references)
    turned = criteria(z.flip(0), references.flip(0, 1))
    for values, other in zip(together, turned, strict=True):
        assert tuple(values.shape) == (5,)
        torch.testing.assert_close(values, other.flip(0))
    for i in range(5):
        alone = criteria(z[i : i + 1], references[i : i + 1])
        torch.testing.assert_close(torch.stack(alone)[:, 0], torch.stack(together)[:, i])


def test_criteria_against_angles_and_norms() -> None:
    z, references = 1 + normal(1, 7), 1 + normal(1, 4, 7, seed=1)
    measured = criteria(z, references)
    r = references[0]
    distance = (r - z).norm(dim=1).mean()
    torch.testing.assert_close(measured.distance, distance[None])
    origin = torch.stack([angle(z, r[j : j + 1]) for j in range(4)]).mean()
    torch.testing.assert_close(measured.origin_angle, origin.rad2deg()[None])
    pairs = [angle(r[j][None] - z, r[k][None] - z) for j in range(4) for k in range(j)]
    torch.testing.assert_close(measured.pair_angle, torch.stack(pairs).mean().rad2deg()[None])


def test_criteria_far_from_the_origin_keep_their_digits() -> None:
    z, references = normal(3, 50).float(), normal(3, 4, 50, seed=1).float()
    near = criteria(z.double(), references.double())
    far = criteria(z.double() + 1000, references.double() + 1000)
    torch.testing.assert_close(far.distance, near.distance, rtol=1e-7, atol=0)
    torch.testing.assert_close(far.pair_angle, near.pair_angle, rtol=1e-7, atol=0)


def test_latents_at_one_place_have_right_angles() -> None:
    z = torch.zeros(1, 3)
    measured = criteria(z, z.expand(1, 2, 3))
    assert [float(value) for value in measured] == [0, pytest.approx(90), pytest.approx(90)]


def test_an_angle_needs_two_references() -> None:
    with pytest.raises(ValueError, match="references must be >= 2, got 1"):
        criteria(normal(1, 3), normal(1, 1, 3))


@pytest.mark.parametrize("n", [3, 150])
def test_gram_matrix_of_several_blocks(n: int) -> None:
    latents, centre = normal(n, 2, 3), normal(2, 3, seed=1)
    rows = (latents - centre).flatten(1)
    products = gram(InMemory(latents), centre)
    assert products.dtype == torch.float64
    torch.testing.assert_close(products, rows @ rows.T, rtol=0, atol=1e-12)


def members(latents: Tensor, k: int) -> Tensor:
    rows = latents.flatten(1)
    noise = SampleNoise(0, range(len(rows)), stream=Stream.FIT)
    return torch.stack(member_criteria(rows @ rows.T, k, noise))


def test_members_are_measured_against_all_the_others() -> None:
    latents = 1 + normal(4, 2, 3)
    others = torch.tensor([[j for j in range(4) if j != i] for i in range(4)])
    expected = torch.stack(criteria(latents, latents[others]))
    torch.testing.assert_close(members(latents, 3), expected.repeat(1, ROUNDS))


def test_members_are_measured_against_some_others_evenly() -> None:
    n, k = 6, 3
    latents = 1 + normal(n, 2, 3)
    values = members(latents, k).unflatten(1, (ROUNDS, n))
    others = torch.tensor([[j for j in range(n) if j != i] for i in range(n)])
    expected = torch.stack(criteria(latents, latents[others]))
    spread = values.std(1)
    assert (spread > 0).all()
    # the mean over all choices of others is that over all of them
    assert ((values.mean(1) - expected).abs() < 5 * spread / math.sqrt(ROUNDS)).all()


@pytest.mark.parametrize("k", [1, 4])
def test_members_need_others(k: int) -> None:
    with pytest.raises(ValueError, match=rf"references must be in 2\.\.3 for 4 latents, got {k}"):
        members(normal(4, 3), k)


def test_products_of_a_gaussian_are_its_criteria() -> None:
    d, s, length = 2000.0, 0.5, 10.0
    squares = length**2 + s**2 * d
    product = torch.full((1, 3), length**2, dtype=torch.float64)
    between = torch.full((1, 3, 3), length**2, dtype=torch.float64)
    between[0].fill_diagonal_(squares)
    measured = criteria_of_products(torch.tensor([squares]), product, between)
    assert float(measured.distance) == pytest.approx(s * math.sqrt(2 * d))
    assert float(measured.origin_angle) == pytest.approx(
        math.degrees(math.acos(length**2 / squares))
    )
    assert float(measured.pair_angle) == pytest.approx(60)


def test_arc_over_chord() -> None:
    angle = torch.tensor([0.0, 1e-3, 1.0, 2.0, 3.0], dtype=torch.float64)
    expected = torch.cat([torch.ones(1), angle[1:] / angle[1:].sin()])
    torch.testing.assert_close(arc_over_chord(angle.cos()), expected, rtol=1e-6, atol=0)
    opposite = arc_over_chord(torch.tensor([-1.0, 1 + 1e-9], dtype=torch.float64))
    assert opposite.tolist() == [1e6, 1]


def unit_vectors(n: int, d: int, shift: float) -> Tensor:
    x = normal(n, d)
    x[:, 0] += shift
    return x / x.norm(dim=1, keepdim=True)


# far apart in a plane, close, and nearly at right angles
@pytest.mark.parametrize(("n", "d", "shift"), [(5, 3, 1), (40, 8, 5), (30, 2000, 0), (2, 50, 0)])
def test_frechet_mean_has_logarithms_that_cancel(n: int, d: int, shift: float) -> None:
    u = unit_vectors(n, d, shift)
    m = frechet_mean(u @ u.T) @ u
    assert float(m.norm()) == pytest.approx(1, abs=1e-12)
    theta = (u @ m).acos()[:, None]
    logarithms = theta / theta.sin() * (u - theta.cos() * m)
    assert float(logarithms.mean(0).norm()) < 1e-8


def test_frechet_mean_on_a_circle_is_the_mean_angle() -> None:
    theta = torch.tensor([0.1, 0.2, 1.4], dtype=torch.float64)
    u = torch.stack([theta.cos(), theta.sin()], dim=1)
    m = frechet_mean(u @ u.T) @ u
    assert float(torch.atan2(m[1], m[0])) == pytest.approx(1.7 / 3, abs=1e-9)
