"""The artifact store: shards of tensors that a stage made, in a folder named by a content hash."""

import json
import logging
import math
import re
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from ood_sampler.store.files import atomic, checksum, digest, report_damage, write_atomically
from ood_sampler.store.sets import TensorSet

log = logging.getLogger(__name__)

SHARD = 64
"""Items per shard, at most."""

_SHARD_BYTES = 2**25
"""Bytes per shard, at most, as each process gathers one in memory."""

_STALE = 3600.0
"""Seconds without a write after which a partial file counts as left by a killed process."""


def shard_size(shape: Sequence[int]) -> int:
    """Float32 items per shard: a power of two, 64 at 32x32 and 32 at 256x256.

    It depends on their shape alone, so that batches and processes do not change the bytes on disk.
    """
    fitting = max(1, _SHARD_BYTES // (4 * math.prod(shape)))
    return int(min(SHARD, 2 ** (fitting.bit_length() - 1)))


class Artifact:
    """The items 0, ..., `count` - 1 that one stage makes, in shards of `shard_size` items.

    The folder is named by a hash of `key`. Shards are written atomically with a checksum; those on
    disk say which items are missing. A larger `count` continues the same folder.

    Args:
        root: folder of all artifacts.
        stage: name of the stage.
        key: all that determines item `i`, as JSON.
        count: number of items.
        shape: of an item.
    """

    def __init__(
        self, root: Path, stage: str, key: Mapping[str, Any], count: int, shape: Sequence[int]
    ) -> None:
        self.key = {"stage": stage, **key}
        self.digest = digest(self.key)
        self.folder = root / f"{stage}-{self.digest[:16]}"
        self.count = count
        self.shape = tuple(shape)
        self.shard = shard_size(shape)
        self._good: set[int] = set()
        self._is_tidy = False

    def shard_path(self, shard: int) -> Path:
        """File of a shard."""
        return self.folder / f"{shard:06d}.safetensors"

    def expected(self, shard: int) -> int:
        """Number of items that the shard must hold."""
        return min(self.shard, self.count - shard * self.shard)

    def missing(self) -> list[int]:
        """Shards that are absent, too short, or damaged (their checksum differs).

        Damaged ones are logged. This object verifies a good shard only once.
        """
        good = self._verified()
        return [s for s in range(-(-self.count // self.shard)) if s not in good]

    def missing_items(self) -> int:
        """Number of items in the missing shards."""
        return self.count - sum(self.expected(shard) for shard in self._verified())

    def missing_bytes(self) -> int:
        """Size of the missing items, as float32."""
        return 4 * math.prod(self.shape) * self.missing_items()

    def write(self, shard: int, items: Tensor) -> None:
        """Store a shard, and on first use the key."""
        if not self._is_tidy:
            self._tidy()
        items = items.contiguous()
        with atomic(self.shard_path(shard)) as partial:
            save_file({"items": items}, partial, metadata={"sha256": checksum(items)})
        self._good.discard(shard)

    def open(self) -> "StoredSet":
        """Open the items for reading, once all are there."""
        return StoredSet(self)

    def _tidy(self) -> None:
        """Write the key if it is missing or damaged, and remove leftovers of killed processes."""
        path = self.folder / "key.json"
        key = json.dumps(self.key, indent=1, sort_keys=True).encode()
        if not path.exists() or path.read_bytes() != key:
            if path.exists():
                report_damage(path, "it is not the key of its folder")
            write_atomically(path, key)
        for partial in self.folder.glob(".*"):
            with suppress(FileNotFoundError):  # another process removes them too
                age = time.time() - partial.stat().st_mtime
                if re.fullmatch(r"\..+\.[0-9a-f]{16}", partial.name) and age > _STALE:
                    partial.unlink()
        self._is_tidy = True

    def _verified(self) -> set[int]:
        """Intact shards on disk."""
        shards = -(-self.count // self.shard)
        # listed from disk, as a user may ask for any number of items
        stored = {int(p.stem) for p in self.folder.glob("*.safetensors") if p.stem.isdecimal()}
        new = {shard for shard in stored if shard < shards} - self._good
        self._good |= {shard for shard in new if self._is_good(shard)}
        return self._good

    def _is_good(self, shard: int) -> bool:
        path = self.shard_path(shard)
        try:
            with safe_open(path, framework="pt") as file:
                recorded = (file.metadata() or {}).get("sha256")
                items = file.get_tensor("items")
        except (OSError, SafetensorError) as error:
            if path.exists():
                report_damage(path, str(error))
            return False
        if recorded != checksum(items):
            report_damage(path, "its checksum differs")
            return False
        return len(items) >= self.expected(shard)


class StoredSet(TensorSet):
    """The items of an artifact, read from its shards on demand."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.count = artifact.count

    @property
    def shape(self) -> tuple[int, ...]:
        return self.artifact.shape

    def __len__(self) -> int:
        return self.count

    def take(self, indices: Sequence[int]) -> Tensor:
        size = self.artifact.shard
        by_shard: dict[int, list[int]] = {}
        for position, index in enumerate(indices):
            by_shard.setdefault(index // size, []).append(position)
        taken: list[Tensor] = [torch.empty(0)] * len(indices)
        for shard, positions in by_shard.items():
            with safe_open(self.artifact.shard_path(shard), framework="pt") as file:
                items = file.get_slice("items")
                for position in positions:
                    row = indices[position] % size
                    taken[position] = items[row : row + 1][0]
        return torch.stack(taken)


class Items(Dataset[Tensor]):
    """A tensor set as a data set of single items."""

    def __init__(self, items: TensorSet) -> None:
        self.items = items

    def __getitem__(self, index: int) -> Tensor:
        return self.items.take([index])[0]


def check_disk(root: Path, needed: int) -> None:
    """Check that a run's artifacts fit on the disk and can be written.

    Args:
        root: folder of all artifacts; created if missing.
        needed: bytes still to write.

    Raises:
        OSError: the folder cannot be created or written, or the disk is too small.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        # processes on machines that share the folder may have equal numbers
        probe = root / f".probe.{secrets.token_hex(8)}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"{root} cannot be written ({error.strerror}): set output to a folder that can"
        ) from error
    free = shutil.disk_usage(root).free
    if needed > free:
        raise OSError(
            f"{root} has {disk_space(free)} free, and this run needs {disk_space(needed)}: "
            "lower num_samples or data.few_shot, or set output to a larger disk"
        )


def disk_space(size: int) -> str:
    """Write a number of bytes as MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
