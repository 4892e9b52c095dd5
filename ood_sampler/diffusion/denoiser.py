"""What a frozen diffusion model knows: the noise in a noisy image."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

from torch import Tensor, nn

from ood_sampler.diffusion.schedule import Schedule


class Denoiser(nn.Module, ABC):
    r"""Estimate the noise, and with it $\mathbb{E}[x_0 \mid x_t]$, under `schedule`."""

    schedule: Schedule

    @abstractmethod
    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        r"""Estimate the noise $\hat\epsilon$ in `x_t`.

        Args:
            x_t: noisy images, shape $(B, C, H, W)$.
            t: integer timestep in $0, \dots, T-1$, shape $()$ or $(B,)$.
        """

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        r"""Denoise: $\hat x_0 = (x_t - \sigma_t \hat\epsilon) / \alpha_t$ (Song et al., eq. 9)."""
        alpha_t, sigma_t = (_per_image(scale, x_t) for scale in self.schedule(t))
        return (x_t - sigma_t * self.eps(x_t, t)) / alpha_t


class EpsilonDenoiser(Denoiser):
    r"""A frozen network that predicts $\epsilon$; further channels (learned variance) are dropped.

    Args:
        network: maps $(x_t, t)$ to $(B, C', H, W)$ with $C' \ge C$; `t` has shape $(B,)$.
        schedule: the schedule that the network was trained with.
    """

    def __init__(
        self, network: nn.Module | Callable[[Tensor, Tensor], Tensor], schedule: Schedule
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: the model is frozen."""
        return super().train(False)

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        eps: Tensor = self.network(x_t, t.to(x_t.device).expand(len(x_t)))
        return eps[:, : x_t.shape[1]].to(x_t.dtype)


class GaussianDenoiser(Denoiser):
    r"""The exact denoiser of $\mathcal{N}(\mu, v I)$ data: the closed form that tests rest on.

    $\hat x_0 = \mu + \alpha_t v (x_t - \alpha_t \mu) / (\alpha_t^2 v + \sigma_t^2)$, so that
    $\hat\epsilon = \sigma_t (x_t - \alpha_t \mu) / (\alpha_t^2 v + \sigma_t^2)$.

    Args:
        mean: $\mu$, broadcastable to $(C, H, W)$.
        variance: $v \ge 0$.
        schedule: the noise schedule.

    Raises:
        ValueError: `variance` is negative.
    """

    mean: Tensor

    def __init__(self, mean: Tensor, variance: float, schedule: Schedule) -> None:
        super().__init__()
        if variance < 0:
            raise ValueError(f"variance must be >= 0, got {variance}")
        self.register_buffer("mean", mean)
        self.variance = variance
        self.schedule = schedule

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = (_per_image(scale, x_t) for scale in self.schedule(t))
        centred = x_t - alpha_t * self.mean.to(x_t)
        return sigma_t * centred / (alpha_t.square() * self.variance + sigma_t.square())


def _per_image(scale: Tensor, x: Tensor) -> Tensor:
    """Shape a scale of shape $()$ or $(B,)$ for broadcasting over images, in their precision."""
    return scale.to(x).reshape(-1, *[1] * (x.ndim - 1)) if scale.ndim else scale.to(x)
