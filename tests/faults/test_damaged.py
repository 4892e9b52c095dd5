"""Damaged results are found by their checksums, told of, and computed again to the same bytes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.processes import stored
from tests.test_pipeline import pipeline

SEED = 4


def header_end(data: bytes) -> int:
    """Where the items begin in a file of safetensors."""
    return 8 + int.from_bytes(data[:8], "little")


def damage(data: bytes, kind: str, generator: np.random.Generator) -> bytes:
    if kind == "truncated":
        return data[: int(generator.integers(len(data)))]
    if not data.startswith(b"{"):
        header = header_end(data)
        place = (
            generator.integers(header)
            if kind == "header"
            else generator.integers(header, len(data))
        )
    else:
        place = generator.integers(len(data))
    damaged = bytearray(data)
    damaged[int(place)] ^= 1 << int(generator.integers(8))
    return bytes(damaged)


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        ("body", SEED),
        ("header", SEED),
        ("truncated", SEED),
        *[
            pytest.param(kind, seed, marks=pytest.mark.soak)
            for kind in ("body", "header", "truncated")
            for seed in range(SEED + 1, SEED + 8)
        ],
    ],
)
def test_damaged_results_are_told_of_and_computed_again(
    kind: str,
    seed: int,
    model_folder: Path,
    trainer: Callable[..., Any],
    undisturbed: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = stored(undisturbed)
    root = tmp_path / "artifacts"
    shutil.copytree(undisturbed, root)
    generator = np.random.default_rng(seed)
    shards = [name for name in expected if name[-11:-5].isdigit() or "00000" in name]
    chosen = {shards[i] for i in generator.choice(len(shards), 4, replace=False)}
    # what is fitted is read only where latents are drawn from it
    chosen |= {name for name in shards if name.startswith("latents-")}
    figures = [name for name in expected if name.endswith("figures.json")]
    fitted = [name for name in expected if name.endswith(".safetensors") and name not in shards]
    assert len(fitted) == 3  # of the strategy and of two controls
    # one of these fits nothing, and its file has no body
    fitted = [name for name in fitted if len(expected[name]) > header_end(expected[name])]
    chosen |= {*fitted, figures[int(generator.integers(len(figures)))]}
    for name in sorted(chosen):
        data = damage(expected[name], kind, generator)
        assert data != expected[name]
        (root / name).write_bytes(data)
    # the key of a folder is looked at when a shard is written to it
    (a_shard, *_) = sorted(chosen & set(shards))
    key = str(Path(a_shard).with_name("key.json"))
    (root / key).write_bytes(damage(expected[key], kind, generator))

    pipeline(model_folder, root, trainer).run()
    assert stored(root) == expected
    told = [message for message in caplog.messages if "is damaged" in message]
    for name in (*chosen, key):
        assert len([message for message in told if str(root / name) in message]) == 1, name
    assert len(told) == len(chosen) + 1


def test_figures_whose_digits_were_changed_are_measured_again(
    model_folder: Path, trainer: Callable[..., Any], undisturbed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "artifacts"
    shutil.copytree(undisturbed, root)
    for file in root.rglob("figures.json"):
        content = json.loads(file.read_text())
        figure = next(iter(content["content"]))
        content["content"][figure] += 1
        file.write_text(json.dumps(content))
    pipeline(model_folder, root, trainer).run()
    assert stored(root) == stored(undisturbed)
