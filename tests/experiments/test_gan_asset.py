"""The command that ships a GAN, on a generator of a few weights."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file

from ood_sampler.config import CONF
from ood_sampler.models.gan import load_generator
from ood_sampler.models.style_generator import StyleGenerator

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "experiments" / "assets")
        yield importlib.import_module("gan")


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """The folder of a training that still runs: two snapshots, and its configuration."""
    folder = tmp_path / "training"
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(60):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{i}.png")
    network = {"channels": [6, 6, 4, 4], "width": 5, "mapping": 1}
    recipe = OmegaConf.merge({"seed": 0}, OmegaConf.load(CONF / "recipe" / "gan.yaml"))
    given = {
        "seed": 0,
        "images": 500,
        "data": {"root": str(pictures), "resolution": 32},
        "network": {"_target_": "x", **network},
        "module": OmegaConf.to_container(recipe.module, resolve=True),
        "trainer": {"precision": recipe.trainer.precision},
    }
    OmegaConf.save(OmegaConf.create(given), folder / "config.yaml")
    for seen in (128, 256):
        torch.manual_seed(seen)
        weights = StyleGenerator(**network).state_dict()  # type: ignore[arg-type]
        save_file(weights, folder / f"weights_{seen:09d}.safetensors")
    return folder


def test_the_newest_snapshot_ships_with_a_card(
    script: ModuleType,
    training: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    # samples of the diffusion model take long
    beside = torch.rand(60, 3, 32, 32) * 2 - 1
    monkeypatch.setattr(script, "samples", lambda denoiser, count, steps: beside[:count])
    monkeypatch.setattr(script, "MOMENT_SAMPLES", 60)
    command = ["--training", str(training), "--out", str(out), "--samples", "60"]
    monkeypatch.setattr(sys, "argv", ["gan.py", *command])
    script.main()
    newest = load_file(training / "weights_000000256.safetensors")
    stored = load_file(out / "generator.safetensors")
    assert {name: value.half() for name, value in newest.items()}.keys() == stored.keys()
    assert all(torch.equal(stored[name], value.half()) for name, value in newest.items())
    assert load_generator(out).resolution == 32
    text = (out / "CARD.md").read_text()
    assert (
        "256 images seen (4 steps of\n  64).\n  An early stop: the training was to see 500." in text
    )
    for line in ("| **dog32_gan** |", "| dog32 |", "| real training images |", "| 128 |"):
        assert text.count(f"\n{line}") == 1
    assert "FID, imagenet ↓ | KID × 10³, imagenet ↓ | FID, features32 ↓" in text
    with Image.open(out / "samples.png") as picture:
        assert picture.mode == "RGB"
