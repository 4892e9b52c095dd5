"""Train a denoiser on the pictures of one domain."""

import copy
import math
from abc import ABC, abstractmethod
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from ood_sampler.diffusion.schedule import Schedule


class NoiseTraining(lightning.LightningModule, ABC):
    r"""What trainings of a noise estimate share: batches, noise, averaged weights.

    Pictures stay in memory; batch `k` is drawn from `(seed, k)` alone, so that a resumed training
    goes on as if it had not stopped.

    Args:
        network: to train.
        schedule: noise schedule.
        images: training pictures, uint8 or float32 in $[-1, 1]$, shape $(N, C, H, W)$; mirrored at
            random.
        batch_size: pictures a step.
        learning_rate: of the optimizer.
        ema_decay: decay of the averaged weights, reached gradually.
        seed: of batches and noise.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        schedule: Schedule,
        images: Tensor,
        batch_size: int,
        learning_rate: float,
        ema_decay: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.ema = copy.deepcopy(network).requires_grad_(False).eval()
        self.schedule = schedule
        self.register_buffer("images", images, persistent=False)
        self.images: Tensor
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.ema_decay = ema_decay
        self.seed = seed

    @abstractmethod
    def timesteps(self, generator: torch.Generator) -> Tensor:
        """Draw the steps of one batch, shape (batch_size,)."""

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        r"""Draw $(x_0, t, \epsilon)$ of one training step."""
        # seeds of a run may be as large as those of a generator
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step) % 2**63)
        n = self.batch_size
        index = torch.randint(len(self.images), (n,), generator=generator)
        mirrored = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
        t = self.timesteps(generator)
        eps = torch.randn(n, *self.images.shape[1:], generator=generator)
        x_0 = self.images[index.to(self.images.device)]
        if not x_0.is_floating_point():
            x_0 = x_0.float() / 127.5 - 1
        x_0 = torch.where(mirrored.to(x_0.device), x_0.flip(-1), x_0)
        return x_0, t.to(x_0.device), eps.to(x_0.device)

    def diffuse(self, x_0: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Add noise: $x_t$ and the scales $\alpha_t, \sigma_t$, shape $(B, 1, 1, 1)$."""
        alpha_t, sigma_t = (scale.float().reshape(-1, 1, 1, 1) for scale in self.schedule(t))
        x_t = (alpha_t * x_0 + sigma_t * eps).contiguous(memory_format=torch.channels_last)
        return x_t, alpha_t, sigma_t

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        # averaged here and not at the end of the batch, which comes after checkpoints are written
        super().optimizer_step(*args, **kwargs)
        k = self.global_step
        decay = min(self.ema_decay, (1 + k) / (10 + k))
        with torch.no_grad():
            averages: list[Tensor] = list(self.ema.parameters())
            weights: list[Tensor] = list(self.network.parameters())
            torch._foreach_lerp_(averages, weights, 1 - decay)


class DenoiserTraining(NoiseTraining):
    r"""Minimise a weighted noise error (Ho et al., 2020, eq. 14).

    $$\mathbb{E}\, w_t \sum_k \lVert D_k (\epsilon - \epsilon_\theta(x_t, t)) \rVert^2, \qquad
    w_t = \frac{\min(\mathrm{SNR}_t, \gamma)}{\mathrm{SNR}_t} \min(1 / \alpha_t, g), \qquad
    \mathrm{SNR}_t = \alpha_t^2 / \sigma_t^2$$

    $D_k$ averages over squares of $2^k$ pixels and multiplies by $2^{k/2}$, so that white noise
    counts half as much from scale to scale, and the mean of a picture, one of its many
    coefficients, is not drowned (after the multiscale loss of Hoogeboom et al., 2023). The first
    factor of $w_t$ is that of Hang et al., 2023; the second weighs high noise up, where an error of
    $\epsilon_\theta$ is $\sigma_t / \alpha_t$ times as large in $\hat x_0$. The minimum is that of
    the plain loss; without these weights, samples of a short training have arbitrary colours.

    The steps of one batch are stratified over the chain.

    Args:
        network: maps $(x_t, t)$ to noise.
        schedule: noise schedule.
        images: training pictures, uint8, shape $(N, C, H, W)$; mirrored at random.
        batch_size: pictures a step.
        learning_rate: of AdamW, after the warm-up.
        warmup_steps: steps of linear warm-up.
        decay_share: last part of the training, in $[0, 1]$, over which the rate falls to zero.
        ema_decay: decay of the averaged weights, reached gradually.
        snr_clip: $\gamma > 0$.
        noise_gain: $g \ge 1$.
        seed: of batches and noise.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        schedule: Schedule,
        images: Tensor,
        batch_size: int,
        learning_rate: float,
        warmup_steps: int,
        decay_share: float,
        ema_decay: float,
        snr_clip: float,
        noise_gain: float,
        seed: int,
    ) -> None:
        super().__init__(
            network=network,
            schedule=schedule,
            images=images,
            batch_size=batch_size,
            learning_rate=learning_rate,
            ema_decay=ema_decay,
            seed=seed,
        )
        self.warmup_steps = warmup_steps
        self.decay_share = decay_share
        self.snr_clip = snr_clip
        self.noise_gain = noise_gain

    def timesteps(self, generator: torch.Generator) -> Tensor:
        n = self.batch_size
        u = (torch.arange(n) + torch.rand(1, generator=generator)) / n
        return (u * self.schedule.T).long()

    def training_step(self, batch: object, batch_idx: int) -> Tensor:
        x_0, t, eps = self.batch(self.global_step)
        x_t, alpha_t, sigma_t = self.diffuse(x_0, t, eps)
        difference = self.network(x_t, t).float() - eps
        snr = (alpha_t / sigma_t).square().flatten()
        gain = (1 / alpha_t).clamp(max=self.noise_gain).flatten()
        loss: Tensor = (snr.clamp(max=self.snr_clip) / snr * gain * multiscale(difference)).mean()
        self.log("train/loss", loss)
        self.log("train/noise_mse", difference.square().mean())
        self.log("train/images", float((self.global_step + 1) * self.batch_size))
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.learning_rate, weight_decay=0.0
        )
        total = self.trainer.max_steps
        decay_steps = max(1, math.ceil(self.decay_share * total))

        def rate(step: int) -> float:
            warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
            return warm * min(1.0, max(0.0, (total - step) / decay_steps))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def multiscale(difference: Tensor) -> Tensor:
    r"""Sum over scales $k$ of the mean square of $D_k$ applied to a noise error.

    Args:
        difference: shape $(B, C, H, W)$; scales are halved while both sides are even.

    Returns:
        One value an image, shape $(B,)$; $\sum_k 2^{-k}$ in expectation for white noise.
    """
    scales = [difference.square().mean((1, 2, 3))]
    while difference.shape[-1] % 2 == 0 and difference.shape[-2] % 2 == 0:
        difference = 2**0.5 * avg_pool2d(difference, 2)
        scales.append(difference.square().mean((1, 2, 3)))
    return torch.stack(scales).sum(0)
