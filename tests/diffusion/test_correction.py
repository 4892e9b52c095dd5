import math

import pytest
import torch
from torch import Tensor, nn

from ood_sampler.diffusion.correction import CorrectedDenoiser
from ood_sampler.diffusion.denoiser import Denoiser, EpsilonDenoiser, VelocityDenoiser
from ood_sampler.diffusion.gaussian import Gaussian, fit_gaussian, from_cosine, to_cosine
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers import BelmSolver, HeunSolver, MultistepSolver, Solver
from ood_sampler.store.sets import InMemory
from tests.diffusion.toys import SCHEDULE, bent, every_solver, named, normal, smooth_schedule

SHAPE = (3, 4, 4)


def fitted(seed: int, *, scale: float, mean: float) -> Gaussian:
    images = mean + scale * normal(8, *SHAPE, seed=seed)
    state = fit_gaussian(InMemory(images), shrinkage=0.5)
    return Gaussian({name: value.double() for name, value in state.items()})


TARGET = fitted(1, scale=0.5, mean=0.2)
OWN = fitted(2, scale=0.3, mean=-0.3)


class GaussianModel(Denoiser):
    """The exact denoiser of Gaussian data."""

    def __init__(self, gaussian: Gaussian, schedule: Schedule = SCHEDULE) -> None:
        super().__init__()
        self.gaussian = gaussian
        self.schedule = schedule

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        return from_cosine(self.gaussian.eps(to_cosine(x_t), *self.schedule.scales(int(t))))


def corrected(denoiser: Denoiser, *, weight: float = 1.0, fade: int = 0) -> CorrectedDenoiser:
    return CorrectedDenoiser(denoiser, TARGET, OWN, weight=weight, fade=fade)


def exact(x_0: Tensor, step: int, schedule: Schedule) -> Tensor:
    """Where the trajectory of the target leads: each eigenvector of C scales by itself."""
    alpha, sigma = schedule.scales(step)
    d = math.prod(SHAPE)
    unit = to_cosine(torch.eye(d, dtype=torch.float64).reshape(d, *SHAPE)).flatten(2)
    basis = torch.einsum("ckf,ncf->nkf", TARGET.rotation, unit).flatten(1)
    inner = torch.diag(TARGET.variance.flatten()) + TARGET.deviations.T @ TARGET.deviations
    values, vectors = torch.linalg.eigh(basis @ inner @ basis.T)
    mean = from_cosine(TARGET.mean).flatten()
    along = (x_0.flatten(1) - mean) @ vectors
    scale = ((alpha**2 * values + sigma**2) / values).sqrt()
    return (alpha * mean + (along * scale) @ vectors.T).reshape(x_0.shape)


def test_the_corrected_trajectory_of_a_gaussian_model_is_that_of_the_target() -> None:
    schedule = smooth_schedule()
    denoiser = corrected(GaussianModel(OWN, schedule))
    x_0, step = 0.3 * normal(4, *SHAPE), schedule.T - 1

    def error(steps: int) -> float:
        found = HeunSolver(steps=steps, power=1).invert(denoiser, x_0, [step])[step]
        return float((found - exact(x_0, step, schedule)).abs().max())

    # second order, to the closed form
    assert error(32) / error(64) == pytest.approx(4, rel=0.3)
    assert error(256) < 2e-3
    plain = GaussianModel(OWN, schedule)
    other = HeunSolver(steps=256, power=1).invert(plain, x_0, [step])[step]
    assert float((other - exact(x_0, step, schedule)).abs().max()) > 0.3


def test_draws_of_the_target_latents_decode_to_the_target() -> None:
    schedule = smooth_schedule()
    denoiser = corrected(GaussianModel(OWN, schedule))
    x_0 = 0.3 * normal(4, *SHAPE)
    x_t = exact(x_0, schedule.T - 1, schedule)
    found = HeunSolver(steps=256, power=1).decode(denoiser, x_t, step=schedule.T - 1)
    torch.testing.assert_close(found, x_0, rtol=0, atol=2e-3)


