r"""Carry images to latents and back along the probability-flow trajectory.

One DDIM move from $t$ to $s$, in either direction (Song et al., 2021, eq. 12 and 16):

$$x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - c^2}\, \hat\epsilon + c z, \qquad
c = \eta \sqrt{(1 - \bar\alpha_t / \bar\alpha_s)\, \sigma_s^2 / \sigma_t^2}.$$
"""

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor

from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.schedule import CLEAN, Schedule, grid, trunk

Noise = Callable[[], Tensor]
"""Draws standard normals of the batch's shape."""


def ddim_move(
    schedule: Schedule,
    x_t: Tensor,
    eps: Tensor,
    t: Tensor,
    s: Tensor,
    *,
    eta: float = 0.0,
    noise: Noise | None = None,
    clip_x_0: bool = False,
) -> Tensor:
    r"""Move `x_t` from step `t` to step `s`, given the noise estimate.

    Args:
        schedule: scales of both steps.
        x_t: noisy images, shape $(B, C, H, W)$.
        eps: noise estimate of the same shape.
        t: source step, shape $()$; -1 is clean data.
        s: target step, shape $()$.
        eta: share of the DDPM standard deviation, >= 0; above 0 only where `s < t`.
        noise: draws $z$; needed if `eta` > 0.
        clip_x_0: clip $\hat x_0$ to $[-1, 1]$ and take the noise that agrees with it, as DDPM does.
            Right from pure noise, not invertible.

    Raises:
        ValueError: `eta` is negative, or above 0 without `noise` or with `s > t`.
    """
    alpha_t, sigma_t = schedule(t)
    alpha_s, sigma_s = schedule(s)
    if not eta >= 0:
        raise ValueError(f"eta must be >= 0, got {eta}")
    if eta and (s > t or noise is None):
        raise ValueError(f"eta={eta} needs s < t and a source of noise: inversion is deterministic")
    if not clip_x_0 and not eta:
        # the same move with its two scalars collected in float64: two passes over memory
        ratio = alpha_s / alpha_t
        return torch.add(x_t * ratio.to(x_t), eps * (sigma_s - sigma_t * ratio).to(x_t))
    x_0_hat = (x_t - sigma_t.to(x_t) * eps) / alpha_t.to(x_t)
    if clip_x_0:
        x_0_hat = x_0_hat.clamp(-1, 1)
        if t > CLEAN:
            eps = (x_t - alpha_t.to(x_t) * x_0_hat) / sigma_t.to(x_t)
    variance = _variance(schedule, t, s, eta=eta)
    x_s: Tensor = (
        alpha_s.to(x_t) * x_0_hat + (sigma_s.square() - variance).clamp(min=0).sqrt().to(x_t) * eps
    )
    if eta and noise is not None and s > CLEAN:
        x_s = x_s + variance.sqrt().to(x_t) * noise().to(x_t)
    return x_s


def _variance(schedule: Schedule, t: Tensor, s: Tensor, *, eta: float) -> Tensor:
    r"""$c^2$ of a move; zero at clean data, and at most $\sigma_s^2$ (for $\eta > 1$)."""
    alpha_bar_t, alpha_bar_s = schedule(t)[0].square(), schedule(s)[0].square()
    variance = eta**2 * (1 - alpha_bar_t / alpha_bar_s) * (1 - alpha_bar_s) / (1 - alpha_bar_t)
    return torch.minimum(variance, 1 - alpha_bar_s) if eta else torch.zeros_like(variance)


def estimate_eps(denoiser: Denoiser, x_t: Tensor, t: Tensor) -> Tensor:
    """Ask the network at step `t`; clean data is asked about at step 0, its nearest noise level."""
    return denoiser.eps(x_t, t.clamp(min=0))


