"""Check on synthetic images that weights do what those of a diffusion model do."""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ood_sampler.codecs.autoencoder import Autoencoder
from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers import Solver

TRAINED = 0.75
"""Error of estimated images below which weights count as trained.

That of the shipped models is about 0.5; networks whose output is zero have 1 (of the image), 1.1
(of the velocity) and 2 (of the noise), at random weights somewhat more.
"""


@dataclass(frozen=True)
class Verification:
    r"""Result of a check on a few images.

    Attributes:
        images: how many.
        noisy_step: noise level of the estimates.
        error: $\lVert \hat x_0 - x_0 \rVert / \lVert x_0 \rVert$ for images with as much noise as
            signal, $\alpha_t = \sigma_t$; in latent diffusion, $x_0$ is the encoded image. An
            error of the noise would not do: a velocity of zero implies $\sigma_t x_t$, which is
            nearly all of the noise.
        step: noise level of the round trips.
        rmse: root mean square of the difference between images in [-1, 1] and their round trips.
        evaluations: of the network, for each image's round trip.
        seconds: of all round trips.
        autoencoder_rmse: of the round trip through the autoencoder alone; None without one.
    """

    images: int
    noisy_step: int
    error: float
    step: int
    rmse: float
    evaluations: int
    seconds: float
    autoencoder_rmse: float | None = None

    @property
    def is_trained(self) -> bool:
        """Whether the weights estimate images as well as only fitting, trained ones do."""
        return self.error < TRAINED

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio of the round trip in dB, as images span [-1, 1]."""
        return psnr(self.rmse)


def psnr(rmse: float) -> float:
    """Peak signal-to-noise ratio in dB of images that span [-1, 1]."""
    return 20 * math.log10(2 / rmse) if rmse else math.inf


def smooth_pictures(count: int, *, channels: int, resolution: int, seed: int = 0) -> Tensor:
    """Draw images without detail in [-1, 1], shape $(N, C, R, R)$: 4x4 random values, bicubic."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 2 * torch.rand(count, channels, 4, 4, generator=generator) - 1
    size = (resolution, resolution)
    return interpolate(coarse, size=size, mode="bicubic").clamp(-1, 1)


def verify(
    denoiser: Denoiser,
    images: Tensor,
    *,
    solver: Solver,
    autoencoder: Autoencoder | None = None,
) -> Verification:
    """Estimate known images in noise, and carry them halfway down the chain and back.

    Args:
        denoiser: the frozen model.
        images: in [-1, 1], shape $(N, C, H, W)$.
        solver: of the round trip.
        autoencoder: of latent diffusion.
    """
    schedule = denoiser.schedule
    noisy_step, step = _balanced(schedule), schedule.T // 2
    with torch.inference_mode():
        x_0 = images if autoencoder is None else autoencoder.encode(images)
        eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0))
        x_t = schedule.diffuse(x_0, eps, noisy_step)
        estimate = denoiser(x_t, torch.tensor(noisy_step))
    started = time.perf_counter()
    latents = solver.invert(denoiser, x_0, [step])[step]
    decoded = solver.decode(denoiser, latents, step=step)
    seconds = time.perf_counter() - started
    autoencoder_rmse = None
    if autoencoder is not None:
        with torch.inference_mode():
            decoded = autoencoder.decode(decoded)
            autoencoder_rmse = _rmse(autoencoder.decode(x_0), images)
    return Verification(
        images=len(images),
        noisy_step=noisy_step,
        error=float((estimate - x_0).norm() / x_0.norm()),
        step=step,
        rmse=_rmse(decoded, images),
        evaluations=solver.inversion_evaluations([step], T=schedule.T)
        + solver.decoding_evaluations(step, T=schedule.T),
        seconds=seconds,
        autoencoder_rmse=autoencoder_rmse,
    )


def _rmse(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())


def _balanced(schedule: Schedule) -> int:
    """The step whose signal-to-noise ratio is nearest to 1."""
    return int((schedule.alpha_bars[1:] - 0.5).abs().argmin())
