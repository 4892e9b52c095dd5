import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

import ood_sampler.command  # noqa: F401 tells Hydra of types that conf/ names
from ood_sampler.config import CONF
from ood_sampler.diffusion.solvers import Solver
from ood_sampler.metrics.judges import Judges
from ood_sampler.models.base import Model
from ood_sampler.pipeline.correction import GaussianCorrection
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.pipeline.session import Session

# small tensors: threads cost more than they bring, and the runner may have two slow cores
torch.set_num_threads(1)

RESOLUTION = 16


def make_judges(*names: str, nearest_k: int = 3, seed: int = 0) -> Judges:
    """Build the judges of the shipped configuration; features32 alone, as it is fast."""
    metrics = OmegaConf.load(CONF / "metrics" / "imagenet.yaml")
    config = OmegaConf.create({"seed": seed, "metrics": metrics})
    config.metrics.update(judges=list(names or ("features32",)), nearest_k=nearest_k)
    built: Judges = instantiate(config.metrics)
    return built


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random network in the layout of a published pipeline."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=RESOLUTION,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    )
    folder = tmp_path_factory.mktemp("model")
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler(beta_schedule="linear")).save_pretrained(folder)
    return folder


def smooth_images(count: int, seed: int) -> Tensor:
    """Random images with structure, uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=RESOLUTION, mode="bicubic")
    return (images.clamp(0, 1) * 255).to(torch.uint8)


@pytest.fixture(scope="session")
def trainer() -> Callable[..., object]:
    import lightning

    return functools.partial(lightning.Trainer, accelerator="cpu", devices=1, precision="32-true")


def make_pipeline(
    *,
    model: Model,
    solver: Solver,
    trainer: Callable[..., Any],
    root: Path,
    **others: Any,  # noqa: ANN401
) -> Pipeline:
    """Build a run of a diffusion model, as `ood_sampler.run` does from a configuration."""
    return Pipeline(
        model=model, codec=model.codec(solver), session=Session(root, trainer), **others
    )


def make_correction(**changes: Any) -> GaussianCorrection:  # noqa: ANN401
    """A correction of the tiny model's flow, by the Gaussian of eight of its samples."""
    settings = {"weight": 1.0, "fade": 50, "in_domain": 8, "in_domain_root": None}
    return GaussianCorrection(**{**settings, "resolution": RESOLUTION, **changes})
