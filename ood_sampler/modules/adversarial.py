"""Train a generative adversarial network on the images of one domain."""

import copy
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional

from ood_sampler.models.style_generator import StyleGenerator
from ood_sampler.modules.augmentation import Augmentation


def gradient_penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    r"""Compute $\mathbb{E} \lVert \nabla_x D(x) \rVert^2$ on real images.

    $R_1$ without its weight $\gamma / 2$ (Mescheder et al., 2018, eq. 9), differentiable by the
    weights of $D$.
    """
    real = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


class AdversarialTraining(lightning.LightningModule):
    r"""Play the non-saturating game (Goodfellow et al., 2014), in turns.

    $$\min_D \mathbb{E}\, \mathrm{sp}(-D(T x)) + \mathbb{E}\, \mathrm{sp}(D(T G(z))) +
    \tfrac{\gamma}{2} \mathbb{E} \lVert \nabla_x D(T x) \rVert^2, \qquad
    \min_G \mathbb{E}\, \mathrm{sp}(-D(T G(z)))$$

    with the softplus sp and a random differentiable augmentation $T$ (Zhao et al., 2020). The
    penalty is lazy: taken every k-th step, k times as large (Karras et al., 2020, sec. 3.1).

    Batch k depends on `(seed, k)` alone, so that a resumed training continues as if it had not
    stopped.

    Args:
        network: generator to train.
        images: training images, uint8, shape $(N, 3, H, W)$; mirrored at random.
        discriminator: trained beside it.
        augmentation: of real and generated images.
        batch_size: images per step.
        learning_rate: of both Adams.
        penalty: gamma of the penalty on gradients (R1), >= 0.
        penalty_every: steps between two of them.
        ema_decay: decay of the averaged generator, reached gradually.
        seed: of batches, codes and augmentations.
    """

    def __init__(
        self,
        *,
        network: StyleGenerator,
        images: Tensor,
        discriminator: nn.Module,
        augmentation: Augmentation,
        batch_size: int,
        learning_rate: float,
        penalty: float,
        penalty_every: int,
        ema_decay: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.ema = copy.deepcopy(network).requires_grad_(False).eval()
        self.discriminator = discriminator.to(memory_format=torch.channels_last)
        self.register_buffer("images", images, persistent=False)
        self.images: Tensor
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.penalty = penalty
        self.penalty_every = penalty_every
        self.ema_decay = ema_decay
        self.seed = seed

    def batch(self, step: int) -> tuple[Tensor, Tensor, torch.Generator]:
        """Draw real images, codes and the stream of augmentations of one step."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step) % 2**63)
        n = self.batch_size
        index = torch.randint(len(self.images), (n,), generator=generator)
        mirrored = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
        z = torch.randn(n, self.network.width, generator=generator)
        real = self.images[index.to(self.images.device)].float() / 127.5 - 1
        real = torch.where(mirrored.to(real.device), real.flip(-1), real)
        return real, z.to(real.device), generator

    def training_step(self, batch: object, batch_idx: int) -> None:
        step = self.global_step
        real, z, generator = self.batch(step)
        # Lightning counts the steps of the optimizers it wraps: the generator's alone
        generating = self.optimizers()[0]  # type: ignore[index]
        judging = self.optimizers(use_pl_optimizer=False)[1]  # type: ignore[index]
        fake = self.network(z)
        judging.zero_grad()
        self._judge(real, fake.detach(), generator)
        if step % self.penalty_every == 0:
            weight = self.penalty / 2 * self.penalty_every
            penalty = gradient_penalty(self.discriminator, self._augmented(real, generator))
            self.manual_backward(weight * penalty)
            self.log("train/penalty", penalty)
        judging.step()
        self.discriminator.requires_grad_(False)
        loss = functional.softplus(-self.discriminator(self._augmented(fake, generator))).mean()
        generating.zero_grad()
        self.manual_backward(loss)
        generating.step()
        self.discriminator.requires_grad_(True)
        self._average(step)
        self.log("train/loss", loss)
        self.log("train/images", float((step + 1) * self.batch_size))

    def _judge(self, real: Tensor, fake: Tensor, generator: torch.Generator) -> None:
        n = len(real)
        both = self._augmented(torch.cat([real, fake]), generator)
        scores, fakes = self.discriminator(both).split(n)
        loss = functional.softplus(-scores).mean() + functional.softplus(fakes).mean()
        self.manual_backward(loss)
        self.log("train/discriminator", loss)
        self.log("train/real", (scores > 0).sum() / n)
        self.log("train/fake", (fakes > 0).sum() / n)

    def _augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        images = self.augmentation(images, generator)
        return images.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def _average(self, step: int) -> None:
        decay = min(self.ema_decay, (1 + step) / (10 + step))
        averages: list[Tensor] = list(self.ema.parameters())
        weights: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to overwrite the last useful checkpoint.

        Raises:
            ValueError: a weight is not finite.
        """
        if not all(bool(weight.isfinite().all()) for weight in self.parameters()):
            raise ValueError(
                f"module.learning_rate must be lower, or module.penalty higher: with "
                f"{self.learning_rate} and {self.penalty} weights are no longer finite at step "
                f"{self.global_step}; the last checkpoint is from before, and a new start needs "
                "another name"
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        lazy = self.penalty_every / (self.penalty_every + 1)
        return [
            torch.optim.Adam(self.network.parameters(), lr=self.learning_rate, betas=(0.0, 0.99)),
            torch.optim.Adam(
                self.discriminator.parameters(),
                lr=self.learning_rate * lazy,
                betas=(0.0, 0.99**lazy),
            ),
        ]
