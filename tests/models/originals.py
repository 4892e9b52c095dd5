"""The two research networks in their original layout, as small as they can be written.

Names of attributes are the names of weights. They follow the description of the formats, not the
conversion, and are themselves checked against outputs of the original code (`fixtures/`).
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad, silu

FIXTURES = Path(__file__).parent / "fixtures"


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def norm(width: int, eps: float) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=eps)


def conv(width: int, out: int, **options: int) -> nn.Conv2d:
    return nn.Conv2d(width, out, 3, **{"padding": 1, **options})  # type: ignore[arg-type]


def double(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2.0, mode="nearest")


def halve(x: Tensor) -> Tensor:
    return avg_pool2d(x, 2)


def frequencies(half: int, over: int) -> Tensor:
    return torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10_000) / over))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of one head over positions, each (B, C, N)."""
    weights = (torch.einsum("bcn,bcm->bnm", q, k) / math.sqrt(q.shape[1])).softmax(-1)
    return torch.einsum("bnm,bcm->bcn", weights, v)


class ResBlock(nn.Module):
    def __init__(
        self,
        width: int,
        out: int,
        embedding: int,
        scale_shift: bool,
        resample: Callable[[Tensor], Tensor] = nn.Identity(),  # noqa: B008
    ) -> None:
        super().__init__()
        self.resample, self.scale_shift = resample, scale_shift
        self.in_layers = nn.Sequential(norm(width, 1e-5), nn.SiLU(), conv(width, out))
        size = 2 * out if scale_shift else out
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, size))
        self.out_layers = nn.Sequential(norm(out, 1e-5), nn.SiLU(), nn.Identity(), conv(out, out))
        self.skip_connection = nn.Identity() if width == out else nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.in_layers[2](self.resample(self.in_layers[:2](x)))
        e = self.emb_layers(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(self.resample(x)) + h


class AttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int, new_order: bool) -> None:
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = norm(width, 1e-5)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x).flatten(2))
        width = x.shape[1] // self.heads
        heads = []
        for head in range(self.heads):
            if self.new_order:
                starts = [third * x.shape[1] + head * width for third in range(3)]
            else:
                starts = [(3 * head + third) * width for third in range(3)]
            heads.append(attend(*(qkv[:, start : start + width] for start in starts)))
        return x + self.proj_out(torch.cat(heads, 1)).reshape(x.shape)


class Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = conv(width, width, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(double(x))


class OriginalGuidedDiffusion(nn.Module):
    """Blocks are flat; `heads` maps a width to its number of heads."""

    def __init__(
        self,
        *,
        width: int = 32,
        mult: tuple[int, ...] = (1, 1, 2),
        depth: int = 1,
        attention: tuple[int, ...] = (4,),
        heads: Callable[[int], int] = lambda width: width // 16,
        out: int = 3,
        updown: bool = False,
        scale_shift: bool = False,
        new_order: bool = False,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        embedding = 4 * width
        self.width = width
        self.time_embed = nn.Sequential(
            nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if classes is not None:
            self.label_emb = nn.Embedding(classes, embedding)

        def resnet(before: int, after: int, *resample: Callable[[Tensor], Tensor]) -> ResBlock:
            return ResBlock(before, after, embedding, scale_shift, *resample)

        def attend_at(width: int) -> AttentionBlock:
            return AttentionBlock(width, heads(width), new_order)

        widths = [width * factor for factor in mult]
        skips = [width]
        self.input_blocks = nn.ModuleList([nn.ModuleList([conv(3, width)])])
        now = width
        for level, wide in enumerate(widths):
            for _ in range(depth):
                block = [resnet(now, wide)]
                now = wide
                block += [attend_at(now)] if 2**level in attention else []  # type: ignore[list-item]
                self.input_blocks.append(nn.ModuleList(block))
                skips.append(now)
            if level < len(widths) - 1:
                down = resnet(now, now, halve) if updown else Downsample(now)
                self.input_blocks.append(nn.ModuleList([down]))
                skips.append(now)
        self.middle_block = nn.ModuleList([resnet(now, now), attend_at(now), resnet(now, now)])
        self.output_blocks = nn.ModuleList()
        for level, wide in reversed(list(enumerate(widths))):
            for i in range(depth + 1):
                layers: list[nn.Module] = [resnet(now + skips.pop(), wide)]
                now = wide
                layers += [attend_at(now)] if 2**level in attention else []
                if level and i == depth:
                    layers.append(resnet(now, now, double) if updown else Upsample(now))
                self.output_blocks.append(nn.ModuleList(layers))
        self.out = nn.Sequential(norm(now, 1e-5), nn.SiLU(), conv(now, out))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        angles = t.float()[:, None] * frequencies(self.width // 2, self.width // 2)
        embedding = self.time_embed(torch.cat([angles.cos(), angles.sin()], 1).to(x.dtype))
        if labels is not None:
            embedding = embedding + self.label_emb(labels)

        def run(block: nn.Module, h: Tensor) -> Tensor:
            for layer in block.children():
                h = layer(h, embedding) if isinstance(layer, ResBlock) else layer(h)
            return h

        skips, h = [], x
        for block in self.input_blocks:
            h = run(block, h)
            skips.append(h)
        h = run(self.middle_block, h)
        for block in self.output_blocks:
            h = run(block, torch.cat([h, skips.pop()], 1))
        return self.out(h)


class ResnetBlock(nn.Module):
    def __init__(self, width: int, out: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(width, 1e-6), conv(width, out)
        self.temb_proj = nn.Linear(embedding, out)
        self.norm2, self.conv2 = norm(out, 1e-6), conv(out, out)
        if width != out:
            self.nin_shortcut = nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x))) + self.temb_proj(silu(embedding))[:, :, None, None]
        h = self.conv2(silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = norm(width, 1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))
        return x + self.proj_out(attend(q, k, v).reshape(x.shape))


class Named(nn.Module):
    """A module that only names others."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


class OriginalPesser(nn.Module):
    def __init__(
        self,
        *,
        ch: int = 32,
        mult: tuple[int, ...] = (1, 2, 2),
        depth: int = 1,
        attention: tuple[int, ...] = (2,),
        with_conv: bool = True,
    ) -> None:
        super().__init__()
        embedding = 4 * ch
        self.ch, self.with_conv = ch, with_conv
        dense = nn.ModuleList([nn.Linear(ch, embedding), nn.Linear(embedding, embedding)])
        self.temb = Named(dense=dense)
        self.conv_in = conv(3, ch)
        widths = [ch * factor for factor in mult]
        skips, now = [ch], ch
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, wide in enumerate(widths):
            self.down.append(Named(block=nn.ModuleList(), attn=nn.ModuleList()))
            for _ in range(depth):
                self.down[level].block.append(ResnetBlock(now, wide, embedding))
                now = wide
                skips.append(now)
                if 2**level in attention:
                    self.down[level].attn.append(AttnBlock(now))
            if level < len(widths) - 1:
                skips.append(now)
                if with_conv:
                    halving = conv(now, now, stride=2, padding=0)
                    self.down[level].add_module("downsample", Named(conv=halving))
        self.mid = Named(
            block_1=ResnetBlock(now, now, embedding),
            attn_1=AttnBlock(now),
            block_2=ResnetBlock(now, now, embedding),
        )
        for level, wide in reversed(list(enumerate(widths))):
            self.up.insert(0, Named(block=nn.ModuleList(), attn=nn.ModuleList()))
            for _ in range(depth + 1):
                self.up[0].block.append(ResnetBlock(now + skips.pop(), wide, embedding))
                now = wide
                if 2**level in attention:
                    self.up[0].attn.append(AttnBlock(now))
            if level and with_conv:
                self.up[0].add_module("upsample", Named(conv=conv(now, now)))
        self.norm_out, self.conv_out = norm(now, 1e-6), conv(now, 3)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t.float()[:, None] * frequencies(self.ch // 2, self.ch // 2 - 1)
        embedding = torch.cat([angles.sin(), angles.cos()], 1).to(x.dtype)
        embedding = self.temb.dense[1](silu(self.temb.dense[0](embedding)))
        h = self.conv_in(x)
        skips = [h]
        for level, part in enumerate(self.down):
            for i, block in enumerate(part.block):
                h = block(h, embedding)
                h = part.attn[i](h) if len(part.attn) else h
                skips.append(h)
            if level < len(self.down) - 1:
                h = part.downsample.conv(pad(h, (0, 1, 0, 1))) if self.with_conv else halve(h)
                skips.append(h)
        h = self.mid.block_1(h, embedding)
        h = self.mid.block_2(self.mid.attn_1(h), embedding)
        for level, part in reversed(list(enumerate(self.up))):
            for i, block in enumerate(part.block):
                h = block(torch.cat([h, skips.pop()], 1), embedding)
                h = part.attn[i](h) if len(part.attn) else h
            if level:
                h = part.upsample.conv(double(h)) if self.with_conv else double(h)
        return self.conv_out(silu(self.norm_out(h)))


def randomized(network: nn.Module) -> nn.Module:
    """Draw all weights, so that no part of the network is silent; queries and keys are large."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        fan_in = max(1, parameter[0].numel())
        scale = 2.0 if ".qkv." in name or ".q." in name or ".k." in name else 1.0
        draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.data = (centre + scale * draw / math.sqrt(fan_in) * 0.8).float()
    return network.requires_grad_(False)


def inputs(size: int = 16, count: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64)
    return x, torch.tensor([0, 421, 999])[:count]
