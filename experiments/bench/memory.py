"""Peak memory of whole runs at 256x256: it must not grow with the number of images.

A small random network, so that the images are not hidden behind the model's own memory.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.bench.table import Ratio

GOAL = 1.10
SMALL, LARGE, HELD_OUT = 16, 64, 16
RESOLUTION = 256

WAIT = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss)
sys.exit(bool(status))
"""
"""A small process between: a peak begins with the size of the process that starts the run."""


def save_network(folder: Path) -> None:
    """A random network of 0.4 M parameters in the layout of a published pipeline."""
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=RESOLUTION,
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        attention_head_dim=8,
    )
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(folder)


def save_pictures(folder: Path, count: int) -> None:
    """Images of different shapes as JPEG files."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        size = (300 + 5 * index, 290)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(
            folder / f"{index:03d}.jpg"
        )


def peak(root: Path, count: int) -> float:
    """Gigabytes at the peak of a run that inverts `count` images and makes as many."""
    command = [
        sys.executable,
        "-m",
        "ood_sampler.run",
        "model=diffusers",
        "model.name=random",
        f"model.path={root / 'model'}",
        f"model.resolution={RESOLUTION}",
        "data=folder",
        f"data.root={root / 'pictures'}",
        f"data.few_shot={count}",
        f"data.held_out={HELD_OUT}",
        f"num_samples={count}",
        "solver=ddim",
        "solver.steps=2",
        "logger=none",
        "trainer=cpu",
        f"output={root / f'outputs{count}'}",
    ]
    ended = subprocess.run([sys.executable, "-c", WAIT, *command], capture_output=True, text=True)  # noqa: S603
    if ended.returncode:
        sys.exit(f"the run failed: {' '.join(command)}\n{ended.stderr}")
    return int(ended.stdout) * 1024 / 1e9


def measure() -> Iterator[Ratio]:
    """Yield the ratio of both peaks."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        save_network(root / "model")
        save_pictures(root / "pictures", LARGE + HELD_OUT)
        small, large = peak(root, SMALL), peak(root, LARGE)
    yield Ratio(
        name=f"peak memory of a run, {LARGE} images / {SMALL}",
        measured=large / small,
        goal=GOAL,
        at_most=True,
        detail=f"{large:.2f} GB, {small:.2f} GB; {RESOLUTION}x{RESOLUTION}, whole processes",
    )
