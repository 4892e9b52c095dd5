import math

import pytest
import torch
from torch import Tensor

from ood_sampler.latents.sphere import (
    coordinates,
    directions,
    exponential,
    geodesic,
    logarithm,
    mean_direction,
    mean_logarithm,
    mean_pair_logarithm,
    move,
    transport,
)
from ood_sampler.store.sets import InMemory

EXACT = {"rtol": 0, "atol": 1e-12}


def points(n: int, d: int, seed: int = 0) -> Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


def tangent(p: Tensor, seed: int) -> Tensor:
    v = points(*p.shape, seed=seed)
    return v - (v * p).sum(1, keepdim=True) * p


def plane(*degrees: float) -> Tensor:
    """Points of a great circle, by their angles."""
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], dim=1)


@pytest.mark.parametrize("d", [2, 3, 3072])
def test_exponential_undoes_the_logarithm(d: int) -> None:
    p, q = points(20, d), points(20, d, seed=1)
    v = logarithm(p, q)
    torch.testing.assert_close(exponential(p, v), q, **EXACT)
    torch.testing.assert_close((v * p).sum(1), torch.zeros(20).double(), **EXACT)
    torch.testing.assert_close(v.norm(dim=1).cos(), (p * q).sum(1), **EXACT)
    w = 0.7 * tangent(p, seed=2)
    torch.testing.assert_close(logarithm(p, exponential(p, w)), w, **EXACT)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 30.0, 90.0, 179.0, 180 - 1e-5])
def test_the_logarithm_has_the_length_of_the_angle(angle: float) -> None:
    p, q = plane(0.0), plane(angle)
    v = logarithm(p, q)
    expected = math.radians(angle) * torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(v, expected, rtol=1e-8, atol=1e-16)


@pytest.mark.parametrize("d", [3, 3072])
def test_transport_is_an_isometry_and_turns_a_logarithm_round(d: int) -> None:
    p, q = points(20, d), points(20, d, seed=1)
    v, w = tangent(p, seed=2), tangent(p, seed=3)
    there, other = transport(p, q, v), transport(p, q, w)
    torch.testing.assert_close((there * q).sum(1), torch.zeros(20).double(), **EXACT)
    torch.testing.assert_close((there * other).sum(1), (v * w).sum(1), **EXACT)
    torch.testing.assert_close(transport(p, q, logarithm(p, q)), -logarithm(q, p), **EXACT)
    torch.testing.assert_close(transport(q, p, there), v, **EXACT)
    torch.testing.assert_close(transport(p, p, v), v, **EXACT)


def test_transport_round_an_octant_turns_by_its_area() -> None:
    # Gauss and Bonnet: the angle that a vector turns by is the area, here a right angle
    x, y, z = torch.eye(3, dtype=torch.float64)
    v = y
    for p, q in ((x, y), (y, z), (z, x)):
        v = transport(p, q, v)
    torch.testing.assert_close(v, z, **EXACT)


@pytest.mark.parametrize("middle", [0.0, 40.0, 170.0])
def test_the_mean_of_symmetric_points_is_their_middle(middle: float) -> None:
    around = [middle - 70, middle - 15, middle + 15, middle + 70]
    norms = torch.tensor([1.0, 7.0, 2.0, 0.5], dtype=torch.float64)[:, None]
    latents = InMemory(norms * plane(*around))
    m = mean_direction(latents)
    torch.testing.assert_close(m, plane(middle)[0], **EXACT)
    torch.testing.assert_close(mean_logarithm(latents, m), torch.zeros(3).double(), **EXACT)


def test_directions_that_cancel_have_no_mean() -> None:
    with pytest.raises(ValueError, match="theirs cancel"):
        mean_direction(InMemory(plane(0, 90, 180, 270)))


def test_mean_logarithms_of_arcs_are_their_angles() -> None:
    m = plane(0.0)[0]
    expected = torch.tensor([0.0, math.radians(20), 0.0], dtype=torch.float64)
    torch.testing.assert_close(mean_logarithm(InMemory(3 * plane(0, 40)), m), expected, **EXACT)
    # from 10 to 30 and from 50 to 70 degrees, wherever they are carried
    first, second = InMemory(plane(10, 50)), InMemory(2 * plane(30, 70, 90))
    torch.testing.assert_close(mean_pair_logarithm(first, second, m), expected, **EXACT)


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_a_geodesic_is_a_great_circle_with_norms_between_those_of_its_ends(shift: float) -> None:
    ends = torch.stack([2 * plane(0.0)[0], 6 * plane(80.0)[0]]).reshape(2, 3, 1, 1)
    centre = torch.full((3, 1, 1), shift, dtype=torch.float64)
    u = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    z_1, z_2 = (end.expand(3, 3, 1, 1) + centre for end in ends)
    path = geodesic(z_1, z_2, u, None if shift == 0 else centre) - centre
    expected = torch.tensor([2.0, 3.0, 6.0]).double()[:, None] * plane(0, 20, 80)
    torch.testing.assert_close(path.flatten(1), expected, **EXACT)


def test_moving_keeps_norms_and_goes_as_far_as_the_direction_is_long() -> None:
    latents = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double() + 1
    m = points(1, 48, seed=1)[0]
    v = 0.3 * tangent(m[None], seed=2)[0]
    x, norms = directions(latents)
    for strength in (-1.5, 0.0, 2.0):
        moved, same = directions(move(latents, m, v, strength))
        torch.testing.assert_close(same, norms, **EXACT)
        angle = (moved * x).sum(1).clamp(-1, 1).acos()
        expected = (abs(strength) * v.norm()).expand(5)
        torch.testing.assert_close(angle, expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(move(latents, m, v, 0.0), latents, **EXACT)
    # at m itself nothing is transported
    at_m = move(2 * m.reshape(1, 3, 4, 4), m, v, 1.0).flatten(1)
    torch.testing.assert_close(at_m, 2 * exponential(m, v)[None], **EXACT)


def test_coordinates_keep_all_products() -> None:
    z = torch.randn(7, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = coordinates(z @ z.T)
    assert y.shape == (7, 7)
    torch.testing.assert_close(y @ y.T, z @ z.T, rtol=1e-12, atol=1e-10)
