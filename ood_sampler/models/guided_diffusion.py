"""Networks in the format of guided-diffusion ("improved DDPM").

Nichol & Dhariwal, 2021; Dhariwal & Nichol, 2021, sec. 3. Blocks are numbered flat, from the input
to the output; a `UNet2DModel` sorts them by level.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor

from ood_sampler.models.architecture import (
    check_agreement,
    check_image_size,
    flag,
    integer,
    integers,
    numbers,
    read_fields,
)
from ood_sampler.models.state import State, rename, within

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "qkv": "qkv", "proj_out": "to_out.0"}

_CHANNEL_MULT = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    32: (1, 2, 2, 2),
}
"""Meaning of an empty `channel_mult`, by image size (32: improved-diffusion)."""

_FIELDS = {
    "image_size": integer,
    "in_channels": integer,
    "num_channels": integer,
    "num_res_blocks": integer,
    "channel_mult": numbers,
    "attention_resolutions": integers,
    "num_heads": integer,
    "num_head_channels": integer,
    "num_heads_upsample": integer,
    "use_scale_shift_norm": flag,
    "resblock_updown": flag,
    "conv_resample": flag,
    "learn_sigma": flag,
    "class_cond": flag,
    "use_new_attention_order": flag,
}
_TRAINING = {"dropout", "use_checkpoint", "use_fp16"}


@dataclass(frozen=True, kw_only=True)
class GuidedDiffusion:
    """Architecture, in the names of the original `create_model` where it has one.

    Attributes:
        num_channels: width of the first level.
        num_res_blocks: residual blocks per level.
        channel_mult: width of each level over `num_channels`.
        attention_factors: the downsampling factors whose levels have attention.
        num_head_channels: width of an attention head, or -1, where `num_heads` is their number.
        num_heads_upsample: -1, or the same number.
        out_channels: twice `in_channels` where the variance is learned.
        use_new_attention_order: in memory, queries, keys and values are thirds of all channels,
            not of each head.
        num_classes: classes that the network is conditioned on, or None.
        image_size: side in pixels, if known.

    Raises:
        ValueError: a `UNet2DModel` cannot express it.
    """

    name: ClassVar[str] = "guided-diffusion"
    anchor: ClassVar[str] = "output_blocks.0.0.in_layers.0.weight"

    num_channels: int
    num_res_blocks: int
    channel_mult: tuple[float, ...]
    attention_factors: tuple[int, ...]
    num_head_channels: int = -1
    num_heads: int | None = None
    num_heads_upsample: int = -1
    in_channels: int = 3
    out_channels: int = 3
    resblock_updown: bool = False
    use_scale_shift_norm: bool = False
    use_new_attention_order: bool = False
    num_classes: int | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        if self.channel_mult[0] != 1:
            raise ValueError(
                f"channel_mult must begin with 1, got {self.channel_mult[0]:g}: a UNet2DModel has "
                "no first level of another width than its time embedding"
            )
        if self.num_head_channels == -1:
            self._check_constant_heads()
        name, divisor = (
            ("num_heads", self.num_heads)
            if self.num_head_channels == -1
            else ("num_head_channels", self.num_head_channels)
        )
        for width in self.attention_widths:
            if not divisor or divisor < 1 or width % divisor:
                raise ValueError(f"{name} must divide the attention width {width}, got {divisor}")
        check_image_size(self.image_size, halvings=len(self.channel_mult) - 1)

    def _check_constant_heads(self) -> None:
        if self.num_heads is None:
            raise ValueError(
                "num_head_channels (or num_heads) must be given in architecture.model: the shapes "
                "of the weights do not show the attention heads; 64 is usual"
            )
        if self.num_heads_upsample not in (-1, self.num_heads):
            raise ValueError(
                f"num_heads_upsample must be -1 or num_heads={self.num_heads}, got "
                f"{self.num_heads_upsample}: a UNet2DModel has the same heads up and down"
            )
        if self.num_heads > 1 and len(self.attention_widths) > 1:
            raise ValueError(
                f"num_heads must be 1 or the attention of one width, got num_heads="
                f"{self.num_heads} at widths {self.attention_widths}: a UNet2DModel has one width "
                "of head for all levels"
            )

    @classmethod
    def from_state(cls, state: State, architecture: Mapping[str, Any], *, source: object) -> Self:
        """Read the architecture off the weights, and check the given fields against them.

        Args:
            state: the original state dict.
            architecture: its section `model` has keyword arguments of the original `create_model`.
                Only the attention heads (`num_head_channels` or `num_heads`) and
                `use_new_attention_order` (default false) do not show in the weights. Where
                `class_cond` is false, an embedding of classes is left out.
            source: the file, for messages.

        Raises:
            ValueError: a field is missing, contradicts the weights, or cannot be expressed.
            KeyError: the weights are not whole.
        """
        given = read_fields("model", architecture.get("model"), _FIELDS, ignored=_TRAINING)
        found = infer(state)
        if not given.pop("conv_resample", True):
            raise ValueError("conv_resample must be true, got false: pooling is not implemented")
        if given.get("channel_mult") == ():
            given["channel_mult"] = _channel_mult(given.get("image_size"))
        known = found | {
            "class_cond": found["num_classes"] is not None,
            "learn_sigma": found["out_channels"] == 2 * found["in_channels"],
        }
        levels = [2**level for level in range(len(found["channel_mult"]))]
        if "attention_resolutions" in given:
            image_size = _image_size(given, "attention_resolutions")
            # the original ignores resolutions that no level has
            given["attention_resolutions"] = tuple(
                sorted(
                    {
                        resolution
                        for resolution in given["attention_resolutions"]
                        if resolution > 0 and image_size // resolution in levels
                    }
                )
            )
            known["attention_resolutions"] = tuple(
                sorted(image_size // factor for factor in found["attention_factors"])
            )
        if given.get("class_cond") is False:
            # research forks keep an embedding of classes that their network ignores
            found["num_classes"], known["class_cond"] = None, False
        check_agreement(given, known, source=source)
        return cls(**found, **{key: given[key] for key in _FREE if key in given})

    @property
    def widths(self) -> list[int]:
        return [round(factor * self.num_channels) for factor in self.channel_mult]

    @property
    def attention(self) -> list[bool]:
        """Which levels have attention."""
        return [2**level in self.attention_factors for level in range(len(self.channel_mult))]

    @property
    def attention_widths(self) -> list[int]:
        """The different widths of attention; the middle block always has it."""
        levels = zip(self.widths, self.attention, strict=True)
        return sorted({self.widths[-1], *(width for width, has_it in levels if has_it)})

    @property
    def head_channels(self) -> int | None:
        """Width of an attention head; None where every attention has one head."""
        if self.num_head_channels != -1:
            return self.num_head_channels
        return None if self.num_heads == 1 else self.widths[-1] // (self.num_heads or 1)

    def unet_config(self) -> dict[str, Any]:
        """Write the architecture as keyword arguments of `UNet2DModel`."""
        kind = "resnet" if self.resblock_updown else "conv"
        plain = "Resnet{0}sampleBlock2D" if self.resblock_updown else "{0}Block2D"
        blocks = [("Attn{0}Block2D" if has_it else plain) for has_it in self.attention]
        return {
            "sample_size": self.image_size,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "block_out_channels": tuple(self.widths),
            "layers_per_block": self.num_res_blocks,
            "down_block_types": tuple(block.format("Down") for block in blocks),
            "up_block_types": tuple(block.format("Up") for block in reversed(blocks)),
            "downsample_type": kind,
            "upsample_type": kind,
            "downsample_padding": 1,
            "norm_num_groups": 32,
            # None would leave the attention in the middle without its norm under scale_shift
            "attn_norm_num_groups": 32,
            "norm_eps": 1e-5,
            "attention_head_dim": self.head_channels,
            "resnet_time_scale_shift": "scale_shift" if self.use_scale_shift_norm else "default",
            "flip_sin_to_cos": True,
            "freq_shift": 0,
            "num_class_embeds": self.num_classes,
        }

    def time_proj(self) -> None:
        """None: the sinusoid of diffusers is the original one."""

    def convert(self, state: State, *, source: object) -> dict[str, Tensor]:
        """Rename and reshape the original weights into those of `UNet2DModel`.

        Label embeddings are dropped where `num_classes` is None: the network then ignores classes,
        as research forks of the format do.

        Raises:
            ValueError: weights are missing or unexpected.
        """
        state = dict(state)
        classes = state.pop("label_emb.weight", None)
        converted = rename(
            state, dict(self._modules()), optional=frozenset({"skip_connection"}), source=source
        )
        for name in [name for name in converted if ".qkv." in name]:
            thirds = self._split(converted.pop(name))
            for key, third in zip("qkv", thirds, strict=True):
                converted[name.replace("qkv", f"to_{key}")] = third
        for name in [name for name in converted if name.endswith("to_out.0.weight")]:
            converted[name] = converted[name].flatten(1)
        if self.num_classes is not None and classes is not None:
            converted["class_embedding.weight"] = classes
        return converted

    def _split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Split rows into those of queries, keys and values; weights become matrices."""
        qkv = qkv.flatten(1) if qkv.ndim > 1 else qkv
        head_channels = self.head_channels or len(qkv) // 3
        if not head_channels or len(qkv) % (3 * head_channels):
            raise ValueError(
                "qkv must have three rows for each channel of its attention heads, got "
                f"{len(qkv)} rows with heads of {head_channels}; check num_head_channels"
            )
        if self.use_new_attention_order:
            return qkv.chunk(3)
        # rows are [head][q, k, v][channel of the head]
        return tuple(
            part.flatten(0, 1) for part in qkv.unflatten(0, (-1, 3, head_channels)).unbind(1)
        )

    def _modules(self) -> Iterator[tuple[str, str]]:
        """Pairs of names of modules, original and new."""
        yield "time_embed.0", "time_embedding.linear_1"
        yield "time_embed.2", "time_embedding.linear_2"
        yield "input_blocks.0.0", "conv_in"
        yield "out.0", "conv_norm_out"
        yield "out.2", "conv_out"
        yield from within("middle_block.0", "mid_block.resnets.0", _RESNET)
        yield from within("middle_block.1", "mid_block.attentions.0", _ATTENTION)
        yield from within("middle_block.2", "mid_block.resnets.1", _RESNET)
        levels, depth = len(self.channel_mult), self.num_res_blocks
        for level, has_attention in enumerate(self.attention):
            new = f"down_blocks.{level}"
            first = 1 + level * (depth + 1)
            yield from _blocks("input_blocks", first, depth, new, attention=has_attention)
            if level < levels - 1:
                old = f"input_blocks.{first + depth}.0"
                yield from self._resampler(old, "op", f"{new}.downsamplers.0")
        for level, has_attention in enumerate(reversed(self.attention)):
            new = f"up_blocks.{level}"
            first = level * (depth + 1)
            yield from _blocks("output_blocks", first, depth + 1, new, attention=has_attention)
            if level < levels - 1:
                old = f"output_blocks.{first + depth}.{2 if has_attention else 1}"
                yield from self._resampler(old, "conv", f"{new}.upsamplers.0")

    def _resampler(self, old: str, convolution: str, new: str) -> Iterator[tuple[str, str]]:
        if self.resblock_updown:
            yield from within(old, new, _RESNET)
        else:
            yield f"{old}.{convolution}", f"{new}.conv"


