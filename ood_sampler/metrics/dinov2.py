"""Features of DINOv2, trained without labels and recommended by the field for new work."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ood_sampler.metrics.features import FeatureExtractor, check_images, quantise
from ood_sampler.metrics.weights import find_weights
from ood_sampler.store.tensor_files import read_state

SIZE = 224
"""Side in pixels of the network's input, as in torch-fidelity and dgm-eval."""

_PATCH = 14
_HEAD = 64
"""Channels per attention head."""

_GRID = 37
"""Patches per side, at 518 pixels, for which the file holds positions."""

_OFFSET = 0.1
"""Added to the requested grid when positions are resized, as its authors do."""

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's colours, for values in [0, 1]."""


class _Variant(NamedTuple):
    width: int
    depth: int
    model: str

    @property
    def address(self) -> str:
        folder = f"https://dl.fbaipublicfiles.com/dinov2/{self.model}"
        return f"{folder}/{self.model}_pretrain.pth"


VARIANTS = {
    "vit-s-14": _Variant(384, 12, "dinov2_vits14"),
    "vit-b-14": _Variant(768, 12, "dinov2_vitb14"),
    "vit-l-14": _Variant(1024, 24, "dinov2_vitl14"),
}
_RECOMMENDED = "vit-l-14"


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        parts = self.qkv(tokens).unflatten(2, (3, -1, _HEAD)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts.unbind())
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


class _Perceptron(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        projected: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return projected


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, tokens: Tensor) -> Tensor:
        scaled: Tensor = tokens * self.gamma
        return scaled


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(width)
        self.ls1 = _Scale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _Perceptron(width)
        self.ls2 = _Scale(width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        tokens = tokens + self.ls2(self.mlp(self.norm2(tokens)))
        return tokens


class VisionTransformer(nn.Module):
    """The network of DINOv2 (Oquab et al., 2024, appendix B), with weights named as in its files.

    Pre-normalised blocks of attention and perceptron, scaled channel by channel before the residual
    sum (Touvron et al., 2021), on patches of 14 pixels and one class token.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, _PATCH, stride=_PATCH)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + _GRID**2, width))
        # Used only in training, but present in the files.
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.blocks = nn.Sequential(*(_Block(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """Return the class token, $(B, width)$, of images $(B, 3, H, H)$, $H$ a multiple of 14."""
        patches = self.patch_embed["proj"](images)
        patches = (patches + self._positions(patches.shape[-1])).flatten(2).transpose(1, 2)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(images), -1, -1)
        tokens = self.blocks(torch.cat([first, patches], dim=1))
        normalised: Tensor = self.norm(tokens[:, 0])
        return normalised

    def _positions(self, side: int) -> Tensor:
        """Resize patch positions to a grid of `side` patches, (1, width, side, side)."""
        grid: Tensor = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (_GRID, _GRID))
        if side == _GRID:
            return grid
        scale = (side + _OFFSET) / _GRID
        resized: Tensor = functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
        return resized


class Dinov2Features(FeatureExtractor):
    """The class token of DINOv2 (Oquab et al., 2024), after the last normalisation.

    Stein et al. (2023) recommend it instead of Inception, as ViT-L/14. Images are quantised to 8
    bits, as in files, and resized to 224x224. Features are not normalised, as in dgm-eval and
    torch-fidelity: the last layer normalisation gives all of them about the same size.

    torch-fidelity 0.4 accepts no file of weights, and runs code that `torch.hub` downloads. Here
    the network is part of the package, and the file is read as data only.

    Args:
        variant: `vit-s-14`, `vit-b-14` or `vit-l-14`; all but the last are part of the name.
        weights: the file of weights, or its folder; None takes the `checkpoints` folder of
            `torch.hub`.
        download: fetch the file if it is missing.

    Raises:
        FileNotFoundError: the weights are missing.
        ValueError: `variant` is unknown, or the file holds other weights.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        *,
        variant: str = _RECOMMENDED,
        weights: str | Path | None = None,
        download: bool = False,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant}")
        width, depth, model = VARIANTS[variant]
        self.width = width
        self.name = "dinov2" if variant == _RECOMMENDED else f"dinov2-{variant}"
        self.protocol = (
            f"{self.name}: class token ({width}) of DINOv2 {variant} after the last normalisation, "
            f"not normalised further; images quantised to 8 bits and resized to {SIZE}x{SIZE} by "
            "antialiased bicubic interpolation"
        )
        path = find_weights(
            weights,
            key="metrics.spaces.dinov2",
            address=VARIANTS[variant].address,
            download=download,
        )
        # no memory for weights that are replaced immediately
        with torch.device("meta"):
            self.network = VisionTransformer(width, depth)
        try:
            self.network.load_state_dict(read_state(path), assign=True)
        except RuntimeError as error:
            raise ValueError(
                f"{path} must hold the weights of {model} (variant {variant}): set "
                "metrics.spaces.dinov2.variant "
                f"to that of the file, or fetch {VARIANTS[variant].address} ({error})"
            ) from error
        self.network.float()
        for name, values in (("mean", _MEAN), ("deviation", _DEVIATION)):
            levels = 255 * torch.tensor(values)[:, None, None]
            self.register_buffer(name, levels, persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        check_images(images)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            levels = quantise(images).float()
            if levels.shape[-2:] != (SIZE, SIZE):
                levels = functional.interpolate(
                    levels, (SIZE, SIZE), mode="bicubic", antialias=True
                ).clamp(0, 255)
            features: Tensor = self.network((levels - self.mean) / self.deviation)
            return features
