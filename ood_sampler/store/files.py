"""Atomic writes, and small files of JSON or tensors with a checksum."""

import errno
import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

log = logging.getLogger(__name__)

_reported: set[Path] = set()
"""Damaged files already logged and not yet rewritten."""


def digest(key: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON mapping, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, even if the machine crashes.

    Raises:
        OSError: it cannot be written; names the file and the remedy.
    """
    with atomic(path) as partial:
        partial.write_bytes(data)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file beside `path`, which replaces `path` at the end.

    Raises:
        OSError: it cannot be written; names the file and the remedy.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        # safetensors makes files unreadable for other users
        partial.chmod(mode)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        _reported.discard(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        # safetensors puts the system's error number into its text
        said = re.search(r"\(os error (\d+)\)", str(error))
        number = getattr(error, "errno", None) or (int(said[1]) if said else errno.EIO)
        reason = os.strerror(number)
        raise OSError(
            number,
            f"could not be written ({reason}): make space or set output to another folder; "
            "finished shards are kept and the same command continues",
            str(path),
        ) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def save_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a small file of named tensors, with a checksum.

    Raises:
        OSError: it cannot be written; names the file and the remedy.
    """
    tensors = {name: value.contiguous() for name, value in state.items()}
    write_atomically(path, save(tensors, metadata={"sha256": _state_checksum(tensors)}))


def load_state(path: Path) -> dict[str, Tensor] | None:
    """Read a file of `save_state`; None if it is missing, or damaged, which is logged."""
    try:
        with safe_open(path, framework="pt") as file:
            recorded = (file.metadata() or {}).get("sha256")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        if path.exists():
            report_damage(path, str(error))
        return None
    if _state_checksum(state) != recorded:
        report_damage(path, "its checksum differs")
        return None
    return state


def save_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a small file of JSON, with a checksum.

    Raises:
        OSError: it cannot be written; names the file and the remedy.
    """
    write_atomically(path, json.dumps({"sha256": digest(content), "content": content}).encode())


def load_json(path: Path) -> dict[str, Any] | None:
    """Read a file of `save_json`; None if it is missing, or damaged, which is logged."""
    try:
        stored = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        report_damage(path, str(error))
        return None
    content = stored.get("content") if isinstance(stored, dict) else None
    if not isinstance(content, dict) or stored.get("sha256") != digest(content):
        report_damage(path, "its checksum differs")
        return None
    return content


def report_damage(path: Path, reason: str) -> None:
    """Log a damaged file, once."""
    if path not in _reported:
        _reported.add(path)
        log.warning("warning: %s is damaged (%s): it is computed again", path, reason)


def checksum(items: Tensor) -> str:
    """SHA-256 of the bytes, with type and shape."""
    # a view of the bytes, not a copy
    data = items.flatten().view(torch.uint8).numpy().data
    # a single entry of the file's metadata, as the order of several, and so the bytes, would vary
    return f"{hashlib.sha256(data).hexdigest()} of {items.dtype} {list(items.shape)}"


def _state_checksum(state: Mapping[str, Tensor]) -> str:
    return digest({name: checksum(value) for name, value in state.items()})
