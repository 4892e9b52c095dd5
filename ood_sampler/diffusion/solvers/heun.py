"""Heun's method: second order, two evaluations per move."""

from ood_sampler.diffusion.solvers.base import Flow, Point, Solver


class HeunSolver(Solver):
    r"""Heun's method in $s = \sigma / \alpha$, in both directions (Karras et al., 2022, Alg. 1).

    $$\tilde x_s = \mathrm{carry}(x_t; \hat\epsilon(x_t, t)), \qquad
    x_s = \mathrm{carry}(x_t; \tfrac12 (\hat\epsilon(x_t, t) + \hat\epsilon(\tilde x_s, s))).$$

    Second order without memory between moves, so that it also starts solvers with memory. Unlike
    there, the move from or to clean data is no exception.

    Args:
        steps: intervals over the whole chain; each takes two evaluations.
        power: spacing of the grid.
    """

    def move(self, flow: Flow, point: Point, s: int) -> Point:
        return heun_move(flow, point, s)


def heun_move(flow: Flow, point: Point, s: int) -> Point:
    """Make one move by Heun's method; two evaluations, one if the noise at `point` is known."""
    t, eps = point.step, point.eps(flow)
    predicted = flow.carry(point.x, eps, t, s)
    mean = (eps + flow.eps(predicted, s)) / 2
    return point.then(flow.carry(point.x, mean, t, s), s)
