"""Vanilla fine-tuning: the baseline that changes weights (Zhu et al., 2023, sec. 4)."""

import copy
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.modules.allocation import keep_freed_memory, return_freed_memory
from ood_sampler.modules.trainer import TrainerFactory
from ood_sampler.modules.training import NoiseTraining, prediction_error
from ood_sampler.store.files import load_json, load_state, save_json, save_state
from ood_sampler.store.lock import hold
from ood_sampler.store.tensor_files import read_tensors

log = logging.getLogger(__name__)

TIMES = 4
"""Steps of the chain at which each held-out image is denoised."""

_CLIP = 1.0
"""Norm to which gradients are clipped."""

_KEY = "study.fine_tuning"
"""Key of the settings, for messages."""

_RESUME = "resume"
"""Checkpoint of an unfinished training, beside its result."""


class Look(NamedTuple):
    """One validation: mean square errors of the prediction.

    Attributes:
        step: of the optimizer.
        training: mean over the batches since the last validation; None for the frozen weights.
        validation: of the averaged weights, on the held-out part.
    """

    step: int
    training: float | None
    validation: float


@dataclass(frozen=True)
class FineTuning:
    """Settings of a fine-tuning.

    Attributes:
        steps: steps of the optimizer, at most.
        learning_rate: of Adam.
        batch_size: images per step.
        validate_every: steps between validations on the held-out part.
        patience: validations in a row without a lower loss before the training stops.
        validation_share: share of the few-shot images that is held out, in (0, 1).
        ema_decay: decay of the averaged weights, reached gradually.

    Raises:
        ValueError: a number is out of range.
    """

    steps: int
    learning_rate: float
    batch_size: int
    validate_every: int
    patience: int
    validation_share: float
    ema_decay: float

    def __post_init__(self) -> None:
        numbers = vars(self)
        for name in ("steps", "validate_every", "patience"):
            _check(numbers[name] >= 1, name, "be >= 1", numbers[name])
        _check(self.batch_size >= 2, "batch_size", "be >= 2: steps come in pairs", self.batch_size)
        finite = 0 < self.learning_rate < math.inf
        _check(finite, "learning_rate", "be > 0 and finite", self.learning_rate)
        share = self.validation_share
        _check(0 < share < 1, "validation_share", "be in (0, 1)", share)
        _check(0 <= self.ema_decay < 1, "ema_decay", "be in [0, 1)", self.ema_decay)

    def split(self, count: int, *, seed: int) -> tuple[list[int], list[int]]:
        """Divide the indices of the few-shot images into a training and a held-out part.

        Raises:
            ValueError: one of the parts would be empty.
        """
        held_out = max(1, round(self.validation_share * count))
        if held_out >= count:
            raise ValueError(
                f"{_KEY}.validation_share={self.validation_share} must leave an image to train "
                f"on, got {count} few-shot images: lower it, or raise data.few_shot"
            )
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
        return sorted(order[held_out:]), sorted(order[:held_out])

    def is_over(self, curve: Sequence[Look]) -> bool:
        """Whether the last `patience` validations found no lower held-out loss."""
        losses = [look.validation for look in curve]
        return len(losses) - 1 - losses.index(min(losses)) >= self.patience


