"""Explorers to test pages with."""

import torch
from torch import Tensor

from ood_sampler.data.radiation import FieldScale
from ood_sampler.report.explorer import Explorer, FilmReel, Named, SampleRecord


def photographs(count: int, size: int, seed: int) -> Tensor:
    """Images with as much detail as photographs have: amplitudes that fall with the frequency."""
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.fft.fftfreq(size).square()
    fall = (frequency[:, None] + frequency[None]).sqrt().clamp(min=1 / size)
    noise = torch.randn(count, 3, size, size, generator=generator)
    images = torch.fft.ifft2(torch.fft.fft2(noise) / fall).real
    images = images - images.mean((1, 2, 3), keepdim=True)
    return (images / (2.5 * images.std((1, 2, 3), keepdim=True))).clamp(-1, 1)


def record(number: int, few_shot: int) -> SampleRecord:
    """Every third a near-copy, every fifth captured; the worst has the highest number."""
    return SampleRecord(
        number=number,
        file=f"samples/{number:05d}.png",
        near_copy=number % 3 == 0,
        captured=number % 5 == 0,
        authentic=number % 3 > 0,
        realism=2 / (1 + number),
        blend_pair=0.5 + number / 1000,
        neighbours=[Named((number + k) % few_shot, 1.5 + number % 7 + k) for k in range(5)],
        parts=[Named((2 * number + k) % few_shot, 0.5 / 2**k) for k in range(5)],
    )


def make_explorer(
    samples: int = 20,
    few_shot: int = 12,
    others: int = 8,
    *,
    size: int = 16,
    scale: FieldScale | None = None,
    film: bool = True,
) -> Explorer:
    counts = {"samples": samples, "few_shot": few_shot, "held_out": others, "in_domain": others}
    generator = torch.Generator().manual_seed(1)
    edge = min(size, 64)
    return Explorer(
        images={
            kind: photographs(count, size, seed)
            for seed, (kind, count) in enumerate(counts.items())
        },
        # samples on a diagonal, so that a rectangle around half of the plane holds half of them
        points={
            kind: torch.linspace(-1, 1, count)[:, None].expand(-1, 2)
            if kind == "samples"
            else torch.rand(count, 2, generator=generator) * 2 - 1
            for kind, count in counts.items()
        },
        axes=(0.5, 0.25),
        judge="imagenet",
        samples=[record(number, few_shot) for number in range(samples)],
        few_shot=[f"<few> & {k}" for k in range(few_shot)],
        total=samples,
        film=FilmReel(
            up=photographs(16, edge, 5).reshape(2, 8, 3, edge, edge),
            down=photographs(36, edge, 6).reshape(2, 9, 2, 3, edge, edge),
            up_steps=[0, *range(40, 320, 40)],
            down_steps=[*range(280, -1, -40), -1],
            few_shot=["a", "b"],
            numbers=[0, 1],
        )
        if film
        else None,
        scale=scale,
        unit="K" if scale else None,
        files=[("samples/", "all samples as PNG files")],
    )
