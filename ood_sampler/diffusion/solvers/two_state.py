r"""Exactly invertible solvers: each state follows from the two before it, by a reversible formula.

They invert a *pair* of neighbouring states exactly, up to rounding. A latent is a single state: the
prior is fitted to single latents, and a new latent has no partner. So `invert` returns only the
state of the step, and `decode` makes a second one from it by a move of Heun's method, as inversion
made its second state. Then a round trip is **not** exact: its error is that of this move, carried
through all others. `invert_pairs` keeps the partner, and `decode` with it is exact. That checks the
formula, but not how well new latents decode, so a run does not store partners.
"""

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.solvers.base import Flow, Noise, Point, Solver
from ood_sampler.diffusion.solvers.heun import heun_move


class TwoStateSolver(Solver):
    """One evaluation per move, and two more in all for the move that makes the second state."""

    @abstractmethod
    def leap(self, flow: Flow, before: Point, point: Point, s: int) -> Tensor:
        """Compute the state of step `s` from the two states before it."""

    def move(self, flow: Flow, point: Point, s: int) -> Point:
        if point.before is None:
            return heun_move(flow, point, s)
        return point.then(self.leap(flow, point.before, point, s), s)

    @torch.no_grad()
    def invert_pairs(
        self, denoiser: Denoiser, x_0: Tensor, at: Iterable[int]
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """Carry images to latents, keeping the partners that make decoding exact.

        Args:
            denoiser: the frozen model.
            x_0: images in $[-1, 1]$, shape $(B, C, H, W)$.
            at: requested steps.

        Returns:
            step -> latents of the step and states one grid point below it, each $(B, C, H, W)$.
        """
        ends = self._invert(Flow(denoiser), x_0, at)
        return {step: (end.x, end.before.x) for step, end in ends.items() if end.before is not None}

    @torch.no_grad()
    def decode(
        self,
        denoiser: Denoiser,
        x_t: Tensor,
        *,
        step: int,
        eta: float = 0.0,
        noise: Noise | None = None,
        clip_x_0: bool = False,
        below: Tensor | None = None,
    ) -> Tensor:
        """Carry latents back to images.

        Args:
            denoiser: the frozen model.
            x_t: latents, shape $(B, C, H, W)$.
            step: of the latents.
            eta: must be 0.
            noise: not used.
            clip_x_0: see `Solver.decode`.
            below: their partners from `invert_pairs`, for an exact round trip.
        """
        if below is None:
            return super().decode(denoiser, x_t, step=step, eta=eta, noise=noise, clip_x_0=clip_x_0)
        self.check_eta(eta)
        flow = Flow(denoiser, clip_x_0=clip_x_0)
        point = Point(below, self._grid(step, flow.schedule.T)[-2], before=Point(x_t, step))
        return self._decode(flow, point, step)


class BelmSolver(TwoStateSolver):
    r"""O-BELM (Wang et al., 2024, *BELM*), the leapfrog of uneven intervals.

    With $h = s_s - s_t$, the interval before it $h' = s_t - s_p$ and $r = h / h'$,

    $$\bar x_s = r^2 \bar x_p + (1 - r^2) \bar x_t + (1 + r)\, h\, \hat\epsilon_t .$$

    Second order. During inversion the intervals of $s$ grow, and deviations from the trajectory
    grow with them: by $(h_N / h_1)^2$ in all, many orders of magnitude near pure noise.
    """

    def leap(self, flow: Flow, before: Point, point: Point, s: int) -> Tensor:
        (alpha_p, _), (alpha_t, _), (alpha_s, _) = (
            flow.schedule.scales(step) for step in (before.step, point.step, s)
        )
        h = flow.s(s) - flow.s(point.step)
        r = h / (flow.s(point.step) - flow.s(before.step))
        x_s = before.x * (r**2 * alpha_s / alpha_p)
        x_s = torch.add(x_s, point.x, alpha=(1 - r**2) * alpha_s / alpha_t)
        return torch.add(x_s, point.eps(flow), alpha=(1 + r) * h * alpha_s)


class BdiaSolver(TwoStateSolver):
    r"""BDIA-DDIM (Zhang et al., 2023, *Exact diffusion inversion via BDIA*).

    Correct the state before the last by two DDIM moves from the last. With states numbered upwards,

    $$x_{i-1} = \gamma x_{i+1} - \gamma\, \mathrm{carry}(x_i; i \to i+1)
    + \mathrm{carry}(x_i; i \to i-1),$$

    solved for $x_{i+1}$ in inversion, which divides by $\gamma$ in each move: errors grow as
    $\gamma^{-N}$. Second order for $\gamma = 1$ if neighbouring intervals are nearly equal, else
    first.

    Args:
        steps: intervals over the whole chain.
        power: spacing of the grid.
        gamma: in $(0, 1]$.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, *, steps: int, power: int, gamma: float = 1.0) -> None:
        super().__init__(steps=steps, power=power)
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma must be in (0, 1], got {gamma}")
        self.gamma = gamma

    def leap(self, flow: Flow, before: Point, point: Point, s: int) -> Tensor:
        t, eps = point.step, point.eps(flow)
        factor = 1 / self.gamma if s > t else self.gamma
        back = flow.carry(point.x, eps, t, before.step)
        return torch.add(flow.carry(point.x, eps, t, s), before.x - back, alpha=factor)
