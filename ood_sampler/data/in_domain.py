"""Images of the domain that a model was trained on."""

from functools import partial

from ood_sampler.data.domain import SourceImages
from ood_sampler.data.sources import open_source
from ood_sampler.data.split import Scan, inspect


def in_domain_images(root: str, most: int, *, resolution: int, key: str) -> SourceImages:
    """Choose images of the model's own domain, in a random order that is always the same.

    Unreadable ones and duplicates are left out.

    Args:
        root: folder, zip archive or LMDB database.
        most: images, at most.
        resolution: of the items.
        key: of the configuration that names `root`, for messages.

    Raises:
        FileNotFoundError: `root` does not exist.
    """
    source = open_source(root, key=key)
    look = partial(inspect, source, resolution=resolution)
    chosen = Scan(source, look, seed=0).take(most, "in-domain", {})
    return SourceImages(source, chosen, resolution=resolution)
