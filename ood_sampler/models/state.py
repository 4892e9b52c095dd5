"""Reading files of weights: nothing in them is executed, and what is read is checked."""

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ood_sampler.models.layout import BrokenFileError

State = Mapping[str, Tensor]
"""Name -> weight."""

_AGAIN = "fetch the file again"
_BROKEN = (
    AssertionError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    OSError,
    OverflowError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)
"""What torch and safetensors raise on files that are not whole."""

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
"""What code that trusts names and shapes raises on those that make no network."""

_DATA = frozenset(
    {
        "argparse.Namespace",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "numpy.ndarray",
        "pathlib.PosixPath",
        "pathlib.PurePosixPath",
        "pathlib.WindowsPath",
        "pathlib.PureWindowsPath",
    }
)
"""Objects that training code leaves in checkpoints: settings, paths, measured numbers."""


_ARCHIVES = {"gzip": b"\x1f\x8b", "xz": b"\xfd7zXZ", "7z": b"7z\xbc\xaf", "rar": b"Rar!"}

_WRAPPERS = frozenset({"_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_orig_mod", "module"})
"""Parts of names that torch's wrappers add: compile, DataParallel, FSDP, checkpointing."""


def read_file(path: Path) -> object:
    """Read a file of tensors: what `torch.save` wrote, or safetensors, told apart by content.

    Only tensors and plain containers are read (`weights_only`): code in a pickle is not executed.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenFileError: it is not whole.
        ValueError: it holds anything else.
    """
    with path.open("rb") as file:
        start = file.read(512)
    _check_start(start, path)
    if start[8:9] == b"{":
        return _read_safetensors(path)
    # the zip format of torch 1.6 and later can be mapped instead of read; but torch takes the
    # suffix .safetensors at its word
    mapped = start.startswith(b"PK") and path.suffix != ".safetensors"
    if mapped:
        _refuse_other_zip(path)
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: what opens is whole
            return torch.load(
                path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped
            )
    except pickle.UnpicklingError as error:
        raise _unpickling_fault(path, error) from error
    except _BROKEN as error:
        raise BrokenFileError(
            f"{path} must be a whole checkpoint, got a broken one ({_first_line(error)}); {_AGAIN}"
        ) from error


def _check_start(start: bytes, path: Path) -> None:
    text = start.lstrip().lower()
    if not start:
        raise BrokenFileError(f"{path} must hold weights, got an empty file; {_AGAIN}")
    archive = next((kind for kind, magic in _ARCHIVES.items() if start.startswith(magic)), None)
    if archive or start[257:262] == b"ustar":
        raise ValueError(
            f"{path} must hold weights, got an archive ({archive or 'tar'}): unpack it, and set "
            "model.path to what it holds"
        )
    if text.startswith(b"{") and start[8:9] != b"{" and path.suffix == ".json":
        raise ValueError(
            f"{path} must hold weights, got JSON: set model.path to the folder of the pipeline"
        )
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise BrokenFileError(
            f"{path} must hold weights, got a web page: the download was refused, as Google Drive "
            "does when a file was fetched too often; open the link in a browser, save the file "
            "itself, and put it here"
        )
    if text.startswith(b"version https://git-lfs"):
        raise BrokenFileError(
            f"{path} must hold weights, got a Git LFS pointer; fetch the file that it stands for"
        )


def _refuse_other_zip(path: Path) -> None:
    """What torch saves is a zip file as well."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:  # torch says what is wrong
        return
    if names and not any(name.endswith("data.pkl") for name in names):
        raise ValueError(
            f"{path} must hold weights, got a zip archive of {names[0]}"
            f"{' and others' if len(names) > 1 else ''}: unpack it, and set model.path to what it "
            "holds"
        )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except _BROKEN as error:
        raise BrokenFileError(
            f"{path} must be whole safetensors, got a broken file ({_first_line(error)}); {_AGAIN}"
        ) from error
    return tensors


def _unpickling_fault(path: Path, error: pickle.UnpicklingError) -> ValueError:
    objects = re.search(r"GLOBAL ([\w.]+)", str(error))
    if objects is None:
        cause = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        return BrokenFileError(
            f"{path} must hold tensors alone, got a broken file or one with other objects "
            f"({cause}); nothing in it was executed; {_AGAIN}"
        )
    found = (
        f"it holds other objects ({objects[1]}), which are not read"
        if objects[1] in _DATA
        else f"got a pickle with other objects ({objects[1]}): reading them could run any code, so "
        "nothing of it was executed"
    )
    return ValueError(
        f"{path} must hold tensors alone, {found}. If you trust its source, open it where it can "
        "do no harm and save its state dict alone, with safetensors or torch.save"
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__


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
            f"{source} must hold finite weights, got NaN or inf in {name}; {_AGAIN}"
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
