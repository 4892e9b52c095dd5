"""Intra-LPIPS (Ojha et al., 2021): diversity around each few-shot image, measured by LPIPS."""

from collections.abc import Iterator
from importlib.resources import as_file, files
from math import isqrt
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from ood_sampler.metrics.base import Figures, SetMetric
from ood_sampler.metrics.feature_sets import check_sets, distinct
from ood_sampler.metrics.weights import find_weights
from ood_sampler.statistics.intervals import mean_interval, with_bounds
from ood_sampler.store.tensor_files import read_state

SIDE = 64
"""Side in pixels of the input of LPIPS: its last map then has 4x4 positions."""

_ADDRESS = "https://download.pytorch.org/models/vgg16-397923af.pth"
_SHA256 = "397923af"
"""First digits of the file's SHA-256, as in its name."""

_LAYERS = (3, 8, 15, 22, 29)
"""Layers of VGG-16: the last rectified map of each resolution."""

_TINY = 1e-10
"""Added to the length of a feature, as in the code of LPIPS."""

# Bounds memory: an embedding takes 2 MB.
_BATCH = 32
_REFERENCES = 256


class LpipsEmbedding(nn.Module):
    r"""Map images to vectors whose squared distance is LPIPS (Zhang et al., 2018, eq. 1).

    With $\hat y^l$ the features of VGG-16 at layer $l$, of length 1 at each of $H_l W_l$ positions,
    and $w_l \ge 0$ the weights of channels (version 0.1, those of torchmetrics),

    $$\text{LPIPS}(x, x') = \sum_l \frac{1}{H_l W_l} \sum_{h, w}
    \| \sqrt{w_l} \odot (\hat y^l_{hw} - \hat y'^l_{hw}) \|^2 = \| e(x) - e(x') \|^2$$

    Images are resized to 64x64, small ones enlarged, by antialiased bicubic interpolation. The
    literature uses 256x256: its values are not comparable.

    Args:
        weights: torchvision's VGG-16, or its folder; None takes the `checkpoints` folder of
            `torch.hub`.
        download: fetch the file if it is missing.

    Raises:
        FileNotFoundError: the weights are missing.
        ValueError: the file holds other weights.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, *, weights: str | Path | None, download: bool) -> None:
        super().__init__()
        key = "metrics.pictures.intra_lpips"
        path = find_weights(weights, key=key, address=_ADDRESS, download=download, sha256=_SHA256)

        from torchvision.models import vgg16

        # no memory for the classifier, or for weights that are replaced immediately
        with torch.device("meta"):
            self.layers = vgg16(weights=None).features[: _LAYERS[-1] + 1]
        state = {
            name.removeprefix("features."): weight
            for name, weight in read_state(path).items()
            if name.startswith("features.")
        }
        try:
            self.layers.load_state_dict(state, assign=True)
        except RuntimeError as error:
            raise ValueError(
                f"{path} must hold the weights of VGG-16: fetch {_ADDRESS} ({error})"
            ) from error
        with as_file(files("torchmetrics") / "functional/image/lpips_models/vgg.pth") as file:
            heads = read_state(file)
        for i in range(len(_LAYERS)):
            self.register_buffer(f"head{i}", heads[f"lin{i}.model.1.weight"])
        for name, values in (("shift", (-0.030, -0.088, -0.188)), ("scale", (0.458, 0.448, 0.450))):
            self.register_buffer(name, torch.tensor(values)[:, None, None])
        self.float().requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode whatever `mode` is: the network is frozen."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images in $[-1, 1]$, $(B, 3, h, h)$, as float32 vectors, $(B, D)$."""
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            images = images.float()
            if images.shape[-2:] != (SIDE, SIDE):
                images = functional.interpolate(
                    images, (SIDE, SIDE), mode="bicubic", antialias=True
                ).clamp(-1, 1)
            maps = (images - self.shift) / self.scale
            parts: list[Tensor] = []
            for index, layer in enumerate(self.layers):
                maps = layer(maps)
                if index in _LAYERS:
                    head: Tensor = getattr(self, f"head{len(parts)}")
                    unit = maps / (maps.square().sum(1, keepdim=True).sqrt() + _TINY)
                    positions = maps.shape[2] * maps.shape[3]
                    parts.append((unit * (head / positions).sqrt()).flatten(1))
            return torch.cat(parts, dim=1)


