import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ood_sampler.latents.geometry import combine, slerp


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