def _check(holds: bool, name: str, condition: str, value: float) -> None:
    if not holds:
        raise ValueError(f"{_KEY}.{name} must {condition}, got {value}")


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned network.

    Attributes:
        weights: file of the averaged weights at the lowest held-out loss.
        curve: all validations; the first is of the frozen weights.
    """

    weights: Path
    curve: Sequence[Look]

    @property
    def best(self) -> Look:
        """The validation that chose the weights."""
        return min(self.curve, key=lambda look: look.validation)


class DenoiserFineTuning(NoiseTraining):
    r"""Minimise the error of a copy of a frozen model on a few images.

    $$\mathbb{E} \lVert \epsilon - \epsilon_\theta(x_t, t) \rVert^2 / d$$

    (Ho et al., 2020, eq. 14) is the loss of Zhu et al. (2023), whose networks predict the noise.
    For other networks it is the error of their own prediction, see `prediction_error`. Steps are
    antithetic: with each $t$ the batch holds $T - 1 - t$.
    All randomness depends on `(seed, step)` alone, so dropout is off. The loss of the averaged
    weights on held-out images, with the same noise at every validation, decides when to stop and
    which weights to keep. A checkpoint holds these weights and the losses so far.

    Args:
        denoiser: the frozen model; it is copied and stays unchanged.
        images: training images in $[-1, 1]$, shape $(N, C, H, W)$; mirrored at random.
        held_out: images for early stopping, shape $(M, C, H, W)$.
        settings: how to train.
        seed: of batches and noise.
    """

    network: Denoiser
    ema: Denoiser
    held_out: Tensor
    losses: Tensor
    loss_sum: Tensor

    def __init__(
        self,
        *,
        denoiser: Denoiser,
        images: Tensor,
        held_out: Tensor,
        settings: FineTuning,
        seed: int,
    ) -> None:
        # a fixed memory layout, as a stage may have changed it and the last digits depend on it
        network = copy.deepcopy(denoiser).requires_grad_(True)
        network = network.to(memory_format=torch.channels_last)
        super().__init__(
            network=network,
            schedule=network.schedule,
            images=images,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            ema_decay=settings.ema_decay,
            seed=seed,
        )
        self.settings = settings
        self.best = copy.deepcopy(self.ema)
        self.register_buffer("held_out", held_out, persistent=False)
        # training and validation loss of each validation; NaN for those to come
        looks = 1 + -(-settings.steps // settings.validate_every)
        self.register_buffer("losses", torch.full((looks, 2), math.nan, dtype=torch.float64))
        self.register_buffer("loss_sum", torch.zeros((), dtype=torch.float64))

    def timesteps(self, generator: torch.Generator) -> Tensor:
        T, n = self.schedule.T, self.batch_size
        t = torch.randint(T, (-(-n // 2),), generator=generator)
        return torch.cat([t, T - 1 - t])[:n]

    def training_step(self, batch: object, batch_idx: int) -> Tensor:
        loss = self.error(self.network, *self.batch(self.global_step)).mean()
        self.loss_sum += loss.detach()
        self.log("train/loss", loss)
        return loss

    def error(self, denoiser: Denoiser, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Mean square error of the prediction per image, shape (B,)."""
        x_t, alpha_t, sigma_t = self.diffuse(x_0, t, eps)
        error = prediction_error(denoiser, x_t, t, x_0, eps, alpha_t, sigma_t)
        return error.square().flatten(1).mean(1)

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean error of the averaged weights on the held-out part.

        Image `i` is denoised at `TIMES` steps spread over the chain, drawn from `(seed, i)`, the
        same at every validation.
        """
        T, total = self.schedule.T, 0.0
        numbers = range(len(self.held_out))
        size = max(1, self.batch_size // TIMES)
        for block in (numbers[start : start + size] for start in numbers[::size]):
            noise = SampleNoise(self.seed, block, stream=Stream.FIT)
            u = (torch.arange(TIMES) + noise.uniform(1).double()) / TIMES
            eps = noise.normal(TIMES, *self.held_out.shape[1:]).flatten(0, 1)
            x_0 = self.held_out[list(block)].repeat_interleave(TIMES, 0)
            t = (u * T).long().flatten()
            errors = self.error(self.ema, x_0, t.to(x_0.device), eps.to(x_0.device))
            total += float(errors.double().sum())
        return total / (TIMES * len(self.held_out))

    def curve(self) -> list[Look]:
        """The validations so far."""
        every, steps = self.settings.validate_every, self.settings.steps
        return [
            Look(min(row * every, steps), training if row else None, validation)
            for row, (training, validation) in enumerate(self.losses.tolist())
            if not math.isnan(validation)
        ]

    def look(self, step: int) -> None:
        """Measure the held-out loss, keep the weights at its lowest, stop once patience ends.

        Raises:
            ValueError: the loss is not finite.
        """
        every = self.settings.validate_every
        row = -(-step // every)
        loss = self.validation_loss()
        if not math.isfinite(loss):
            raise ValueError(
                f"{_KEY}.learning_rate must be lower: the held-out loss is {loss} at step {step}, "
                f"got {self.learning_rate}"
            )
        batches = max(1, step - (row - 1) * every)
        self.losses[row, 0] = self.loss_sum / batches
        self.losses[row, 1] = loss
        self.loss_sum.zero_()
        if self._best_row() == row:
            self.best.load_state_dict(self.ema.state_dict())
        log.info(
            "fine-tuning: step %d of %d, held-out loss %.5f (frozen: %.5f)",
            step,
            self.settings.steps,
            loss,
            self.losses[0, 1],
        )
        self._stop_if_over()

    def on_train_start(self) -> None:
        if self.device.type == "cpu":
            keep_freed_memory()
        if not self.curve():
            self.look(0)
        self._stop_if_over()

    def on_train_end(self) -> None:
        return_freed_memory()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        # here, as checkpoints are written at the end of the batch
        super().optimizer_step(*args, **kwargs)
        step = self.global_step + 1
        if step % self.settings.validate_every == 0 or step == self.settings.steps:
            self.look(step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)

    def leave(self, folder: Path, best: Any, **about: int) -> None:  # noqa: ANN401 a copied module
        """Write the validations, and the weights with the lowest loss."""
        looks = [list(look) for look in self.curve()]
        save_json(folder / "curve.json", {"looks": looks, **about})
        save_state(folder / "weights.safetensors", best.network.state_dict())

    def _best_row(self) -> int:
        return int(self.losses[:, 1].nan_to_num(math.inf).argmin())

    def _stop_if_over(self) -> None:
        if self.settings.is_over(self.curve()):
            self.trainer.should_stop = True


def fine_tune(
    denoiser: Denoiser,
    images: Tensor,
    settings: FineTuning,
    *,
    seed: int,
    trainer: TrainerFactory,
    folder: Path,
    checkpoint_every: int = 100,
    kind: type[DenoiserFineTuning] = DenoiserFineTuning,
) -> Tuned:
    """Fine-tune a copy of a model on one device, once, resuming a killed training.

    Args:
        denoiser: the frozen model.
        images: few-shot images in [-1, 1], shape (N, C, H, W).
        settings: how to train.
        seed: of the split, the batches and the noise.
        trainer: makes the Lightning trainer from its keyword arguments.
        folder: of the result, named by a content hash.
        checkpoint_every: steps that a killed training loses, at most.
        kind: what is trained: all weights, or those that a subclass adds.

    Raises:
        ValueError: a number does not fit the images, or the loss is not finite.
        MemoryError: a batch does not fit.
    """
    kept, held_out = settings.split(len(images), seed=seed)
    with hold([folder], needed=lambda: finished(folder) is None, what="the fine-tuning") as own:
        if own:
            module = kind(
                denoiser=denoiser,
                images=images[kept],
                held_out=images[held_out],
                settings=settings,
                seed=seed,
            )
            _fit(module, trainer, folder, checkpoint_every)
            module.leave(folder, module.best)
            # it is five times as large as the weights
            (folder / f"{_RESUME}.ckpt").unlink(missing_ok=True)
    tuned = finished(folder)
    if tuned is None:
        raise OSError(f"{folder} was removed or damaged meanwhile: start the run again")
    return tuned


def finished(folder: Path) -> Tuned | None:
    """Result of `fine_tune` in a folder; None if it is incomplete."""
    weights = folder / "weights.safetensors"
    curve = load_json(folder / "curve.json")
    if curve is None or load_state(weights) is None:
        return None
    return Tuned(weights, [Look(*look) for look in curve["looks"]])


def _fit(
    module: DenoiserFineTuning, factory: TrainerFactory, folder: Path, checkpoint_every: int
) -> None:
    steps = module.settings.steps
    trainer = factory(
        callbacks=[
            ModelCheckpoint(
                folder,
                filename=_RESUME,
                every_n_train_steps=checkpoint_every,
                enable_version_counter=False,
            )
        ],
        max_steps=steps,
        # a single process trains, whatever the run's own trainer has
        devices=1,
        strategy="auto",
        gradient_clip_val=_CLIP,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        # the loader only counts: the module draws its batches, so that a resumed run draws the same
        trainer.fit(
            module,
            DataLoader(range(steps), batch_size=None),  # type: ignore[arg-type]
            ckpt_path=_resumable(folder / f"{_RESUME}.ckpt"),
            weights_only=True,
        )
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"{_KEY}.batch_size={module.batch_size} does not fit into the device's memory: lower it"
        ) from error


def _resumable(checkpoint: Path) -> Path | None:
    """Path of the checkpoint, if it is intact."""
    try:
        read_tensors(checkpoint)
    except FileNotFoundError:
        return None
    except ValueError as error:
        log.warning("warning: %s is damaged (%s): the fine-tuning starts again", checkpoint, error)
        return None
    return checkpoint
