"""Lightning trainers that only drive a stage, and their precision."""

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from ood_sampler.modules.compilation import Compile, Mode

_MOST_DEVICES = 4096
"""Limit on devices, as Lightning lists them all before it checks their number."""

TrainerFactory = Callable[..., lightning.Trainer]

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
"""Precisions of a stage; the others would cast the feature network too."""


def hush_lightning() -> None:
    """Leave out what Lightning says of its trainers, in a program of ours."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # nothing that a user of this program could act on
    warnings.filterwarnings("ignore", module=r"lightning\.pytorch")


def make_trainer(factory: TrainerFactory, callbacks: Sequence[Callback]) -> lightning.Trainer:
    """Make a trainer that only drives a stage.

    Raises:
        ValueError: the trainer's settings do not fit this machine.
    """
    try:
        made = factory(
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            # a denoiser may need gradients, which inference mode forbids
            inference_mode=False,
        )
    except (MisconfigurationException, TypeError) as error:
        raise ValueError(
            f"trainer does not fit this machine: {error}; choose trainer=auto or trainer=cpu"
        ) from error
    if made.precision not in PRECISIONS:
        raise ValueError(
            f"trainer.precision must be one of {', '.join(PRECISIONS)}, got {made.precision}"
        )
    if isinstance(made.strategy.launcher, _SubprocessScriptLauncher):
        raise ValueError(
            f"trainer.devices={made.num_devices} would start the whole run that often: use "
            "trainer=ddp, which starts processes for a stage"
        )
    return made


def machine(trainer: lightning.Trainer) -> str:
    """Kind of device, precision, compilation: the last digits of results depend on them."""
    device = trainer.strategy.root_device.type
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    tf32 = any(isinstance(callback, TF32) and callback.allowed for callback in callbacks)
    compiled = any(isinstance(callback, Compile) for callback in callbacks)
    return (
        f"{device} {trainer.precision}"
        + " tf32" * (tf32 and device == "cuda")
        + " compiled" * compiled
    )


class TF32(Callback):
    """Allow or forbid a GPU to round the factors of float32 products to 10 bits.

    Args:
        allowed: whether it may; PyTorch's own default allows it for convolutions only.
    """

    def __init__(self, *, allowed: bool) -> None:
        self.allowed = allowed

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        precision = "tf32" if self.allowed else "ieee"
        torch.backends.cuda.matmul.fp32_precision = precision
        torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]


def lightning_trainer(
    *,
    tf32: bool,
    compile: Mode | None = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,  # noqa: ANN401
) -> lightning.Trainer:
    """Make a Lightning trainer with `TF32` and `Compile` set.

    Args:
        tf32: see `TF32`.
        compile: see `Compile`; None leaves the network as it is.
        callbacks: of the trainer.
        settings: other arguments of `lightning.Trainer`.

    Raises:
        ValueError: there are more devices than any machine has.
    """
    devices = settings.get("devices")
    if isinstance(devices, int) and devices > _MOST_DEVICES:
        raise ValueError(f"trainer.devices must be at most {_MOST_DEVICES}, got {devices}")
    own: list[Callback] = [TF32(allowed=tf32)]
    if compile is not None:
        own.append(Compile(compile))
    # processes start here: a cluster's environment would count those of the job, a single one
    environment = LightningEnvironment()
    return lightning.Trainer(callbacks=[*callbacks, *own], plugins=environment, **settings)
