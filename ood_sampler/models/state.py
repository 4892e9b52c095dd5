"""State dicts: names of other code bases, and checks before a network loads them."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ood_sampler.faults import BrokenFileError

State = Mapping[str, Tensor]
"""Name -> weight."""

MALFORMED = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NameError,
    OverflowError,
    RuntimeError,
    TypeError,
    ZeroDivisionError,
)
"""Raised by code that trusts names and shapes, on ones that make no network."""

_WRAPPERS = frozenset({"_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_orig_mod", "module"})
"""Parts of names that torch's wrappers add: compile, DataParallel, FSDP, checkpointing."""


def unwrapped(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give weights the names that they have without torch's wrappers (`module.`, `_orig_mod.`).

    Unless two would share a name: then it is another network that has the prefix.
    """
    names = {
        name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in state
    }
    if len(set(names.values())) < len(names):
        return state
    return {names[name]: weight for name, weight in state.items()}


def within(old: str, new: str, layers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Pairs of names of the layers of a block, original and new."""
    return ((f"{old}.{a}", f"{new}.{b}") for a, b in layers.items())


def rename(
    state: State, modules: Mapping[str, str], *, optional: frozenset[str], source: object
) -> dict[str, Tensor]:
    """Give weights and biases the names that their modules have elsewhere.

    Args:
        state: name -> tensor.
        modules: name of each module -> its new name.
        optional: last parts of the names of modules that may be missing.
        source: where the state comes from, for messages.

    Raises:
        ValueError: a module is missing, or a tensor belongs to none of them.
    """
    names = {
        f"{old}.{kind}": f"{new}.{kind}"
        for old, new in modules.items()
        for kind in ("weight", "bias")
        if old.rpartition(".")[2] not in optional or f"{old}.weight" in state
    }
    check_names(state, names, source=source)
    return {new: state[old] for old, new in names.items()}


def check_names(state: State, expected: Mapping[str, object], *, source: object) -> None:
    """Compare the names of tensors with those that an architecture has.

    Raises:
        ValueError: names are missing or unexpected; says the first of them.
    """
    for adjective, names in (
        ("lacks", [name for name in expected if name not in state]),
        ("has unexpected", [name for name in state if name not in expected]),
    ):
        if names:
            rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(
                f"{source} must hold the weights of its architecture, but it {adjective} "
                f"{', '.join(names[:3])}{rest}; check the architecture, or fetch the file again"
            )


def load_strictly(network: nn.Module, state: State, *, source: object) -> None:
    """Give a network its weights, copied in float32.

    Args:
        network: may be on the meta device: its parameters are replaced.
        state: name -> weight, of any floating precision.
        source: where the state comes from, for messages.

    Raises:
        ValueError: names or shapes are not those of the network, or weights are not finite.
    """
    shapes = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    check_names(state, shapes, source=source)
    weights = {name: _weight(state[name], shape, name, source) for name, shape in shapes.items()}
    network.load_state_dict(weights, assign=True)


def _weight(weight: object, shape: tuple[int, ...], name: str, source: object) -> Tensor:
    if not isinstance(weight, Tensor):
        raise ValueError(f"{source} must hold tensors, got {type(weight).__name__} in {name}")
    if tuple(weight.shape) != shape:
        raise ValueError(
            f"{source} must hold {name} in the shape {shape} of its architecture, got "
            f"{tuple(weight.shape)}; check the architecture"
        )
    if not weight.numel():
        raise ValueError(f"{source} must hold weights, got none in {name} of shape {shape}")
    if not is_plain(weight):
        raise ValueError(
            f"{source} must hold dense floating-point weights, got {weight.dtype} in {name}"
        )
    weight = weight.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not weight.isfinite().all():
        raise BrokenFileError(
            f"{source} must hold finite weights, got NaN or inf in {name}; fetch the file again"
        )
    return weight


def is_plain(tensor: Tensor) -> bool:
    """Tell whether a tensor is floating-point and as large in memory as its shape says."""
    return (
        tensor.is_floating_point()
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )
