"""One interface for every solver: grids walked in both directions, and what that costs."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.schedule import (
    CLEAN,
    Schedule,
    check_latent_step,
    check_step,
    grid,
    trunk,
)

Noise = Callable[[], Tensor]
"""Draws standard normals of the batch's shape."""


def clip(x_0: Tensor) -> Tensor:
    """Clip images to $[-1, 1]$; infinity becomes NaN, not an image that is black or white."""
    return torch.where(x_0.isfinite(), x_0, torch.nan).clamp(-1, 1)


@dataclass(frozen=True)
class Flow:
    r"""The frozen model as the right-hand side of $d\bar x / ds = \hat\epsilon$.

    Attributes:
        denoiser: the frozen model.
        clip_x_0: clip $\hat x_0$ to $[-1, 1]$ and take the noise that agrees with it, as DDPM does.
            Right from pure noise, not invertible.
    """

    denoiser: Denoiser
    clip_x_0: bool = False

    @property
    def schedule(self) -> Schedule:
        """Scales of all steps."""
        return self.denoiser.schedule

    def eps(self, x_t: Tensor, step: int) -> Tensor:
        """Ask the network; clean data is asked about at step 0, its nearest noise level."""
        # filled on the device: a copy from the host would wait for all that is queued there
        t = torch.full((), max(step, 0), dtype=torch.long, device=x_t.device)
        eps = self.denoiser.eps(x_t, t)
        if self.clip_x_0 and step > CLEAN:
            alpha, sigma = self.schedule.scales(step)
            x_0_hat = clip((x_t - sigma * eps) / alpha)
            eps = (x_t - alpha * x_0_hat) / sigma
        return eps

    def leave_noise(
        self, x_t: Tensor, t: int, s: int, *, eta: float = 0.0, noise: Noise | None = None
    ) -> Tensor:
        r"""Move from a step `t` of pure noise, $\alpha_t = 0$, down to step `s`, as DDIM does.

        There $\hat\epsilon = x_t$ and $\hat x_0$ must come from the network itself, as $\bar x_t$
        is infinite: $x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - c^2}\, x_t + c z$ with
        $c = \eta \sigma_s$.

        Raises:
            ValueError: `eta` is above 0 without `noise`.
        """
        if eta and noise is None:
            raise ValueError(f"eta={eta} needs a source of noise")
        alpha_s, sigma_s = self.schedule.scales(s)
        x_0_hat = self.denoiser(x_t, torch.full((), t, dtype=torch.long, device=x_t.device))
        if self.clip_x_0:
            x_0_hat = clip(x_0_hat)
        c = min(eta, 1.0) * sigma_s
        x_s = torch.add(x_0_hat * alpha_s, x_t, alpha=math.sqrt(sigma_s**2 - c**2))
        return torch.add(x_s, noise().to(x_t), alpha=c) if c and noise is not None else x_s

    def s(self, step: int) -> float:
        r"""$s = \sigma / \alpha$ of a step."""
        alpha, sigma = self.schedule.scales(step)
        return sigma / alpha

    def phi(self, step: int) -> float:
        r"""The angle $\phi = \arctan s$ of a step: 0 for clean data, $\pi / 2$ for pure noise."""
        alpha, sigma = self.schedule.scales(step)
        return math.atan2(sigma, alpha)

    def carry(self, x_t: Tensor, eps: Tensor, t: int, s: int) -> Tensor:
        r"""Move from step `t` to step `s` with one noise estimate for the whole interval.

        $x_s = \alpha_s (x_t / \alpha_t + (s_s - s_t)\, \hat\epsilon)$: Song et al., 2021, eq. 13.
        """
        alpha_t, sigma_t = self.schedule.scales(t)
        alpha_s, sigma_s = self.schedule.scales(s)
        # the two scalars collected in float64: two passes over memory
        ratio = alpha_s / alpha_t
        return torch.add(x_t * ratio, eps, alpha=sigma_s - sigma_t * ratio)


@dataclass
class Point:
    """A place on a trajectory.

    Attributes:
        x: noisy images, shape $(B, C, H, W)$.
        step: their noise level.
        before: the place that the trajectory came from; no farther back than one move.
        estimate: the noise there, as far as it is known.
    """

    x: Tensor
    step: int
    before: "Point | None" = None
    estimate: Tensor | None = field(default=None, repr=False)

    def eps(self, flow: Flow) -> Tensor:
        """The noise estimate of this place; the network is asked once."""
        if self.estimate is None:
            self.estimate = flow.eps(self.x, self.step)
        return self.estimate

    def then(self, x: Tensor, step: int, *, estimate: Tensor | None = None) -> "Point":
        """The place that a move from here leads to."""
        return Point(
            x, step, before=Point(self.x, self.step, None, self.estimate), estimate=estimate
        )


class Solver(ABC):
    """Walk the grid between clean data and a step, the same one in both directions.

    Args:
        steps: intervals over the whole chain (`grid`), >= 1.
        power: spacing of the grid (`trunk`): 1 even, 2 to 4 denser near clean data.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, *, steps: int, power: int) -> None:
        if steps < 1:
            raise ValueError(f"steps must be >= 1, got {steps}")
        # the spacing does not depend on T or on the steps, of which there may be any number here
        trunk(1, 1, power=power)
        self.steps = steps
        self.power = power

    @abstractmethod
    def move(self, flow: Flow, point: Point, s: int) -> Point:
        """Make one move from `point` to step `s`, without noise; upwards inverts."""

    def check(self, T: int) -> None:
        """Refuse a model whose chain is shorter than the grid.

        Raises:
            ValueError: `steps` is more than `T`.
        """
        trunk(T, self.steps, power=self.power)

    def check_eta(self, eta: float) -> None:
        """Refuse noise that this solver cannot add while decoding.

        Raises:
            ValueError: `eta` is negative, or above 0 and the solver does not decode by DDIM moves.
        """
        if not eta >= 0:
            raise ValueError(f"eta must be >= 0, got {eta}")
        if eta:
            raise ValueError(
                f"eta must be 0 for {type(self).__name__}, got {eta}: only DDIM moves add noise "
                "(solver=fixed_point, solver=ddim), others follow the deterministic trajectory"
            )

    @torch.no_grad()
    def invert(self, denoiser: Denoiser, x_0: Tensor, at: Iterable[int]) -> dict[int, Tensor]:
        """Carry images to the latents of one or several steps in one pass down the chain.

        Every step asked for leaves the common trunk with what the trunk knows anyway, and each of
        the latents is bit for bit what it would be alone.

        Args:
            denoiser: the frozen model.
            x_0: images in $[-1, 1]$, shape $(B, C, H, W)$.
            at: steps whose latents are wanted, each in $0, ..., T-1$.

        Returns:
            step -> latents $x_t$, shape $(B, C, H, W)$.

        Raises:
            ValueError: a step or the grid is out of range.
        """
        return {step: end.x for step, end in self._invert(Flow(denoiser), x_0, at).items()}

    def _invert(self, flow: Flow, x_0: Tensor, at: Iterable[int]) -> dict[int, Point]:
        T = flow.schedule.T
        leaves: dict[int, list[int]] = {}
        for step in sorted(set(at)):
            check_latent_step(step, flow.schedule)
            leaves.setdefault(self._grid(step, T)[-2], []).append(step)
        ends: dict[int, Point] = {}
        point = Point(x_0, CLEAN)
        for t, s in pairwise(trunk(T, self.steps, power=self.power).tolist()):
            for step in leaves.pop(t, []):
                ends[step] = self.move(flow, point, step)
            if not leaves:
                break
            point = self.move(flow, point, s)
        return ends

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
        r"""Carry latents of `step` back to images over the steps that `invert` visits.

        Args:
            denoiser: the frozen model.
            x_t: latents, shape $(B, C, H, W)$.
            step: the step that they belong to.
            eta: 0 deterministic, 1 DDPM; see `check_eta`.
            noise: draws $z$; needed if `eta` > 0.
            clip_x_0: see `Flow`; for samples from pure noise.

        Returns:
            Images, not clipped at the end unless `clip_x_0`, shape $(B, C, H, W)$.

        Raises:
            ValueError: `eta` is refused or has no `noise`, or the step or grid is out of range.
        """
        self.check_eta(eta)
        return self._decode(Flow(denoiser, clip_x_0=clip_x_0), Point(x_t, step), step)

    def _decode(self, flow: Flow, point: Point, step: int) -> Tensor:
        """Walk down from `point`, which lies on the grid of `step`."""
        for s in reversed(self._grid(step, flow.schedule.T)):
            if s >= point.step:
                continue
            if flow.schedule.is_pure_noise(point.step):
                # nothing is known of the place before: the next move starts anew
                point = Point(flow.leave_noise(point.x, point.step, s), s)
            else:
                point = self.move(flow, point, s)
        return clip(point.x) if flow.clip_x_0 else point.x

    def _grid(self, step: int, T: int) -> list[int]:
        points: list[int] = grid(step, T=T, steps=self.steps, power=self.power).tolist()
        return points

    def inversion_evaluations(self, at: Iterable[int], *, T: int) -> int:
        """Network evaluations an image (NFE) of `invert` to these steps in one pass.

        An upper bound where a solver stops early.
        """
        counter = _Counter(T)
        self.invert(counter, torch.zeros(1, 1, 1, 1), at)
        return counter.calls

    def decoding_evaluations(self, step: int, *, T: int) -> int:
        """Network evaluations an image (NFE) of `decode` from a step."""
        counter = _Counter(T)
        self.decode(counter, torch.zeros(1, 1, 1, 1), step=check_step(step, T))
        return counter.calls


class _Counter(Denoiser):
    """Count evaluations: what a solver asks for depends on its grid, not on the network."""

    def __init__(self, T: int) -> None:
        super().__init__()
        self.schedule = Schedule.linear(T)
        self.calls = 0

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        # never small enough to stop an iteration early
        return torch.full_like(x_t, math.nan)