@pytest.mark.parametrize("solver", every_solver(8), ids=named)
def test_weight_0_is_the_plain_flow_bit_for_bit(solver: Solver) -> None:
    plain, none = bent(), corrected(bent(), weight=0.0)
    x_0 = normal(2, *SHAPE)
    steps = [300, 999]
    found, expected = (solver.invert(each, x_0, steps) for each in (none, plain))
    assert all(torch.equal(found[step], expected[step]) for step in steps)
    assert torch.equal(
        solver.decode(none, expected[300], step=300), solver.decode(plain, expected[300], step=300)
    )
    t = torch.tensor(500)
    assert torch.equal(none(x_0, t), plain(x_0, t))


def test_an_exactly_invertible_solver_is_exact_along_it() -> None:
    solver, denoiser = BelmSolver(steps=20, power=1), corrected(bent(), fade=100)
    x_0 = normal(2, *SHAPE)
    x_t, below = solver.invert_pairs(denoiser, x_0, [500])[500]
    back = solver.decode(denoiser, x_t, step=500, below=below)
    assert float((back - x_0).abs().max()) < 1e-9
    plain = solver.invert_pairs(bent(), x_0, [500])[500][0]
    assert float((x_t - plain).abs().max()) > 0.05


def test_round_trips_of_the_default_solver_are_as_good_as_along_the_plain_flow() -> None:
    x_0 = 0.3 * normal(4, *SHAPE)
    errors = []
    for denoiser in (GaussianModel(OWN), corrected(GaussianModel(OWN), fade=100)):
        solver = MultistepSolver(steps=50, power=2, corrections=3)
        x_t = solver.invert(denoiser, x_0, [700])[700]
        errors.append(float((solver.decode(denoiser, x_t, step=700) - x_0).abs().max()))
    assert errors[1] < max(3 * errors[0], 1e-3)


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (25, 0.25), (100, 1.0), (999, 1.0)])
def test_the_weight_falls_to_0_at_clean_data(step: int, share: float) -> None:
    x_t, t = normal(2, *SHAPE), torch.tensor(step)
    plain = bent().eps(x_t, t)
    y, scales = to_cosine(x_t), SCHEDULE.scales(step)
    difference = from_cosine(TARGET.eps(y, *scales) - OWN.eps(y, *scales))
    found = corrected(bent(), weight=0.5, fade=100).eps(x_t, t)
    torch.testing.assert_close(found, plain + 0.5 * share * difference)
    assert torch.equal(found, plain) == (share == 0)


def test_images_may_have_steps_of_their_own() -> None:
    denoiser, x_t = corrected(bent(), fade=100), normal(3, *SHAPE)
    t = torch.tensor([0, 50, 900])
    for call in (denoiser.eps, denoiser):
        expected = [call(x[None], step) for x, step in zip(x_t, t, strict=True)]
        torch.testing.assert_close(call(x_t, t), torch.cat(expected))


def test_denoising_agrees_with_the_noise_and_holds_for_pure_noise() -> None:
    denoiser, x_t = corrected(bent()), normal(2, *SHAPE)
    alpha, sigma = SCHEDULE.scales(600)
    t = torch.tensor(600)
    expected = (x_t - sigma * denoiser.eps(x_t, t)) / alpha
    torch.testing.assert_close(denoiser(x_t, t), expected, rtol=0, atol=1e-5)
    # alpha = 0: the mean of the target in the place of the model's own
    schedule = SCHEDULE.with_zero_terminal_snr()
    plain = VelocityDenoiser(lambda x, t: torch.zeros_like(x), schedule)
    last = torch.tensor(schedule.T - 1)
    found = CorrectedDenoiser(plain, TARGET, OWN, weight=1.0, fade=0)(x_t, last)
    moved = from_cosine(TARGET.mean - OWN.mean).expand_as(x_t)
    torch.testing.assert_close(found, plain(x_t, last) + moved)


def test_the_network_inside_can_be_replaced() -> None:
    denoiser = corrected(EpsilonDenoiser(nn.Identity(), SCHEDULE))
    assert isinstance(denoiser.network, nn.Identity)
    denoiser.network = nn.Dropout()
    assert isinstance(denoiser.denoiser.network, nn.Dropout)
    assert [name for name, _ in denoiser.named_children()].count("network") == 0


def test_images_do_not_depend_on_their_batch() -> None:

    denoiser, x_t = corrected(bent()), normal(5, *SHAPE)
    t = torch.tensor(400)
    torch.testing.assert_close(denoiser.eps(x_t, t)[1:2], denoiser.eps(x_t[1:2], t))
