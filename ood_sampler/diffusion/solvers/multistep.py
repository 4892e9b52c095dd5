"""Predict from the previous move, correct with the evaluation that the next move needs anyway."""

import math

from torch import Tensor

from ood_sampler.diffusion.solvers.base import Flow, Point, Solver


class MultistepSolver(Solver):
    r"""An Adams predictor and corrector, second order at one evaluation per move.

    The trajectory bends least as a function of the angle $\phi = \arctan(\sigma / \alpha)$, which
    is regular at both ends of the chain, unlike $s$ and the log-SNR. So the noise between two
    points is taken as linear in $\phi$, and integrated exactly:

    $$\bar x_s = \bar x_t + (s_s - s_t) \left((1 - w)\, \hat\epsilon_t + w\, \hat\epsilon_s\right),
    \qquad w = \frac{1}{s_s - s_t} \int_{s_t}^{s_s} \frac{\phi - \phi_t}{\phi_s - \phi_t}\, ds.$$

    With $\hat\epsilon_s$ extrapolated linearly from the two previous points, this is the predictor
    (the two-step Adams-Bashforth formula; DPM-Solver++(2M) of Lu et al., 2022, does the same for
    $\hat x_0$ in the log-SNR). Each correction evaluates the network at the predicted point and
    moves again (the Adams-Moulton formula). The last estimate serves as $\hat\epsilon_t$ of the
    next move, the mode called P(EC)^k, so that one correction costs no more than none.

    The corrected formula is the same in both directions: with more corrections decoding undoes
    inversion more exactly, and at second order the latents stay near the trajectory. The first move
    of decoding has no previous point, and predicts by a DDIM move.

    Args:
        steps: intervals over the whole chain.
        power: spacing of the grid.
        corrections: per move, >= 0; each after the first costs one evaluation.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, *, steps: int, power: int, corrections: int = 1) -> None:
        super().__init__(steps=steps, power=power)
        if corrections < 0:
            raise ValueError(f"corrections must be >= 0, got {corrections}")
        self.corrections = corrections

    def move(self, flow: Flow, point: Point, s: int) -> Point:
        t, eps_t = point.step, point.eps(flow)
        weight = _weight(flow, t, s)
        eps_s = continued(flow, point, s)
        x_s = flow.carry(point.x, eps_t.lerp(eps_s, weight), t, s)
        estimate: Tensor | None = None
        for _ in range(self.corrections):
            estimate = flow.eps(x_s, s)
            x_s = flow.carry(point.x, eps_t.lerp(estimate, weight), t, s)
        return point.then(x_s, s, estimate=estimate)


def continued(flow: Flow, point: Point, s: int) -> Tensor:
    r"""Extrapolate the noise at `point` and the previous point to `s`, linearly in $\phi$."""
    eps = point.eps(flow)
    if point.before is None:
        return eps
    here, before = flow.phi(point.step), flow.phi(point.before.step)
    return point.before.eps(flow).lerp(eps, (flow.phi(s) - before) / (here - before))


def _weight(flow: Flow, t: int, s: int) -> float:
    r"""Share $w$ of the target in the mean noise of a move.

    With $s = \tan\phi$, $\int \phi\, ds = \phi s - \ln(1 + s^2) / 2$.
    """
    turn, s_t, s_s = flow.phi(s) - flow.phi(t), flow.s(t), flow.s(s)
    logarithms = (math.log1p(s_s**2) - math.log1p(s_t**2)) / 2
    return (turn * s_s - logarithms) / (turn * (s_s - s_t))
