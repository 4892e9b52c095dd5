"""The interface of solvers: walks along a grid in both directions, and their cost."""

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
    """Clip images to $[-1, 1]$; infinity becomes NaN rather than black or white."""
    return torch.where(x_0.isfinite(), x_0, torch.nan).clamp(-1, 1)


@dataclass(frozen=True)
class Flow:
    r"""The frozen model as the right-hand side of $d\bar x / ds = \hat\epsilon$.

    Attributes:
        denoiser: the frozen model.
        clip_x_0: clip $\hat x_0$ to $[-1, 1]$ and adjust the noise to it, as DDPM does. Correct
            from pure noise, but not invertible.
    """

    denoiser: Denoiser
    clip_x_0: bool = False

    @property
    def schedule(self) -> Schedule:
        """Scales of all steps."""
        return self.denoiser.schedule

    def eps(self, x_t: Tensor, step: int) -> Tensor:
        """Estimate the noise; for clean data at step 0, its nearest noise level."""
        # filled on the device, as a copy from the host would wait for all queued work
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

        There $\bar x_t$ is infinite and $\hat\epsilon = x_t$, so that $\hat x_0$ must come from the
        network itself: $x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - c^2}\, x_t + c z$ with
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
        # scalars combined in float64, for two passes over memory only
        ratio = alpha_s / alpha_t
        return torch.add(x_t * ratio, eps, alpha=sigma_s - sigma_t * ratio)


@dataclass
class Point:
    """A point on a trajectory.

    Attributes:
        x: noisy images, shape $(B, C, H, W)$.
        step: their noise level.
        before: the point one move earlier, without its own past; None at the start.
        estimate: noise at this point; None until it is known.
    """

    x: Tensor
    step: int
    before: "Point | None" = None
    estimate: Tensor | None = field(default=None, repr=False)

    def eps(self, flow: Flow) -> Tensor:
        """Estimate the noise at this point, evaluating the network once."""
        if self.estimate is None:
            self.estimate = flow.eps(self.x, self.step)
        return self.estimate

    def then(self, x: Tensor, step: int, *, estimate: Tensor | None = None) -> "Point":
        """The point that a move from here leads to."""
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
        # checks `power` alone; whether `steps` fit depends on the model
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
    def invert(
        self,
        denoiser: Denoiser,
        x_0: Tensor,
        at: Iterable[int],
        *,
        noised_moves: int = 0,
        noise: Noise | None = None,
    ) -> dict[int, Tensor]:
        r"""Carry images to the latents of one or several steps in one pass along the chain.

        Each step branches off the common trunk, so that its latents are bit for bit those of a pass
        for it alone.

        The first moves leave structure of the image in the latent; noise in their place,
        $x_s = \alpha_s x_0 + \sigma_s \epsilon$ with one $\epsilon$ per image, does not
        (Staniszewski et al., 2024, *There and Back Again*). If it replaces all moves, latents are
        noised images.

        Args:
            denoiser: the frozen model.
            x_0: images in $[-1, 1]$, shape $(B, C, H, W)$.
            at: requested steps, each in $0, ..., T-1$.
            noised_moves: moves from clean data on that noise replaces.
            noise: draws $\epsilon$; needed if `noised_moves` > 0.

        Returns:
            step -> latents $x_t$, shape $(B, C, H, W)$.

        Raises:
            ValueError: a step or the grid is out of range, or there is no `noise`.
        """
        eps: Tensor | None = None
        if noised_moves:
            if noise is None:
                raise ValueError(f"noised_moves={noised_moves} needs a source of noise")
            eps = noise().to(x_0)
        ends = self._invert(Flow(denoiser), x_0, at, eps=eps, noised_moves=noised_moves)
        return {step: end.x for step, end in ends.items()}

    def _invert(
        self,
        flow: Flow,
        x_0: Tensor,
        at: Iterable[int],
        *,
        eps: Tensor | None = None,
        noised_moves: int = 0,
    ) -> dict[int, Point]:
        T = flow.schedule.T

        def moved(point: Point, s: int, number: int) -> Point:
            if eps is not None and number < noised_moves:
                return Point(flow.schedule.diffuse(x_0, eps, s), s)
            return self.move(flow, point, s)

        leaves: dict[int, list[int]] = {}
        for step in sorted(set(at)):
            check_latent_step(step, flow.schedule)
            leaves.setdefault(self._grid(step, T)[-2], []).append(step)
        ends: dict[int, Point] = {}
        point = Point(x_0, CLEAN)
        moves = pairwise(trunk(T, self.steps, power=self.power).tolist())
        for number, (t, s) in enumerate(moves):
            for step in leaves.pop(t, []):
                ends[step] = moved(point, step, number)
            if not leaves:
                break
            point = moved(point, s, number)
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
            step: of the latents.
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
                # a point without a past: the next move starts anew
                point = Point(flow.leave_noise(point.x, point.step, s), s)
            else:
                point = self.move(flow, point, s)
        return clip(point.x) if flow.clip_x_0 else point.x

    def _grid(self, step: int, T: int) -> list[int]:
        points: list[int] = grid(step, T=T, steps=self.steps, power=self.power).tolist()
        return points

    def inversion_evaluations(self, at: Iterable[int], *, T: int, noised_moves: int = 0) -> int:
        """Network evaluations per image (NFE) of `invert` to these steps in one pass.

        An upper bound if a solver stops early.
        """
        counter = _Counter(T)
        x_0 = torch.zeros(1, 1, 1, 1)
        self.invert(counter, x_0, at, noised_moves=noised_moves, noise=lambda: x_0)
        return counter.calls

    def decoding_evaluations(self, step: int, *, T: int) -> int:
        """Network evaluations per image (NFE) of `decode` from a step."""
        counter = _Counter(T)
        self.decode(counter, torch.zeros(1, 1, 1, 1), step=check_step(step, T))
        return counter.calls


class _Counter(Denoiser):
    """Count evaluations, which depend on a solver's grid, not on the network."""

    def __init__(self, T: int) -> None:
        super().__init__()
        self.schedule = Schedule.linear(T)
        self.calls = 0

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        # NaN never stops an iteration early
        return torch.full_like(x_t, math.nan)
