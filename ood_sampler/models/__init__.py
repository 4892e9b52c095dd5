"""Frozen models: published checkpoints as denoisers.

`load_checkpoint` is imported at its first use, so that listing models needs no torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ood_sampler.models.checkpoint import load_checkpoint

__all__ = ["load_checkpoint"]


def __getattr__(name: str) -> object:
    if name == "load_checkpoint":
        from ood_sampler.models.checkpoint import load_checkpoint

        return load_checkpoint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
