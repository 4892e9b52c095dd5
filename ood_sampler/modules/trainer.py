"""Lightning trainers that do nothing but drive a stage, and what they compute in."""

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
"""Lightning makes a list of them before it looks at their number."""

TrainerFactory = Callable[..., lightning.Trainer]

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
"""What a stage may compute in; the others would cast the feature network too."""


def make_trainer(factory: TrainerFactory, callbacks: Sequence[Callback]) -> lightning.Trainer:
    """Make a trainer that does nothing but drive a stage.

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
            # a denoiser may take gradients, which inference mode does not allow
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
    """Kind of device, precision, compilation: results differ with them in the last digits."""
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
    """Let a GPU round the factors of float32 products to 10 bits, or not.

    Args:
        allowed: whether it may; PyTorch's own default allows it for convolutions alone.
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
    """Make a Lightning trainer that computes as told.

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
    # processes are started here: a cluster's job would count its own, of which there is one
    environment = LightningEnvironment()
    return lightning.Trainer(callbacks=[*callbacks, *own], plugins=environment, **settings)
