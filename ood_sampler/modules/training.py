"""Train a denoiser on the images of one domain."""

import copy
import math
from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ood_sampler.diffusion.denoiser import Denoiser, SampleDenoiser, VelocityDenoiser
from ood_sampler.diffusion.schedule import Schedule


class NoiseTraining(lightning.LightningModule, ABC):
    r"""Base of trainings of a noise estimate: batches, noise, averaged weights.

    Images stay in memory. Batch `k` depends on `(seed, k)` alone, so that a resumed training
    continues as if it had not stopped.

    Args:
        network: to train.
        schedule: noise schedule.
        images: training images, uint8 or float32 in $[-1, 1]$, shape $(N, C, H, W)$; mirrored at
            random.
        batch_size: images per step.
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
        # a run's seed may be as large as a generator's
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
        # averaged here, as checkpoints are written before the end of the batch
        super().optimizer_step(*args, **kwargs)
        k = self.global_step
        decay = min(self.ema_decay, (1 + k) / (10 + k))
        with torch.no_grad():
            averages: list[Tensor] = list(self.ema.parameters())
            weights: list[Tensor] = list(self.network.parameters())
            torch._foreach_lerp_(averages, weights, 1 - decay)


def prediction_error(
    denoiser: Denoiser,
    x_t: Tensor,
    t: Tensor,
    x_0: Tensor,
    eps: Tensor,
    alpha_t: Tensor,
    sigma_t: Tensor,
) -> Tensor:
    r"""Difference of prediction and target, shape $(B, C, H, W)$.

    The prediction is $v = \alpha_t \epsilon - \sigma_t x_0$, $x_0$ or, for all other denoisers,
    $\epsilon$. For the first two, the noise error is this one times $\alpha_t$ and
    $-\alpha_t / \sigma_t$: almost zero at the noisy end of the chain, where sampling begins.
    """
    match denoiser:
        case VelocityDenoiser():
            return denoiser.predict(x_t, t) - (alpha_t * eps - sigma_t * x_0)
        case SampleDenoiser():
            return denoiser.predict(x_t, t) - x_0
        case _:
            return denoiser.eps(x_t, t) - eps


class DenoiserTraining(NoiseTraining):
    r"""Minimise a weighted velocity error (Salimans & Ho, 2022, sec. 4).

    $$\mathbb{E}\, \min(1, \gamma / \mathrm{SNR}_t) \lVert v - v_\theta(x_t, t) \rVert^2, \qquad
    v = \alpha_t \epsilon - \sigma_t x_0, \qquad \mathrm{SNR}_t = \alpha_t^2 / \sigma_t^2$$

    A network that predicts $\epsilon$ must reproduce its input to a relative error of $\alpha_t$
    where there is hardly any signal (6e-3 at $t = 999$ of a linear schedule). Small networks fail,
    and their samples end as noise. The minimum is that of the plain loss; the weight keeps the
    least noisy steps, whose noise cannot be known, from dominating.

    Steps of one batch are stratified over the chain: $t = \lfloor T u^p \rfloor$ with evenly spaced
    $u$.

    Args:
        network: maps $(x_t, t)$ to $v$.
        schedule: noise schedule.
        images: training images, uint8, shape $(N, C, H, W)$; mirrored at random.
        batch_size: images per step.
        learning_rate: of AdamW, after the warm-up.
        warmup_steps: steps of linear warm-up.
        decay_share: last share of the training, in $[0, 1]$, in which the rate falls to zero.
        ema_decay: decay of the averaged weights, reached gradually.
        snr_clip: gamma of the weight, > 0: a small one leaves the least noisy steps untrained.
        steps_power: $p > 0$; above 1 less noisy steps are drawn more often.
        seed: of batches and noise.
    """

    prediction_type = "v_prediction"
    """Target of the network, as diffusers' schedulers name it."""

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
        steps_power: float,
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
        self.steps_power = steps_power

    def timesteps(self, generator: torch.Generator) -> Tensor:
        n = self.batch_size
        u = (torch.arange(n) + torch.rand(1, generator=generator)) / n
        return (u**self.steps_power * self.schedule.T).long().clamp(max=self.schedule.T - 1)

    def training_step(self, batch: object, batch_idx: int) -> Tensor:
        x_0, t, eps = self.batch(self.global_step)
        x_t, alpha_t, sigma_t = self.diffuse(x_0, t, eps)
        # in the backward pass on a CPU, fused attention is ten times slower than plain attention
        on_cpu = x_t.device.type == "cpu"
        with sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext():
            difference = self.network(x_t, t).float() - (alpha_t * eps - sigma_t * x_0)
        snr = (alpha_t / sigma_t).square()
        error = difference.square()
        loss: Tensor = ((self.snr_clip / snr).clamp(max=1) * error).mean()
        self.log("train/loss", loss)
        self.log("train/velocity_mse", error.mean())
        self.log("train/images", float((self.global_step + 1) * self.batch_size))
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to overwrite the last useful checkpoint.

        Raises:
            ValueError: a weight is not finite.
        """
        if not all(bool(weight.isfinite().all()) for weight in self.network.parameters()):
            raise ValueError(
                f"module.learning_rate must be lower: with {self.learning_rate} weights are no "
                f"longer finite at step {self.global_step}; the last checkpoint is from before, "
                "and a new start needs another name"
            )

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
