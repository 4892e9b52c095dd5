"""Compile the network for the device: faster, with other last digits."""

from typing import Literal, get_args

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

Mode = Literal["default", "reduce-overhead"]
"""Modes of `torch.compile`; the second replays the kernels of a GPU as one CUDA graph."""


class CompiledNetwork(nn.Module):
    """Call a network through `torch.compile`, which compiles once per batch size.

    Args:
        network: any.
        mode: of `torch.compile`.

    Raises:
        ValueError: at the first call, if it cannot be compiled here.
    """

    def __init__(self, network: nn.Module, mode: Mode) -> None:
        super().__init__()
        self.mode = mode
        self.network = network
        self.compiled = torch.compile(network, mode=mode, dynamic=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        # a graph overwrites its last result, but solvers keep earlier ones
        torch.compiler.cudagraph_mark_step_begin()
        try:
            prediction: Tensor = self.compiled(*inputs)
        except RuntimeError as error:
            refuse_to_compile(error, f"trainer.compile={self.mode}", off="trainer.compile=null")
            raise
        return prediction.clone()


def refuse_to_compile(error: RuntimeError, setting: str, *, off: str) -> None:
    """Raise a message with the remedy if `error` came from the compiler.

    Args:
        error: raised by a compiled network.
        setting: the setting that asked for compiling.
        off: the setting without it.

    Raises:
        ValueError: the network cannot be compiled on this machine.
    """
    # takes a second to import
    from torch._dynamo.exc import TorchDynamoException

    if isinstance(error, TorchDynamoException):
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{setting} does not work on this machine ({reason}): a CPU needs a C++ compiler "
            f"(g++), a GPU triton; or set {off}"
        ) from error


class Compile(Callback):
    """Compile the network of a stage that has one.

    Args:
        mode: of `torch.compile`.

    Raises:
        ValueError: `mode` is not known.
    """

    def __init__(self, mode: Mode) -> None:
        if mode not in get_args(Mode):
            raise ValueError(
                f"trainer.compile must be null or one of {', '.join(get_args(Mode))}, got {mode!r}"
            )
        self.mode = mode

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        denoiser = getattr(pl_module, "denoiser", None)
        network = getattr(denoiser, "network", None)
        if isinstance(network, nn.Module) and not isinstance(network, CompiledNetwork):
            denoiser.network = CompiledNetwork(network, self.mode)  # type: ignore[union-attr]

    def teardown(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Leave the network as it was: another stage may go to other processes."""
        denoiser = getattr(pl_module, "denoiser", None)
        network = getattr(denoiser, "network", None)
        if isinstance(network, CompiledNetwork):
            denoiser.network = network.network  # type: ignore[union-attr]
