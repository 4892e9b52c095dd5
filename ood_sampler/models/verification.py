"""Whether loaded weights do what those of a diffusion model do, told from synthetic pictures."""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.solvers import Solver


@dataclass(frozen=True)
class Verification:
    r"""What a few pictures tell of a model.

    Attributes:
        pictures: how many.
        step: the noise level of both figures.
        noise_error: $\lVert \hat\epsilon - \epsilon \rVert / \lVert \epsilon \rVert$ for noisy
            pictures; an estimate of zero has 1.
        rmse: root mean square of the difference between pictures in [-1, 1] and their round trips.
        evaluations: of the network, for each picture's round trip.
        seconds: of all round trips.
    """

    pictures: int
    step: int
    noise_error: float
    rmse: float
    evaluations: int
    seconds: float

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio of the round trip in dB, as pictures span [-1, 1]."""
        return 20 * math.log10(2 / self.rmse) if self.rmse else math.inf


def smooth_pictures(count: int, *, channels: int, resolution: int, seed: int = 0) -> Tensor:
    """Draw pictures without detail in [-1, 1], shape $(N, C, R, R)$: 4x4 random values, bicubic."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 2 * torch.rand(count, channels, 4, 4, generator=generator) - 1
    size = (resolution, resolution)
    return interpolate(coarse, size=size, mode="bicubic").clamp(-1, 1)


def verify(denoiser: Denoiser, pictures: Tensor, *, solver: Solver) -> Verification:
    """Estimate known noise, and carry pictures halfway down the chain and back.

    Args:
        denoiser: the frozen model.
        pictures: in [-1, 1], shape $(N, C, H, W)$.
        solver: of the round trip.
    """
    schedule = denoiser.schedule
    step = schedule.T // 2
    eps = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        estimate = denoiser.eps(schedule.diffuse(pictures, eps, step), torch.tensor(step))
    started = time.perf_counter()
    latents = solver.invert(denoiser, pictures, [step])[step]
    decoded = solver.decode(denoiser, latents, step=step)
    return Verification(
        pictures=len(pictures),
        step=step,
        noise_error=float((estimate - eps).norm() / eps.norm()),
        rmse=float((decoded - pictures).square().mean().sqrt()),
        evaluations=solver.inversion_evaluations([step], T=schedule.T)
        + solver.decoding_evaluations(step, T=schedule.T),
        seconds=time.perf_counter() - started,
    )