def _blocks(
    old: str, first: int, count: int, new: str, *, attention: bool
) -> Iterator[tuple[str, str]]:
    """Pairs of names of the residual blocks of a level, with their attention."""
    for j in range(count):
        yield from within(f"{old}.{first + j}.0", f"{new}.resnets.{j}", _RESNET)
        if attention:
            yield from within(f"{old}.{first + j}.1", f"{new}.attentions.{j}", _ATTENTION)


def infer(state: State) -> dict[str, Any]:
    """Read off the weights those fields of `GuidedDiffusion` that they determine.

    Raises:
        ValueError: the blocks do not make levels of equal depth.
        KeyError: the weights are not whole.
    """
    num_channels = state["time_embed.0.weight"].shape[1]
    conv_in = state["input_blocks.0.0.weight"]
    blocks = len({name.split(".")[1] for name in state if name.startswith("output_blocks.")})
    upsamplers = [block for block in range(blocks) if _upsampler(state, block)]
    depth = upsamplers[0] + 1 if upsamplers else blocks
    if depth < 2 or blocks % depth or upsamplers != list(range(depth - 1, blocks - 1, depth)):
        raise ValueError(
            f"the weights must have as many output_blocks on each level, got {blocks} with "
            f"upsamplers in {upsamplers}: not a guided-diffusion network"
        )
    # each level's residual blocks, then its downsampling
    firsts = range(1, blocks, depth)
    factors = [state[f"input_blocks.{i}.0.in_layers.2.weight"].shape[0] for i in firsts]
    first_resnet = state["input_blocks.1.0.in_layers.2.weight"].shape[0]
    return {
        "num_channels": num_channels,
        "num_res_blocks": depth - 1,
        "channel_mult": tuple(width / num_channels for width in factors),
        "attention_factors": tuple(
            2**level for level, i in enumerate(firsts) if f"input_blocks.{i}.1.qkv.weight" in state
        ),
        "in_channels": conv_in.shape[1],
        "out_channels": state["out.2.weight"].shape[0],
        "resblock_updown": "resnet" in {_upsampler(state, block) for block in upsamplers},
        "use_scale_shift_norm": (
            state["input_blocks.1.0.emb_layers.1.weight"].shape[0] == 2 * first_resnet
        ),
        "num_classes": len(state["label_emb.weight"]) if "label_emb.weight" in state else None,
    }


_FREE = (
    "num_head_channels",
    "num_heads",
    "num_heads_upsample",
    "use_new_attention_order",
    "image_size",
)
"""Fields that the weights do not show."""


def _upsampler(state: State, block: int) -> str | None:
    """Kind of the upsampler at the end of an output block, if it has one."""
    for kind, layer in (("resnet", "in_layers.0"), ("conv", "conv")):
        if any(f"output_blocks.{block}.{i}.{layer}.weight" in state for i in (1, 2)):
            return kind
    return None


def _channel_mult(image_size: int | None) -> tuple[float, ...]:
    if image_size not in _CHANNEL_MULT:
        raise ValueError(
            f"channel_mult must be given for image_size={image_size}: empty, it is known for "
            f"{', '.join(map(str, _CHANNEL_MULT))} alone"
        )
    return _CHANNEL_MULT[image_size]


def _image_size(given: Mapping[str, Any], field: str) -> int:
    if "image_size" not in given:
        raise ValueError(f"image_size must be given in architecture.model with {field}")
    return int(given["image_size"])
