"""Files of a run: results, samples and their attribution."""

import json
import math
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from PIL import Image

import ood_sampler
from ood_sampler.metrics.attribution import Attribution
from ood_sampler.report.columns import csv_rows
from ood_sampler.report.grid import save_png, to_uint8
from ood_sampler.store.files import write_atomically
from ood_sampler.store.sets import TensorSet


def commit() -> str:
    """The commit of the checkout that the package runs from; outside of one, its version."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return f"version {ood_sampler.__version__}"
    return described.stdout.strip()


def environment() -> dict[str, str]:
    """Versions that results may depend on."""
    return {
        "commit": commit(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
    }


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Write JSON that any reader accepts: non-finite numbers become null."""
    write_atomically(path, json.dumps(_finite(results), indent=1).encode())


def write_samples(
    folder: Path,
    images: TensorSet,
    numbers: Sequence[int],
    *,
    near_copies: Sequence[bool],
    seed: int,
) -> None:
    """Write samples as PNG files, with a manifest of their seeds and near-copies.

    Args:
        folder: of the files.
        images: the samples.
        numbers: of the samples within the run.
        near_copies: whether each sample is a near-copy; empty if that was not measured.
        seed: of the run.
    """
    rows = []
    pictures = (picture for block in images.blocks() for picture in to_uint8(block))
    for place, (number, picture) in enumerate(zip(numbers, pictures, strict=True)):
        name = sample_file(number)
        save_png(picture, folder / name)
        copied = {"near_copy": int(near_copies[place])} if near_copies else {}
        rows.append({"file": name, "seed": seed, "index": number, **copied})
    # of another run in the same folder
    made = {row["file"] for row in rows}
    for file in folder.glob(_SAMPLES):
        if file.name not in made:
            file.unlink()
    write_atomically(folder / "manifest.csv", csv_rows(rows).encode())


def write_attribution(
    folder: Path, attribution: Attribution, numbers: Sequence[int], *, few_shot: Sequence[str]
) -> None:
    """Write beside the samples which few-shot images explain each of them, best first.

    Images with a share of 0 to four digits explain nothing and are left out.

    Args:
        folder: of the samples.
        attribution: of the samples.
        numbers: of the samples within the run.
        few_shot: names of the few-shot images, in the order of `attribution`.
    """
    keys, rows = ("file", "rank", "few_shot", "share"), []
    each = zip(numbers, attribution.indices.tolist(), attribution.shares.tolist(), strict=True)
    for number, indices, shares in each:
        for rank, (index, share) in enumerate(zip(indices, shares, strict=True), start=1):
            if (rounded := f"{share:.4f}") != "0.0000":
                values = (sample_file(number), rank, few_shot[index], rounded)
                rows.append(dict(zip(keys, values, strict=True)))
    write_atomically(folder / "attribution.csv", csv_rows(rows, keys).encode())


_SAMPLES = "[0-9][0-9][0-9][0-9][0-9]*.png"


def sample_file(number: int) -> str:
    """Name the file of a sample by its number within the run."""
    return f"{number:05d}.png"


def read_samples(folder: Path, count: int) -> torch.Tensor:
    """Read the first samples of a run back, in $[-1, 1]$, shape (count, 3, H, W)."""
    files = sorted(folder.glob("*.png"))[:count]
    pictures = []
    for file in files:
        with Image.open(file) as picture:
            pictures.append(torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1))
    return torch.stack(pictures).float() / 127.5 - 1


def _finite(value: Any) -> Any:  # noqa: ANN401 any JSON value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
