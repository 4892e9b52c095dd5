"""Tensor files of other programs, read as data: nothing in them is executed."""

import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ood_sampler.faults import BrokenFileError

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
"""Errors that torch and safetensors raise on incomplete files."""

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
"""Types of objects that training code leaves in checkpoints: settings, paths, metrics."""


_ARCHIVES = {"gzip": b"\x1f\x8b", "xz": b"\xfd7zXZ", "7z": b"7z\xbc\xaf", "rar": b"Rar!"}


def read_tensors(path: Path) -> object:
    """Read a file of `torch.save` or safetensors, told apart by content.

    Only tensors and plain containers are read (`weights_only`): code in a pickle is not executed.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenFileError: it is incomplete.
        ValueError: it holds anything else.
    """
    with path.open("rb") as file:
        start = file.read(512)
    _check_start(start, path)
    if start[8:9] == b"{":
        return _read_safetensors(path)
    # the zip format of torch 1.6 and later can be memory-mapped, but torch trusts the suffix
    # .safetensors
    mapped = start.startswith(b"PK") and path.suffix != ".safetensors"
    if mapped:
        _refuse_other_zip(path)
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: a file that opens is complete
            return torch.load(
                path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped
            )
    except pickle.UnpicklingError as error:
        raise _unpickling_fault(path, error) from error
    except _BROKEN as error:
        raise BrokenFileError(
            f"{path} must be a whole checkpoint, got a broken one or no checkpoint at all "
            f"({_first_line(error)}); {_AGAIN}, or set another path"
        ) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors by name, as `read_tensors` does.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenFileError: it is incomplete.
        ValueError: it holds anything else.
    """
    state = read_tensors(path)
    if not isinstance(state, dict) or not all(isinstance(w, Tensor) for w in state.values()):
        raise ValueError(f"{path} must hold tensors by name, got {type(state).__name__}")
    return state


def _check_start(start: bytes, path: Path) -> None:
    text = start.lstrip().lower()
    if not start:
        raise BrokenFileError(f"{path} must hold weights, got an empty file; {_AGAIN}")
    archive = next((kind for kind, magic in _ARCHIVES.items() if start.startswith(magic)), None)
    if archive or start[257:262] == b"ustar":
        raise ValueError(
            f"{path} must hold weights, got an archive ({archive or 'tar'}): unpack it, and set "
            "the path to what it holds"
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
    """Refuse a zip file that torch did not write; torch's own files are zip files too."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError):
        return  # torch reports the fault
    if names and not any(name.endswith("data.pkl") for name in names):
        raise ValueError(
            f"{path} must hold weights, got a zip archive of {names[0]}"
            f"{' and others' if len(names) > 1 else ''}: unpack it, and set the path to what it "
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
    if isinstance(error, KeyError):  # its text is the key alone
        return f"unknown code {error}"
    return str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
