"""The guidance that `experiments.guidance` measures."""

import pytest
import torch

from experiments.guidance.measure import Guidance, GuidedDenoiser, squared_mmd
from ood_sampler.diffusion.denoiser import GaussianDenoiser
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers import DdimSolver
from tests.diffusion.toys import normal

SHAPE = (6, 1, 2, 2)


def guided(**given: float) -> GuidedDenoiser:
    denoiser = GaussianDenoiser(torch.zeros(1, 1, 1), 0.05, Schedule.linear())
    references = 0.5 + 0.1 * normal(9, 4, seed=1)
    return GuidedDenoiser(denoiser, lambda x: x.flatten(1), references, Guidance(**given))


def test_the_gradient_is_that_of_the_kernel_distance() -> None:
    references = normal(5, 4, seed=1)
    x = normal(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: squared_mmd(x, references), x)
    kernel = (x.detach() @ references.T / 4 + 1) ** 3
    own = (x.detach() @ x.detach().T / 4 + 1) ** 3
    expected = float(own.mean() - 2 * kernel.mean())
    assert float(squared_mmd(x, references)) == pytest.approx(expected)


def test_without_weight_nothing_changes() -> None:
    z, solver = normal(*SHAPE), DdimSolver(steps=8, power=1)
    made = guided(weight=0.0)
    assert torch.equal(solver.decode(made, z, step=400), solver.decode(made.denoiser, z, step=400))


@pytest.mark.parametrize("through", [True, False])
def test_samples_move_towards_the_references(through: bool) -> None:
    z, solver = normal(*SHAPE), DdimSolver(steps=8, power=1)
    means = [
        float(solver.decode(guided(weight=w, through=through), z, step=400).mean())
        for w in (0.0, 0.05, 0.2)
    ]
    assert means[0] < means[1] < means[2] < 0.5
