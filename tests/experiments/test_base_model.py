"""The commands that made the frozen models, on a network of a few weights."""

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from ood_sampler.diffusion.denoiser import VelocityDenoiser
from ood_sampler.models.pretrained import load_pipeline

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "network.block_out_channels=[16,16,16,16]",
    "network.attention_head_dim=16",
    "module.batch_size=2",
    "images=8",
    "snapshot_every=2",
    "checkpoint_every=3",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "trainer.log_every_n_steps=1",
    "compile=false",
)


@pytest.fixture(scope="module")
def base_model() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "experiments" / "assets")
        yield importlib.import_module("base_model")


def train(pictures: Path, output: Path, *overrides: str) -> None:
    command = [sys.executable, "-m", "ood_sampler.train", "name=dog32"]
    given = [f"data.root={pictures}", f"output={output}", *SMALL, *overrides]
    subprocess.run([*command, *given], check=True, capture_output=True, cwd=ROOT)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    pictures = folder / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{i}.png")
    # stopped in the middle, and gone on with
    train(pictures, folder / "dog32", "images=4")
    train(pictures, folder / "dog32")
    return folder / "dog32"


@pytest.mark.slow
def test_a_training_leaves_a_pipeline_that_predicts_the_velocity(training: Path) -> None:
    assert isinstance(load_pipeline(training / "pipeline"), VelocityDenoiser)
    names = sorted(path.name for path in training.glob("weights_*"))
    assert names == ["weights_000000004.safetensors", "weights_000000008.safetensors"]


@pytest.mark.slow
def test_the_export_is_half_precision_with_a_card_of_what_was_measured(
    base_model: ModuleType, training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_model, "SNAPSHOT_SAMPLES", 4)
    monkeypatch.setattr(base_model, "SNAPSHOT_STEPS", 2)
    monkeypatch.setattr(base_model, "STEPS", 2)
    monkeypatch.setattr(base_model, "REAL", 6)
    options = ["--training", str(training), "--out", str(tmp_path), "--samples", "64"]
    further = ["--before", str(training / "pipeline"), "--after", "4"]
    monkeypatch.setattr(sys, "argv", ["base_model.py", "dog32", *options, *further])
    base_model.main()

    shipped, whole = load_pipeline(tmp_path), load_pipeline(training / "pipeline")
    x, t = torch.ones(1, 3, 32, 32), torch.tensor(500)
    torch.testing.assert_close(shipped.eps(x, t), whole.eps(x, t), rtol=0, atol=1e-2)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size < 2.2 * sum(p.numel() for p in whole.parameters())
    card = (tmp_path / "CARD.md").read_text()
    assert "8 images seen (4 steps of" in card
    assert re.findall(r"images=(\d+)`", card) == ["4", "8"]
    assert "base_model.py dog32 --after 4`" in card
    assert [line.split(" | ")[0] for line in card.splitlines()[-2:]] == ["| 4", "| 8"]
    assert "weights shipped before" in card
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.width == picture.height > 8 * 32
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.slow
def test_losses_of_a_part_that_was_trained_twice_are_the_last(
    base_model: ModuleType, tmp_path: Path
) -> None:
    for version, rows in ((0, "2,0.9\n4,0.8"), (10, "6,0.1"), (9, "4,0.7\n6,0.6")):
        folder = tmp_path / "curves" / f"version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(f"train/images,train/loss\n{rows}\n")
    assert base_model.losses(tmp_path) == {2: 0.9, 4: 0.7, 6: 0.1}