def as_images(vectors: Tensor) -> Tensor:
    """Return flattened images, $(N, 3 h^2)$, as square images of three channels, $(N, 3, h, h)$.

    Raises:
        ValueError: they have another number of values.
    """
    side = isqrt(vectors.shape[1] // 3)
    if vectors.shape[1] != 3 * side**2:
        raise ValueError(
            "images must be square and have three channels, 3 h^2 values, "
            f"got {vectors.shape[1]} values"
        )
    images: Tensor = vectors.unflatten(1, (3, side, side))
    return images


class IntraLpips(SetMetric):
    r"""Mean LPIPS of new images that belong to the same few-shot image (Ojha et al., 2021).

    The `diversity` of pixels instead of features, with LPIPS as the distance, both to assign new to
    few-shot images and within clusters. As LPIPS is a squared distance, its mean over the pairs of
    a cluster needs no pairs:

    $$\binom{n}{2}^{-1} \sum_{i < j} \|e_i - e_j\|^2
    = \frac{2}{n - 1} \Big( \sum_i \|e_i\|^2 - n \|\bar e\|^2 \Big)$$

    Its values are `intra_lpips`, with an interval over clusters if there are two, and
    `intra_lpips_clusters`, the number of clusters with at least two members. Without such clusters
    `intra_lpips` is missing.

    Args:
        weights: torchvision's VGG-16, or its folder; None takes the `checkpoints` folder of
            `torch.hub`.
        download: fetch the file if it is missing.
        seed: of the resampling of clusters.

    Raises:
        FileNotFoundError: the weights are missing.
        ValueError: the file holds other weights.
    """

    higher_is_better = True
    sets = ("new", "few_shot")

    def __init__(
        self, *, weights: str | Path | None = None, download: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        self.embedding = LpipsEmbedding(weights=weights, download=download)
        self.seed = seed

    def figures(self, **vectors: Tensor) -> Figures:
        """Compute the values of flattened images in $[-1, 1]$, $(N, 3 h^2)$ and $(M, 3 h^2)$."""
        new, few_shot = vectors["new"], vectors["few_shot"]
        check_sets(few_shot=few_shot, new=new)
        images, pictures = as_images(new), as_images(distinct(few_shot))
        cluster = self.nearest(images, pictures)
        spreads = [
            self.spread(images[cluster == j])
            for j, count in enumerate(cluster.bincount().tolist())
            if count >= 2
        ]
        figures = {"intra_lpips_clusters": float(len(spreads))}
        if len(spreads) == 1:
            figures["intra_lpips"] = float(spreads[0])
        elif spreads:
            interval = mean_interval(torch.stack(spreads), seed=self.seed)
            figures |= with_bounds({"intra_lpips": interval})
        return figures

    def nearest(self, images: Tensor, pictures: Tensor) -> Tensor:
        """Find the nearest few-shot image to each image by LPIPS, index of shape $(N,)$."""
        least = torch.full((len(images),), torch.inf, device=images.device)
        found = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        for start in range(0, len(pictures), _REFERENCES):
            block = torch.cat(list(self._embed(pictures[start : start + _REFERENCES])))
            lengths = block.square().sum(1)
            # without the squared length of the image, which is the same for all few-shot images
            parts = [lengths - 2 * embedded @ block.T for embedded in self._embed(images)]
            distance, index = torch.cat(parts).min(dim=1)
            found = torch.where(distance < least, start + index, found)
            least = torch.minimum(least, distance)
        return found

    def spread(self, images: Tensor) -> Tensor:
        """Return the mean LPIPS of all pairs of at least two images, a float64 scalar."""
        total = lengths = torch.zeros((), dtype=torch.float64, device=images.device)
        for embedded in self._embed(images):
            lengths = lengths + embedded.double().square().sum()
            total = total + embedded.double().sum(0)
        count = len(images)
        return (2 / (count - 1) * (lengths - total.square().sum() / count)).clamp(min=0)

    def _embed(self, images: Tensor) -> Iterator[Tensor]:
        for batch in images.split(_BATCH):
            yield self.embedding(batch)
