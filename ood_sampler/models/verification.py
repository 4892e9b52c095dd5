"""Whether loaded weights do what those of a diffusion model do, told from synthetic pictures."""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers import Solver

TRAINED = 0.75
"""Error of the estimated pictures below which weights are taken for trained.

That of the shipped models is about 0.5; networks whose output is zero have 1 (of the picture), 1.1
(of the velocity) and 2 (of the noise), at random weights somewhat more.
"""


@dataclass(frozen=True)
class Verification:
    r"""What a few pictures tell of a model.

    Attributes:
        pictures: how many.
        noisy_step: noise level of the estimates.
        error: $\lVert \hat x_0 - x_0 \rVert / \lVert x_0 \rVert$ for pictures with as much noise as
            signal, $\alpha_t = \sigma_t$. An error of the noise would not do: a velocity of zero
            implies $\sigma_t x_t$, nearly all of the noise.
        step: noise level of the round trips.
        rmse: root mean square of the difference between pictures in [-1, 1] and their round trips.
        evaluations: of the network, for each picture's round trip.
        seconds: of all round trips.
    """

    pictures: int
    noisy_step: int
    error: float
    step: int
    rmse: float
    evaluations: int
    seconds: float

    @property
    def is_trained(self) -> bool:
        """Whether the weights estimate pictures as only trained ones do that fit the model."""
        return self.error < TRAINED

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
    """Estimate known pictures in noise, and carry them halfway down the chain and back.

    Args:
        denoiser: the frozen model.
        pictures: in [-1, 1], shape $(N, C, H, W)$.
        solver: of the round trip.
    """
    schedule = denoiser.schedule
    noisy_step, step = _balanced(schedule), schedule.T // 2
    eps = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        x_t = schedule.diffuse(pictures, eps, noisy_step)
        estimate = denoiser(x_t, torch.tensor(noisy_step))
    started = time.perf_counter()
    latents = solver.invert(denoiser, pictures, [step])[step]
    decoded = solver.decode(denoiser, latents, step=step)
    return Verification(
        pictures=len(pictures),
        noisy_step=noisy_step,
        error=float((estimate - pictures).norm() / pictures.norm()),
        step=step,
        rmse=float((decoded - pictures).square().mean().sqrt()),
        evaluations=solver.inversion_evaluations([step], T=schedule.T)
        + solver.decoding_evaluations(step, T=schedule.T),
        seconds=time.perf_counter() - started,
    )


def _balanced(schedule: Schedule) -> int:
    """The step whose signal-to-noise ratio is nearest to 1."""
    return int((schedule.alpha_bars[1:] - 0.5).abs().argmin())
