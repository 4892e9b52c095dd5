from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

NAMES = {
    "strategy": "cog (2)",
    "real": "real images",
    "in_domain": "in-domain samples",
    "lerp": "lerp (2) in pixels",
    "control": "cog (2) in pixels",
}


def row(name: str, role: str, kid: float, error: float) -> dict[str, Any]:
    return {
        "name": name,
        "role": role,
        "samples": 400,
        "fid": 12.345,
        "kid": kid,
        "kid_standard_error": error,
        "precision": 0.7,
        "recall": 0.8,
        "density": 1.1,
        "coverage": 0.9,
        "authenticity": 0.5,
        "near_copies": 0.03125,
        "captured": 0.01,
        "blend_pair": 0.6,
        "blend_five": 0.7,
    }


@pytest.fixture
def results() -> dict[str, Any]:
    spread = torch.linspace(0.5, 0.7, 400).tolist()
    return {
        "run": {
            "model": "dog32",
            "data": "galaxy32",
            "sampler": "cog",
            "step": 500,
            "steps": 50,
            "eta": 0.0,
            "seed": 0,
            "num_samples": 400,
            "solver": "ddim",
        },
        "protocol": {
            "features": "features32",
            "few-shot images": 500,
            "held-out images": 400,
            "nearest_k": 5,
        },
        "rows": [
            row(NAMES["strategy"], "strategy", 0.001, 0.0002),
            row(NAMES["real"], "reference", 0.0009, 0.0002),
            row(NAMES["in_domain"], "reference", 0.3, 0.01),
            row(NAMES["lerp"], "control", 0.02, 0.001),
            row(NAMES["control"], "control", 0.005, 0.0003),
        ],
        "reconstruction": {"psnr": 31.25, "ssim": 0.9, "mse": 0.003, "images": 120},
        "stages": [
            {"name": "invert", "images": 120, "seconds": 60, "evaluations": 26, "cached": False},
            {"name": "decode", "images": 400, "seconds": 0.1, "evaluations": 26, "cached": True},
        ],
        "distributions": {
            "nearest_distance": {"samples": spread, "held_out": spread},
            "blend_pair": {"samples": spread, "held_out": spread},
            "psnr": spread,
            "near_copies": [i % 32 == 4 for i in range(400)],
        },
        "skipped": [],
        "warnings": [],
    }


@pytest.fixture
def pictures() -> Callable[[int], Tensor]:
    def draw(count: int, size: int = 32) -> Tensor:
        grey = torch.linspace(-1, 1, count).view(-1, 1, 1, 1)
        return grey.expand(-1, 3, size, size)

    return draw
