"""A generator of a GAN as a frozen model."""

import json
from pathlib import Path

import safetensors.torch
import torch

from ood_sampler.models.style_generator import StyleGenerator
from ood_sampler.store.files import write_atomically

WEIGHTS = "generator.safetensors"
CONFIG = "config.json"


def save_generator(
    generator: StyleGenerator, folder: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Save a generator with what builds it: `generator.safetensors` and `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: v.to(dtype).contiguous() for name, v in generator.state_dict().items()}
    write_atomically(folder / WEIGHTS, safetensors.torch.save(weights))
    config = {
        "channels": list(generator.channels),
        "width": generator.width,
        "mapping": len(generator.mapping),
    }
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
