"""Fine-tuning with a low-rank adapter: the baseline that trains few weights (Hu et al., 2022)."""

import copy
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.faults import install
from ood_sampler.modules.finetuning import DenoiserFineTuning, FineTuning, Tuned, fine_tune
from ood_sampler.modules.trainer import TrainerFactory
from ood_sampler.store.files import save_state

ADAPTER = "adapter.safetensors"
"""File of the adapter alone, beside the merged weights."""

_PROJECTIONS = {"to_q", "to_k", "to_v", "to_out"}
"""Linear layers of diffusers' attention."""

_KEY = "study.adapter"
"""Key of the settings, for messages."""

_MARK = "lora_"
"""Begins the names of what peft adds to a layer."""


@dataclass(frozen=True)
class AdapterTuning(FineTuning):
    r"""Settings of a fine-tuning of a low-rank adapter, with the optimizer of `FineTuning`.

    Attributes:
        rank: $r$ of the update of each layer.
        alpha: scale of the update is $\alpha / r$.

    Raises:
        ValueError: a number is out of range.
    """

    rank: int
    alpha: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.rank, int) and self.rank >= 1):
            raise ValueError(f"{_KEY}.rank must be a whole number >= 1, got {self.rank!r}")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"{_KEY}.alpha must be > 0 and finite, got {self.alpha}")


def asked_adapter(
    fine_tuning: FineTuning, *, rank: int | None, alpha: float
) -> AdapterTuning | None:
    """Settings of an adapter that is trained as a copy is; None if no rank is asked for."""
    return None if rank is None else AdapterTuning(**vars(fine_tuning), rank=rank, alpha=alpha)


def check_installed() -> None:
    """Refuse to train an adapter without the package that has it.

    Raises:
        ValueError: it is missing; says how to get it.
    """
    if importlib.util.find_spec("peft") is None:
        raise ValueError(
            f"{_KEY} needs the package peft: {install('finetune')}, or set rank to null"
        )


def adapted_layers(network: nn.Module) -> list[str]:
    """Names of the layers that an adapter changes: convolutions and projections of attention."""
    return [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d)
        or (isinstance(layer, nn.Linear) and _PROJECTIONS.intersection(name.split(".")))
    ]


def with_adapter(denoiser: Denoiser, *, rank: int, alpha: float, seed: int) -> Denoiser:
    r"""Copy a frozen model and add to its layers an adapter that changes nothing yet.

    $W' = W + \frac{\alpha}{r} B A$ with $B = 0$, and $A$ drawn by `seed` alone; of a convolution,
    $A$ has its kernel, and $B$ is one of a pixel.

    Args:
        denoiser: the frozen model, which stays as it is.
        rank: $r$.
        alpha: $\alpha$.
        seed: of $A$.

    Raises:
        ValueError: peft is not installed, or the network has no layer to adapt.
    """
    check_installed()
    from peft import LoraConfig, inject_adapter_in_model

    adapted: Any = copy.deepcopy(denoiser)
    layers = adapted_layers(adapted.network)
    if not layers:
        raise ValueError(
            f"{_KEY} needs a network with convolutions or attention, got "
            f"{type(adapted.network).__name__}: set its rank to null"
        )
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers)
    with torch.random.fork_rng():
        torch.manual_seed(seed % 2**63)
        inject_adapter_in_model(config, adapted.network)
    found: Denoiser = adapted
    return found


def merged(denoiser: Denoiser) -> Denoiser:
    """Copy a model with its adapter added to the weights, in layers of the usual kind."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain: Any = copy.deepcopy(denoiser)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            plain.set_submodule(name, layer.get_base_layer())
    found: Denoiser = plain
    return found


def adapter_state(denoiser: Denoiser) -> dict[str, Tensor]:
    """Weights of the adapter alone."""
    state = dict(denoiser.named_parameters())
    return {name: value.detach() for name, value in state.items() if _MARK in name}


class AdapterFineTuning(DenoiserFineTuning):
    """Train an adapter in a copy of a frozen model; all else is as in `DenoiserFineTuning`.

    Weights of the model itself get no gradient, and averaging equal ones leaves their bits.

    Args:
        denoiser: the frozen model; it is copied and stays unchanged.
        images: training images in $[-1, 1]$, shape $(N, C, H, W)$; mirrored at random.
        held_out: images for early stopping, shape $(M, C, H, W)$.
        settings: how to train.
        seed: of the adapter, batches and noise.
    """

    def __init__(
        self,
        *,
        denoiser: Denoiser,
        images: Tensor,
        held_out: Tensor,
        settings: AdapterTuning,
        seed: int,
    ) -> None:
        adapted = with_adapter(denoiser, rank=settings.rank, alpha=settings.alpha, seed=seed)
        super().__init__(
            denoiser=adapted, images=images, held_out=held_out, settings=settings, seed=seed
        )
        for name, weight in self.network.named_parameters():
            weight.requires_grad_(_MARK in name)

    @property
    def trained(self) -> int:
        """Number of weights that are trained."""
        return sum(w.numel() for w in self.network.parameters() if w.requires_grad)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        return torch.optim.Adam(weights, lr=self.learning_rate)

    def leave(self, folder: Path, best: Any, **about: int) -> None:  # noqa: ANN401 a copied module
        """Write the adapter alone beside the merged weights."""
        save_state(folder / ADAPTER, adapter_state(best))
        super().leave(folder, merged(best), trained=self.trained, **about)


def tune_adapter(
    denoiser: Denoiser,
    images: Tensor,
    settings: AdapterTuning,
    *,
    seed: int,
    trainer: TrainerFactory,
    folder: Path,
    checkpoint_every: int = 100,
) -> Tuned:
    """Train an adapter on one device, once, resuming a killed training.

    The folder gets the merged weights, as `fine_tune` leaves them, and the adapter alone.

    Args:
        denoiser: the frozen model.
        images: few-shot images in [-1, 1], shape (N, C, H, W).
        settings: how to train.
        seed: of the split, the adapter, the batches and the noise.
        trainer: makes the Lightning trainer from its keyword arguments.
        folder: of the result, named by a content hash.
        checkpoint_every: steps that a killed training loses, at most.

    Raises:
        ValueError: peft is not installed, a number does not fit, or the loss is not finite.
        MemoryError: a batch does not fit.
    """
    return fine_tune(
        denoiser,
        images,
        settings,
        seed=seed,
        trainer=trainer,
        folder=folder,
        checkpoint_every=checkpoint_every,
        kind=AdapterFineTuning,
    )
