"""Films: frames side by side, forth and back, as WebP."""

import io
from collections.abc import Mapping, Sequence

from PIL import Image
from torch import Tensor

from ood_sampler.report.grid import strip

_MILLISECONDS = 90
"""Time that a frame is shown."""

_QUALITY = 85
"""Quality of the compression, 0 to 100; a lossless film or a GIF is six times as large."""


def film(paths: Mapping[str, Sequence[Tensor]]) -> bytes:
    """Show paths of images at once, a row for each kind of path and a column for each pair.

    Args:
        paths: by the name of the row, the frames of each of its paths, in [-1, 1], shape
            (F, 3, R, R), with one F for all.

    Returns:
        An animated WebP that runs forth and back without end.
    """
    count = len(next(iter(paths.values()))[0])
    columns = max(len(of_pairs) for of_pairs in paths.values())
    frames = []
    for k in range(count):
        picture = strip(
            [[frames_[k][None] for frames_ in of_pairs] for of_pairs in paths.values()],
            row_labels=list(paths),
            column_labels=[""] * columns,
            columns=1,
        )
        frames.append(Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()))
    data = io.BytesIO()
    order = [*frames, *frames[-2:0:-1]]
    order[0].save(
        data,
        format="WEBP",
        save_all=True,
        append_images=order[1:],
        duration=_MILLISECONDS,
        loop=0,
        quality=_QUALITY,
    )
    return data.getvalue()
