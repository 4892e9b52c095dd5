"""Films: frames side by side, forth and back, as GIF."""

import io
from collections.abc import Mapping, Sequence

from PIL import Image
from torch import Tensor

from ood_sampler.report.grid import strip

_MILLISECONDS = 90
"""Time that a frame is shown."""

_COLOURS = 128
"""Of the palette of a frame; more make files larger than the eye notices at this size."""


def film(paths: Mapping[str, Sequence[Tensor]]) -> bytes:
    """Show paths of images at once, a row for each kind of path and a column for each pair.

    Args:
        paths: by the name of the row, the frames of each of its paths, in [-1, 1], shape
            (F, 3, R, R), with one F for all.

    Returns:
        A GIF that runs forth and back without end.
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
        image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
        frames.append(image.quantize(_COLOURS, dither=Image.Dither.NONE))
    data = io.BytesIO()
    order = [*frames, *frames[-2:0:-1]]
    order[0].save(
        data,
        format="GIF",
        save_all=True,
        append_images=order[1:],
        duration=_MILLISECONDS,
        loop=0,
        optimize=True,
    )
    return data.getvalue()
