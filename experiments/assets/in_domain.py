r"""Features of real images of what the base models were trained on, as the judges see them.

A run compares its samples with them, to tell which fell to the model's own domain. They are of the
1,000 test images of a class of CIFAR-10: numbers in float16, no images.

    python experiments/assets/in_domain.py --data FOLDER     with test/dog.zip and test/ship.zip

writes `<class>_test_features.safetensors` into `ood_sampler/assets/imagenet`. Those of `features32`
are written when it is trained (`features32.py`), in float32.
"""

import argparse
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from ood_sampler.metrics.features import EMBEDDED, FeatureExtractor
from ood_sampler.metrics.imagenet import ImageNetFeatures
from ood_sampler.store.files import write_atomically

DOMAINS = ("dog", "ship")
"""Classes of CIFAR-10 that `dog32` and `ship32` were trained on."""

_BATCH = 100


def read_zip(path: Path) -> Tensor:
    """Return the images of a zip file in the order of their names, uint8 (N, 3, 32, 32)."""
    with zipfile.ZipFile(path) as archive:
        pictures = []
        for name in sorted(archive.namelist()):
            with archive.open(name) as file, Image.open(file) as picture:
                pictures.append(np.array(picture.convert("RGB")))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def to_float(images: Tensor) -> Tensor:
    """Map uint8 images to [-1, 1]."""
    return images.float() / 127.5 - 1


@torch.inference_mode()
def store(extractor: FeatureExtractor, data: Path, folder: Path, *, dtype: torch.dtype) -> None:
    """Write the features of each class.

    Args:
        extractor: the judge's.
        data: folder with test/<class>.zip.
        folder: where to.
        dtype: of the stored features.
    """
    for domain in DOMAINS:
        pictures = to_float(read_zip(data / "test" / f"{domain}.zip"))
        features = torch.cat([extractor(batch) for batch in torch.split(pictures, _BATCH)])
        metadata = {
            "content": f"{extractor.name} of the 1,000 {domain} test images of CIFAR-10, in the "
            "order of the files",
            "protocol": extractor.protocol,
            "digest": extractor.digest,
        }
        path = folder / f"{domain}_test_features.safetensors"
        write_atomically(path, save({"features": features.to(dtype)}, metadata))


def main() -> None:
    """Write those of imagenet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with test/")
    arguments = parser.parse_args()
    extractor = ImageNetFeatures()
    store(extractor, arguments.data, EMBEDDED.parent / extractor.name, dtype=torch.float16)


if __name__ == "__main__":
    main()
