"""Measures of one bright object per image: its colour, its axis ratio, its size.

They need no network and no training, and so can check what a probe of features says. What they mean
for other images is left to their agreement with labels (`agreement`).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ood_sampler.metrics.morphology import largest_region
from ood_sampler.statistics.resampling import Interval, bootstrap

MEASURES = ("colour", "axis_ratio", "size")
"""Names of the measures, which are those of the labels that they stand for."""

_THRESHOLD = 0.03
"""Share of full brightness above that of the border from which on a pixel counts."""


def appearance(images: Tensor) -> Mapping[str, Tensor]:
    r"""Measure images, shape $(N, 3, H, W)$ in $[-1, 1]$; each measure float64, shape $(N,)$.

    Light is what exceeds the median of the border, in the largest connected region of pixels whose
    mean of colours exceeds it by 3% of full brightness. `colour` is
    $2.5 \log_{10}$ of the light in red over that in blue; with the eigenvalues
    $\lambda_1 \ge \lambda_2$ of the second moments of the light about its centroid, `axis_ratio` is
    $\sqrt{\lambda_2 / \lambda_1}$ and `size` $\sqrt{\lambda_1}$ in pixels. They are NaN where there
    is no light.
    """
    levels = (images.double() + 1) / 2
    border = torch.cat(
        [levels[..., 0, :], levels[..., -1, :], levels[..., 1:-1, 0], levels[..., 1:-1, -1]], dim=-1
    )
    light = levels - border.median(dim=-1).values[..., None, None]
    grey = light.mean(1)
    counts = _largest(grey > _THRESHOLD)
    red, blue = (light[:, band].clamp(min=0).where(counts, 0.0).sum((1, 2)) for band in (0, 2))
    weights = grey.where(counts, 0.0)
    y, x = torch.meshgrid(*(torch.arange(side).double() for side in grey.shape[1:]), indexing="ij")
    total = weights.sum((1, 2))
    total = total.where(total > 0, torch.nan)
    mean_x, mean_y = ((weights * axis).sum((1, 2)) / total for axis in (x, y))
    dx, dy = x - mean_x[:, None, None], y - mean_y[:, None, None]
    xx, yy, xy = (
        (weights * product).sum((1, 2)) / total for product in (dx * dx, dy * dy, dx * dy)
    )
    half, root = (xx + yy) / 2, (((xx - yy) / 2).square() + xy.square()).sqrt()
    return {
        "colour": 2.5 * (red / blue.where(blue > 0, torch.nan)).log10(),
        "axis_ratio": ((half - root).clamp(min=0) / (half + root)).sqrt(),
        "size": (half + root).sqrt(),
    }


def _largest(masks: Tensor) -> Tensor:
    return torch.stack([torch.from_numpy(largest_region(mask)) for mask in masks.numpy()])


def agreement(measured: Tensor, labels: Tensor) -> Interval:
    """Squared correlation of a measure with a label, both of shape (N,), over finite values."""
    both = torch.stack([measured.double(), labels.double()], dim=1)
    return bootstrap(_squared_correlation, both[both.isfinite().all(1)])


def _squared_correlation(rows: Tensor) -> Tensor:
    x, y = (rows - rows.mean(0)).unbind(1)
    return (x * y).sum().square() / (x.square().sum() * y.square().sum()).clamp(min=1e-30)
