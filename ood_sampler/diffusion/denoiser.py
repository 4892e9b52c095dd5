"""Denoisers: estimates of the noise in a noisy image."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import torch
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


class NetworkDenoiser(Denoiser):
    r"""A frozen network; channels beyond those of the image (learned variance) are dropped.

    Args:
        network: maps $(x_t, t)$ to $(B, C', H, W)$ with $C' \ge C$; `t` has shape $(B,)$. With a
            label it maps $(x_t, t, y)$, where `y` has shape $(B,)$.
        schedule: the schedule that the network was trained with.
        label: the class given to a class-conditional network, >= 0.
    """

    def __init__(
        self,
        network: nn.Module | Callable[..., Tensor],
        schedule: Schedule,
        *,
        label: int | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.label = label
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: the model is frozen."""
        return super().train(False)

    def predict(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the network's own prediction, with shape and precision of `x_t`."""
        t = t.to(x_t.device).expand(len(x_t))
        labels = () if self.label is None else (torch.full_like(t, self.label),)
        prediction: Tensor = self.network(x_t, t, *labels)
        return prediction[:, : x_t.shape[1]].to(x_t.dtype)


class EpsilonDenoiser(NetworkDenoiser):
    r"""A frozen network that predicts $\epsilon$ (Ho et al., 2020, sec. 3.2)."""

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.predict(x_t, t)


class VelocityDenoiser(NetworkDenoiser):
    r"""A frozen network that predicts $v = \alpha_t \epsilon - \sigma_t x_0$.

    $\hat\epsilon = \alpha_t \hat v + \sigma_t x_t$ (Salimans & Ho, 2022, sec. 4 and app. D).
    """

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = (_per_image(scale, x_t) for scale in self.schedule(t))
        return alpha_t * self.predict(x_t, t) + sigma_t * x_t

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        r"""Denoise: $\hat x_0 = \alpha_t x_t - \sigma_t \hat v$, also where $\alpha_t = 0$."""
        alpha_t, sigma_t = (_per_image(scale, x_t) for scale in self.schedule(t))
        return alpha_t * x_t - sigma_t * self.predict(x_t, t)


class SampleDenoiser(NetworkDenoiser):
    r"""A frozen network that predicts $x_0$.

    $\hat\epsilon = (x_t - \alpha_t \hat x_0) / \sigma_t$ (Song et al., 2021, eq. 9).
    """

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = (_per_image(scale, x_t) for scale in self.schedule(t))
        return (x_t - alpha_t * self.predict(x_t, t)) / sigma_t

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.predict(x_t, t)


class GaussianDenoiser(Denoiser):
    r"""The exact denoiser of $\mathcal{N}(\mu, v I)$ data, in closed form, for tests.

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
