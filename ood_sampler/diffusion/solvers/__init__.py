r"""Carry images to latents and back along the probability-flow trajectory.

With $\bar x = x / \alpha$ and $s = \sigma / \alpha$ the trajectory of Song et al., 2021, eq. 14 is
$d\bar x / ds = \hat\epsilon$. A solver defines one move along it, in either direction.

A tiny round-trip error alone proves little: an exactly invertible solver may leave the trajectory,
and priors are then fitted to latents that lie off it.
"""

from ood_sampler.diffusion.solvers.base import Flow, Noise, Point, Solver
from ood_sampler.diffusion.solvers.ddim import DdimSolver, ddim_move
from ood_sampler.diffusion.solvers.fixed_point import FixedPointSolver
from ood_sampler.diffusion.solvers.heun import HeunSolver
from ood_sampler.diffusion.solvers.multistep import MultistepSolver
from ood_sampler.diffusion.solvers.two_state import BdiaSolver, BelmSolver, TwoStateSolver

__all__ = [
    "BdiaSolver",
    "BelmSolver",
    "DdimSolver",
    "FixedPointSolver",
    "Flow",
    "HeunSolver",
    "MultistepSolver",
    "Noise",
    "Point",
    "Solver",
    "TwoStateSolver",
    "ddim_move",
]
