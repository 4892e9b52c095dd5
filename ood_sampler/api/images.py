"""Images in memory: what decoding makes, and a sheet to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from ood_sampler.api.loading import LoadedModel
from ood_sampler.data.domain import ImageSet
from ood_sampler.report.grid import gather, png, save_png, tile, to_uint8, viewable
from ood_sampler.report.results import sample_file
from ood_sampler.store.sets import InMemory

if TYPE_CHECKING:
    from ood_sampler.store.sets import TensorSet

_SHOWN = 32
_COLUMNS = 8


@dataclass(frozen=True, eq=False)
class Images:
    """Images that a model made, in memory; a notebook shows the first of them.

    Attributes:
        values: float32 in $[-1, 1]$, shape $(N, C, H, W)$.
        made: how, in words.
        model: that made them.
        seed: of their draws; None if nothing was drawn.

    Example:
        >>> import ood_sampler, torch
        >>> images = ood_sampler.Images(torch.zeros(2, 3, 32, 32), "grey")
        >>> images
        <2 images of 3x32x32: grey>
        >>> ood_sampler.sheet(images).size
        (198, 100)
    """

    values: Tensor
    made: str
    model: LoadedModel | None = None
    seed: int | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.values.shape[1:]))
        return f"<{len(self)} images of {size}: {self.made}>"

    def _repr_png_(self) -> bytes:
        return png(_tiled(self.values, _SHOWN, _COLUMNS))

    def save(self, folder: str | Path) -> None:
        """Write the images as PNG files, 00000.png, 00001.png, ...

        Args:
            folder: where to; made if it is not there.
        """
        for number, picture in enumerate(to_uint8(self.values)):
            save_png(picture, Path(folder).expanduser() / sample_file(number))


def sheet(
    images: Images | Tensor | ImageSet, count: int = _SHOWN, *, columns: int = _COLUMNS
) -> Image.Image:
    """Draw a sheet of images to look at; small ones are enlarged by a whole factor.

    Args:
        images: of `decode`, the `few_shot` or `held_out` of a domain, or a tensor in $[-1, 1]$ of
            shape $(N, 3, H, W)$.
        count: the first so many, at least 1.
        columns: images per line.

    Returns:
        An image of Pillow, which a notebook shows and `.save("sheet.png")` writes.

    Raises:
        ValueError: there is no image, or a number is below 1.

    Example:
        >>> import ood_sampler
        >>> galaxies = ood_sampler.load_domain("galaxy32", "data.few_shot=24")
        >>> ood_sampler.sheet(galaxies.few_shot, 16).size
        (786, 198)
    """
    values = images.values if isinstance(images, Images) else images
    if not len(values) or min(count, columns) < 1:
        raise ValueError(
            "images, count and columns must be at least 1, got "
            f"{len(values)}, {count} and {columns}"
        )
    return Image.fromarray(_tiled(values, count, columns).permute(1, 2, 0).numpy())


def _tiled(values: Tensor | ImageSet, count: int, columns: int) -> Tensor:
    shown: Sequence[int] = range(min(count, len(values)))
    items: TensorSet | ImageSet = InMemory(values) if isinstance(values, Tensor) else values
    return tile(viewable(gather(items, shown)), columns=columns)