@torch.inference_mode()
def invert(
    denoiser: Denoiser,
    x_0: Tensor,
    at: Iterable[int],
    *,
    steps: int,
    power: int = 1,
    iterations: int = 0,
) -> dict[int, Tensor]:
    r"""Carry images to the latents of one or several steps in one pass down the chain.

    The deterministic trajectory of Song et al., 2021, sec. 4.3, with $\epsilon_\theta$ taken at the
    source of each move. Decoding takes it at the other end, which is what keeps a round trip from
    being exact; each iteration takes it at the latent found so far,
    $x_s \leftarrow \mathrm{move}(x_t; \epsilon_\theta(x_s, s))$. Its fixed point decodes back
    exactly.

    Every step asked for leaves the common trunk with the noise estimate that the trunk needs
    anyway, so that without iterations all of them cost as much as the largest, and each is bit for
    bit what it would be alone.

    Args:
        denoiser: the frozen model.
        x_0: images in $[-1, 1]$, shape $(B, C, H, W)$.
        at: steps whose latents are wanted, each in $0, \dots, T-1$.
        steps: intervals over the whole chain (`grid`).
        power: spacing of the grid (`trunk`).
        iterations: fixed-point iterations of each move, >= 0; each costs one evaluation.

    Returns:
        step -> latents $x_t$, shape $(B, C, H, W)$.

    Raises:
        ValueError: `iterations` is negative, or a step or the grid is out of range.
    """
    check_iterations(iterations)
    schedule = denoiser.schedule

    def move(x_t: Tensor, eps: Tensor, t: Tensor, s: Tensor) -> Tensor:
        x_s = ddim_move(schedule, x_t, eps, t, s)
        for _ in range(iterations):
            x_s = ddim_move(schedule, x_t, estimate_eps(denoiser, x_s, s), t, s)
        return x_s

    leaves: dict[int, list[int]] = {}
    for step in sorted(set(at)):
        source = int(grid(step, T=schedule.T, steps=steps, power=power)[-2])
        leaves.setdefault(source, []).append(step)
    latents: dict[int, Tensor] = {}
    x_t = x_0
    for t, s in pairwise(trunk(schedule.T, steps, power=power)):
        eps = estimate_eps(denoiser, x_t, t)
        for step in leaves.pop(int(t), []):
            latents[step] = move(x_t, eps, t, torch.tensor(step))
        if not leaves:
            break
        x_t = move(x_t, eps, t, s)
    return latents


def check_iterations(iterations: int) -> int:
    """Return `iterations` if an inversion can make that many.

    Raises:
        ValueError: it is negative.
    """
    if iterations < 0:
        raise ValueError(f"iterations must be >= 0, got {iterations}")
    return iterations


@torch.inference_mode()
def decode(
    denoiser: Denoiser,
    x_t: Tensor,
    *,
    step: int,
    steps: int,
    power: int = 1,
    eta: float = 0.0,
    noise: Noise | None = None,
    clip_x_0: bool = False,
) -> Tensor:
    r"""Carry latents of `step` back to images over the steps that `invert` visits.

    Args:
        denoiser: the frozen model.
        x_t: latents, shape $(B, C, H, W)$.
        step: the step that they belong to.
        steps: intervals over the whole chain.
        power: spacing of the grid.
        eta: 0 deterministic, 1 DDPM.
        noise: draws $z$; needed if `eta` > 0.
        clip_x_0: see `ddim_move`; for samples from pure noise.

    Returns:
        Images, not clipped at the end unless `clip_x_0`, shape $(B, C, H, W)$.
    """
    for s, t in reversed(
        list(pairwise(grid(step, T=denoiser.schedule.T, steps=steps, power=power)))
    ):
        eps = estimate_eps(denoiser, x_t, t)
        x_t = ddim_move(denoiser.schedule, x_t, eps, t, s, eta=eta, noise=noise, clip_x_0=clip_x_0)
    return x_t


def evaluations(step: int, *, T: int, steps: int, power: int = 1, iterations: int = 0) -> int:
    """Network evaluations an image (NFE) of `invert` to one step, or of `decode` from it."""
    return (len(grid(step, T=T, steps=steps, power=power)) - 1) * (1 + iterations)


__all__ = [
    "CLEAN",
    "check_iterations",
    "ddim_move",
    "decode",
    "estimate_eps",
    "evaluations",
    "invert",
]
