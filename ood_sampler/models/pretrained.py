"""Diffusers pipelines as denoisers."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ood_sampler.diffusion.denoiser import EpsilonDenoiser
from ood_sampler.diffusion.schedule import Schedule

ASSETS = Path(__file__).parents[1] / "assets"


class UNet(nn.Module):
    r"""Give a diffusers `UNet2DModel` the plain call $(x_t, t) \mapsto$ prediction."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        prediction: Tensor = self.unet(x_t, t, return_dict=False)[0]
        return prediction


def load_pipeline(path: str | Path) -> EpsilonDenoiser:
    """Load a folder in the layout of a diffusers `DDPMPipeline`, in float32.

    Args:
        path: folder with `unet/` (config and safetensors weights) and `scheduler/`.

    Raises:
        FileNotFoundError: a part of the pipeline is missing.
        ValueError: the weights do not open, are not finite, or the scheduler asks for what is not
            implemented.
    """
    from diffusers import UNet2DModel

    path = Path(path)
    weights = weights_file(path)
    for part in (weights, path / "unet" / "config.json"):
        if not part.is_file():
            raise FileNotFoundError(
                f"{part} is missing: model.path must name a diffusers pipeline folder holding "
                "unet/config.json, unet/diffusion_pytorch_model.safetensors and scheduler/"
            )
    try:
        unet = UNet2DModel.from_pretrained(
            path / "unet",
            use_safetensors=True,
            torch_dtype=torch.float32,
            local_files_only=True,
            low_cpu_mem_usage=False,
        )
    except (SafetensorError, OSError, ValueError, RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{weights} must hold the weights of {path / 'unet' / 'config.json'} as safetensors, "
            f"got: {error}; fetch the file again"
        ) from error
    for name, parameter in unet.named_parameters():
        if not parameter.isfinite().all():
            raise ValueError(f"{weights} must hold finite weights, got NaN or inf in {name}")
    return EpsilonDenoiser(UNet(unet), load_schedule(path))


def load_schedule(path: Path) -> Schedule:
    """Read the noise schedule of a diffusers pipeline folder.

    Raises:
        FileNotFoundError: there is no scheduler config.
        ValueError: the model does not predict noise, or its schedule has no known name.
    """
    file = path / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing: model.path must name a whole diffusers pipeline folder"
        )
    try:
        return _schedule(json.loads(file.read_text()), file)
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} must be a diffusers scheduler config, got: {error}") from error


def _schedule(config: dict[str, Any], file: Path) -> Schedule:
    prediction = config.get("prediction_type", "epsilon")
    if prediction != "epsilon":
        raise ValueError(f"prediction_type must be epsilon, got {prediction!r} in {file}")
    if config.get("trained_betas") is not None:
        return Schedule(torch.tensor(config["trained_betas"], dtype=torch.float64))
    return Schedule.from_name(
        config["beta_schedule"],
        config["num_train_timesteps"],
        beta_start=config["beta_start"],
        beta_end=config["beta_end"],
    )


def weights_file(path: Path) -> Path:
    """Where a diffusers pipeline folder keeps its network's weights."""
    return path / "unet" / "diffusion_pytorch_model.safetensors"
