"""Closeness of a decoded image to the inverted one: MSE, PSNR, SSIM."""

from typing import NamedTuple, cast

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.image import structural_similarity_index_measure

from ood_sampler.metrics.feature_sets import stack

_DATA_RANGE = 2.0
_WINDOW = 11
# SSIM needs several kilobytes per pixel for its windows.
_PIXELS = 2**16


class ReconstructionScores(NamedTuple):
    """Float64 scores per image, shape $(N,)$; `psnr` in dB, infinite for equal images."""

    mse: Tensor
    psnr: Tensor
    ssim: Tensor


def reconstruction(x: Tensor, x_0: Tensor) -> ReconstructionScores:
    r"""Compare images with their originals, one by one.

    $\text{MSE}$ is the mean over channels and pixels of $(x - x_0)^2$, $\text{PSNR} =
    10 \log_{10} (4 / \text{MSE})$ as images span $[-1, 1]$, and SSIM is that of torchmetrics (Wang
    et al., 2004: Gaussian window of 11 pixels, $\sigma = 1.5$, mean over channels).

    Args:
        x: Images in [-1, 1], shape $(B, C, H, W)$, $H, W \ge 11$.
        x_0: Originals, of the same shape.
    """
    if x.shape != x_0.shape or x.ndim != 4:
        raise ValueError(
            f"x must have the shape (B, C, H, W) of x_0, got {tuple(x.shape)} "
            f"and {tuple(x_0.shape)}"
        )
    if min(x.shape[2:]) < _WINDOW:
        raise ValueError(
            f"x must be at least {_WINDOW} pixels high and wide (the SSIM window), "
            f"got {tuple(x.shape[2:])}"
        )
    size = max(1, _PIXELS // (x.shape[2] * x.shape[3]))
    blocks = zip(x.split(size), x_0.split(size), strict=True)
    scores = [_scores(block.double(), originals.double()) for block, originals in blocks]
    return ReconstructionScores(*(torch.cat(values) for values in zip(*scores, strict=True)))


def _scores(x: Tensor, x_0: Tensor) -> ReconstructionScores:
    mse = (x - x_0).square().mean(dim=(1, 2, 3))
    ssim = structural_similarity_index_measure(x, x_0, data_range=_DATA_RANGE, reduction="none")
    return ReconstructionScores(
        mse, 10 * (_DATA_RANGE**2 / mse).log10(), cast(Tensor, ssim).reshape(-1)
    )


class Reconstruction(Metric):
    """`reconstruction` per image, so that means and medians do not depend on batches.

    `compute` returns `ReconstructionScores`; torchmetrics squeezes those of a single image to $()$.
    """

    is_differentiable = False
    full_state_update = False

    mse: list[Tensor]
    psnr: list[Tensor]
    ssim: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ReconstructionScores._fields:
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, x: Tensor, x_0: Tensor) -> None:
        """Add images and their originals, in [-1, 1], shape $(B, C, H, W)$."""
        for name, values in reconstruction(x, x_0)._asdict().items():
            getattr(self, name).append(values)

    def compute(self) -> ReconstructionScores:
        return ReconstructionScores(
            *(stack(getattr(self, name), name=name) for name in ReconstructionScores._fields)
        )
