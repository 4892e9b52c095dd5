"""Networks in the format of Esser's PyTorch port of DDPM (Ho et al., 2020, app. B).

Song et al., 2021 (DDIM) use the same. `up.0` is the highest resolution; every attention has one
head.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ood_sampler.models.architecture import (
    check_agreement,
    check_image_size,
    flag,
    integer,
    integers,
    numbers,
    read_fields,
    word,
)
from ood_sampler.models.state import State, rename, within

_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "temb_proj": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "nin_shortcut": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}

_DATA = {
    "image_size": integer,
    "channels": integer,
    "rescaled": flag,
    "logit_transform": flag,
}
_LOADING = {
    "category",
    "dataset",
    "gaussian_dequantization",
    "num_workers",
    "random_flip",
    "uniform_dequantization",
}
_MODEL = {
    "type": word,
    "in_channels": integer,
    "out_ch": integer,
    "ch": integer,
    "ch_mult": numbers,
    "num_res_blocks": integer,
    "attn_resolutions": integers,
    "resamp_with_conv": flag,
}
_TRAINING = {"dropout", "var_type", "ema", "ema_rate"}


@dataclass(frozen=True, kw_only=True)
class PesserDDPM:
    """Architecture, in the names of the original `model` section where it has one.

    Attributes:
        ch: width of the first level.
        ch_mult: width of each level over `ch`.
        num_res_blocks: residual blocks per level.
        attention_factors: the downsampling factors whose levels have attention.
        resamp_with_conv: resample by convolutions, not by average pooling and repetition.
        image_size: side in pixels, if known.

    Raises:
        ValueError: a `UNet2DModel` cannot express it.
    """

    name: ClassVar[str] = "pesser-ddpm"
    anchor: ClassVar[str] = "temb.dense.0.weight"
    num_classes: ClassVar[None] = None

    ch: int
    ch_mult: tuple[float, ...]
    num_res_blocks: int
    attention_factors: tuple[int, ...]
    in_channels: int = 3
    out_ch: int = 3
    resamp_with_conv: bool = True
    image_size: int | None = None

    def __post_init__(self) -> None:
        if self.ch_mult[0] != 1:
            raise ValueError(
                f"ch_mult must begin with 1, got {self.ch_mult[0]:g}: a UNet2DModel has no first "
                "level of another width than its first convolution"
            )
        check_image_size(self.image_size, halvings=len(self.ch_mult) - 1)

    @classmethod
    def from_state(cls, state: State, architecture: Mapping[str, Any], *, source: object) -> Self:
        """Read the architecture off the weights, and check the given fields against them.

        Args:
            state: the original state dict. It determines all but `image_size`.
            architecture: its sections `data` and `model` are those of the original yaml.
            source: the file, for messages.

        Raises:
            ValueError: a field contradicts the weights, or cannot be expressed.
            KeyError: the weights are not whole.
        """
        data = read_fields("data", architecture.get("data"), _DATA, ignored=_LOADING)
        given = read_fields("model", architecture.get("model"), _MODEL, ignored=_TRAINING)
        if given.get("type", "simple") != "simple":
            raise ValueError(f"type must be simple, got {given['type']}")
        if not data.get("rescaled", True) or data.get("logit_transform"):
            raise ValueError(
                "rescaled must be true and logit_transform false: images are in [-1, 1] here"
            )
        found = infer(state)
        known = found | {"channels": found["in_channels"]}
        image_size = data.get("image_size")
        if "attn_resolutions" in given:
            if image_size is None:
                raise ValueError(
                    "image_size must be given in architecture.data with attn_resolutions"
                )
            # the original ignores resolutions that no level has
            levels = [image_size // 2**level for level in range(len(found["ch_mult"]))]
            given["attn_resolutions"] = tuple(sorted({*given["attn_resolutions"]} & {*levels}))
            known["attn_resolutions"] = tuple(
                sorted(image_size // factor for factor in found["attention_factors"])
            )
        check_agreement(data | given, known, source=source)
        return cls(**found, image_size=image_size)

    def unet_config(self) -> dict[str, Any]:
        """Write the architecture as keyword arguments of `UNet2DModel`."""
        attention = [2**level in self.attention_factors for level in range(len(self.ch_mult))]
        blocks = ["Attn{0}Block2D" if has_it else "{0}Block2D" for has_it in attention]
        return {
            "sample_size": self.image_size,
            "in_channels": self.in_channels,
            "out_channels": self.out_ch,
            "block_out_channels": tuple(round(factor * self.ch) for factor in self.ch_mult),
            "layers_per_block": self.num_res_blocks,
            "down_block_types": tuple(block.format("Down") for block in blocks),
            "up_block_types": tuple(block.format("Up") for block in reversed(blocks)),
            "downsample_padding": 0,
            "norm_num_groups": 32,
            "norm_eps": 1e-6,
            "attention_head_dim": None,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
        }

    def time_proj(self) -> nn.Module:
        """Make the original sinusoid, in place of the one of diffusers."""
        return Sinusoid(self.ch)

    def convert(self, state: State, *, source: object) -> dict[str, Tensor]:
        """Rename and reshape the original weights into those of `UNet2DModel`.

        Raises:
            ValueError: weights are missing or unexpected.
        """
        converted = rename(
            state, dict(self._modules()), optional=frozenset({"nin_shortcut"}), source=source
        )
        for name, value in converted.items():
            if ".attentions." in name and value.ndim > 1:
                converted[name] = value.flatten(1)
        return converted if self.resamp_with_conv else converted | self._fixed_kernels()

    def _modules(self) -> Iterator[tuple[str, str]]:
        """Pairs of names of modules, original and new."""
        yield "temb.dense.0", "time_embedding.linear_1"
        yield "temb.dense.1", "time_embedding.linear_2"
        yield "conv_in", "conv_in"
        yield "norm_out", "conv_norm_out"
        yield "conv_out", "conv_out"
        yield from within("mid.block_1", "mid_block.resnets.0", _RESNET)
        yield from within("mid.attn_1", "mid_block.attentions.0", _ATTENTION)
        yield from within("mid.block_2", "mid_block.resnets.1", _RESNET)
        levels = len(self.ch_mult)
        for level in range(levels):
            yield from self._level(f"down.{level}", f"down_blocks.{level}", level, up=False)
            yield from self._level(f"up.{level}", f"up_blocks.{levels - 1 - level}", level, up=True)
            if self.resamp_with_conv and level < levels - 1:
                yield f"down.{level}.downsample.conv", f"down_blocks.{level}.downsamplers.0.conv"
                up = f"up_blocks.{levels - 2 - level}"
                yield f"up.{level + 1}.upsample.conv", f"{up}.upsamplers.0.conv"

    def _level(self, old: str, new: str, level: int, *, up: bool) -> Iterator[tuple[str, str]]:
        for j in range(self.num_res_blocks + up):
            yield from within(f"{old}.block.{j}", f"{new}.resnets.{j}", _RESNET)
            if 2**level in self.attention_factors:
                yield from within(f"{old}.attn.{j}", f"{new}.attentions.{j}", _ATTENTION)

    def _fixed_kernels(self) -> dict[str, Tensor]:
        """Average pooling and repetition as convolutions, with zeros and powers of two alone."""
        widths = [round(factor * self.ch) for factor in self.ch_mult]
        mean, same = torch.zeros(3, 3), torch.zeros(3, 3)
        mean[:2, :2] = 0.25
        same[1, 1] = 1
        kernels = {}
        for level in range(len(widths) - 1):
            for name, kernel, width in (
                (f"down_blocks.{level}.downsamplers.0.conv", mean, widths[level]),
                (f"up_blocks.{level}.upsamplers.0.conv", same, widths[-1 - level]),
            ):
                kernels[f"{name}.weight"] = torch.einsum("io,hw->iohw", torch.eye(width), kernel)
                kernels[f"{name}.bias"] = torch.zeros(width)
        return kernels


class Sinusoid(nn.Module):
    r"""Embed timesteps as $(\sin t \omega_i, \cos t \omega_i)$, $\omega_i = 10000^{-i / (n - 1)}$.

    Vaswani et al., 2017, sec. 3.5, as tensor2tensor has it. Diffusers rounds the exponents in
    another order, which moves the embedding by up to 3e-5.

    Args:
        width: $2n$.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, t: Tensor) -> Tensor:
        half = self.width // 2
        i = torch.arange(half, dtype=torch.float32, device=t.device)
        omega = torch.exp(i * -(math.log(10_000) / (half - 1)))
        angle = t.float()[:, None] * omega
        return nn.functional.pad(torch.cat([angle.sin(), angle.cos()], 1), (0, self.width % 2))


def infer(state: State) -> dict[str, Any]:
    """Read the architecture off the weights, which determine all but `image_size`.

    Raises:
        KeyError: the weights are not whole.
    """
    ch = state["conv_in.weight"].shape[0]
    levels = len({name.split(".")[1] for name in state if name.startswith("down.")})
    widths = [state[f"down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)]
    return {
        "ch": ch,
        "ch_mult": tuple(width / ch for width in widths),
        "num_res_blocks": sum(
            name.startswith("down.0.block.") and name.endswith(".conv1.weight") for name in state
        ),
        "attention_factors": tuple(
            2**level for level in range(levels) if f"down.{level}.attn.0.q.weight" in state
        ),
        "in_channels": state["conv_in.weight"].shape[1],
        "out_ch": state["conv_out.weight"].shape[0],
        "resamp_with_conv": levels == 1 or "down.0.downsample.conv.weight" in state,
    }
