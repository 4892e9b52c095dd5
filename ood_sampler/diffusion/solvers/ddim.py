r"""DDIM: one noise estimate per move.

One move from $t$ to $s$, in either direction (Song et al., 2021, eq. 12 and 16):

$$x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - c^2}\, \hat\epsilon + c z, \qquad
c = \eta \sqrt{(1 - \bar\alpha_t / \bar\alpha_s)\, \sigma_s^2 / \sigma_t^2}.$$
"""

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.schedule import CLEAN, Schedule
from ood_sampler.diffusion.solvers.base import Flow, Noise, Point, Solver, clip


def ddim_move(
    schedule: Schedule,
    x_t: Tensor,
    eps: Tensor,
    t: int,
    s: int,
    *,
    eta: float,
    noise: Noise | None,
) -> Tensor:
    r"""Move `x_t` down from step `t` to step `s`, adding noise.

    Args:
        schedule: scales of both steps.
        x_t: noisy images, shape $(B, C, H, W)$.
        eps: noise estimate of the same shape.
        t: source step.
        s: target step, at most `t`; -1 is clean data.
        eta: share of the DDPM standard deviation, >= 0.
        noise: draws $z$; needed if `eta` > 0.

    Raises:
        ValueError: `eta` is negative, or above 0 without `noise` or with `s > t`.
    """
    if not eta >= 0:
        raise ValueError(f"eta must be >= 0, got {eta}")
    if eta and (s > t or noise is None):
        raise ValueError(f"eta={eta} needs s < t and a source of noise: inversion is deterministic")
    alpha_t, sigma_t = schedule.scales(t)
    alpha_s, sigma_s = schedule.scales(s)
    # c^2, at most sigma_s^2 (for eta > 1)
    variance = (eta * sigma_s / sigma_t) ** 2 * (1 - (alpha_t / alpha_s) ** 2) if eta else 0.0
    variance = min(variance, sigma_s**2)
    ratio = alpha_s / alpha_t
    scale = math.sqrt(sigma_s**2 - variance) - sigma_t * ratio
    x_s = torch.add(x_t * ratio, eps, alpha=scale)
    if eta and noise is not None and s > CLEAN:
        x_s = torch.add(x_s, noise().to(x_t), alpha=math.sqrt(variance))
    return x_s


class DdimDecoder(Solver):
    """Base of solvers that decode by DDIM moves, which may add noise."""

    def check_eta(self, eta: float) -> None:
        if not eta >= 0:
            raise ValueError(f"eta must be >= 0, got {eta}")

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
    ) -> Tensor:
        self.check_eta(eta)
        flow = Flow(denoiser, clip_x_0=clip_x_0)
        for t, s in pairwise(reversed(self._grid(step, flow.schedule.T))):
            if flow.schedule.is_pure_noise(t):
                x_t = flow.leave_noise(x_t, t, s, eta=eta, noise=noise)
                continue
            eps = flow.eps(x_t, t)
            x_t = ddim_move(flow.schedule, x_t, eps, t, s, eta=eta, noise=noise)
        # the last move returns the denoised image, which rounding may carry out of the range
        return clip(x_t) if clip_x_0 else x_t


class DdimSolver(DdimDecoder):
    r"""DDIM in both directions, first order in the intervals.

    Decoding evaluates $\epsilon_\theta$ at the source of each move, the noisier end. Inversion
    evaluates it

    - at its own source (Song et al., 2021, sec. 4.3), or
    - at the noise level of its target, but on the images of its source, as `DDIMInverseScheduler`
      of diffusers does. This is the end that decoding uses, but it smooths latents: their standard
      deviation is too small.

    Neither inverts decoding exactly; `FixedPointSolver` does.

    Args:
        steps: intervals over the whole chain.
        power: spacing of the grid.
        noise_at: end of an inversion move at which the network is evaluated.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self, *, steps: int, power: int, noise_at: Literal["source", "target"] = "source"
    ) -> None:
        super().__init__(steps=steps, power=power)
        if noise_at not in ("source", "target"):
            raise ValueError(f"noise_at must be source or target, got {noise_at}")
        self.noise_at = noise_at

    def move(self, flow: Flow, point: Point, s: int) -> Point:
        at_target = s > point.step and self.noise_at == "target"
        eps = flow.eps(point.x, s) if at_target else point.eps(flow)
        return point.then(flow.carry(point.x, eps, point.step, s), s)
