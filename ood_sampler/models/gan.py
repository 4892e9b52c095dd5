"""A generator of a GAN as a frozen model: a folder with its weights and what builds it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ood_sampler.codecs.base import Codec
from ood_sampler.codecs.gan import Fitting, GanCodec, Generator, Space
from ood_sampler.diffusion.solvers.base import Solver
from ood_sampler.faults import BrokenFileError
from ood_sampler.metrics.features import EmbeddedFeatures, unit_size
from ood_sampler.models.generator_files import CONFIG, WEIGHTS, GeneratorFiles
from ood_sampler.models.style_generator import StyleGenerator
from ood_sampler.models.weights import ASSETS
from ood_sampler.store.files import write_atomically


class DifferentiableFeatures(nn.Module):
    """`EmbeddedFeatures` with a gradient, for images of 32x32."""

    def __init__(self) -> None:
        super().__init__()
        self.network = EmbeddedFeatures().network

    def forward(self, images: Tensor) -> Tensor:
        side = self.network.size
        if images.shape[2:] != (side, side):
            images = nn.functional.interpolate(images, (side, side), mode="area")
        features = self.network.features(images) + self.network.features(images.flip(3))
        return unit_size(features)


# without a dictionary, so that a study that holds one is told apart by its settings alone
@dataclass(frozen=True, slots=True)
class GanModel:
    """A generator: where its weights are, and how images are inverted.

    Attributes:
        name: in tables.
        resolution: side of its images in pixels.
        path: a folder with `generator.safetensors` and `config.json`, as a training with recipe=gan
            leaves it; a bare name is also looked for in the package's assets.
        space: of the codes: w, one for all layers, or w_plus, one for each.
        steps: of Adam per start; in w_plus as many again from the best code in w.
        starts: of each image: the mean code, then codes of the prior.
        learning_rate: of Adam.
        pixels: weight of the pixels' error.
        features: weight of the error in features32; 0 looks at pixels alone.
        channels: of its images.
        in_domain_features: extractor name -> file with features of real images of the model's own
            domain, relative to the package's assets. Without one, samples of the model stand for
            its domain.
    """

    name: str
    resolution: int
    path: str
    space: Space
    steps: int
    starts: int
    learning_rate: float
    pixels: float
    features: float
    channels: int = 3
    in_domain_features: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self.fitting

    @property
    def fitting(self) -> Fitting:
        """How images are inverted."""
        return Fitting(self.steps, self.starts, self.learning_rate, self.pixels, self.features)

    @property
    def files(self) -> GeneratorFiles:
        """Where the weights are looked for."""
        return GeneratorFiles(self.name, self.path)

    @property
    def has_own_domain(self) -> bool:
        """Whether it was trained on a domain: it was."""
        return True

    @property
    def is_here(self) -> bool:
        """Whether the weights are on this machine."""
        return self.files.are_here

    @property
    def missing_megabytes(self) -> float | None:
        """Size of what must be fetched before a run: None, as nothing can be.

        Raises:
            FileNotFoundError: the weights are missing.
        """
        self.files.check()
        return None

    @property
    def digest(self) -> str:
        """SHA-256 over weights and configuration.

        Raises:
            FileNotFoundError: a file is missing.
        """
        return hashlib.sha256(json.dumps(list(self.files.checksums.values())).encode()).hexdigest()

    @property
    def makers(self) -> tuple[type, ...]:
        """Its class and that of its network."""
        return (type(self), StyleGenerator)

    @property
    def generator(self) -> Generator:
        """The network, frozen, loaded at first use.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: the files do not load, or make images of another size.
        """
        generator = _shared_generator(self.files.folder, self.digest)
        if generator.resolution != self.resolution:
            raise ValueError(
                f"model.resolution must be {generator.resolution}, as {self.files.folder} says, "
                f"got {self.resolution}"
            )
        return generator

    @property
    def judge(self) -> nn.Module:
        """The features whose error an inversion minimises beside that of pixels."""
        return _shared_features()

    def codec(self, solver: Solver) -> Codec:
        """The model as a map between images and codes; a GAN needs no solver."""
        return GanCodec(self, self.space, self.fitting)

    def in_domain_file(self, extractor: str) -> Path | None:
        """File with features of real in-domain images under `extractor`, if there is one."""
        file = self.in_domain_features.get(extractor)
        return None if file is None else ASSETS / file


@lru_cache(maxsize=2)
def _shared_generator(folder: Path, digest: str) -> StyleGenerator:
    return load_generator(folder)


@lru_cache(maxsize=1)
def _shared_features() -> DifferentiableFeatures:
    return DifferentiableFeatures()


def save_generator(
    generator: StyleGenerator, folder: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Save a generator with what builds it, in the precision given."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: v.to(dtype).contiguous() for name, v in generator.state_dict().items()}
    write_atomically(folder / WEIGHTS, safetensors.torch.save(weights))
    config = {
        "channels": list(generator.channels),
        "width": generator.width,
        "mapping": len(generator.mapping),
    }
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def load_generator(folder: Path) -> StyleGenerator:
    """Load a generator, computed in float32 and frozen.

    Raises:
        FileNotFoundError: a file is missing.
        BrokenFileError: a file is damaged, or they do not fit each other.
    """
    try:
        config = json.loads((folder / CONFIG).read_text())
        generator = StyleGenerator(**config)
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        generator.load_state_dict({name: value.float() for name, value in weights.items()})
    except (SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise BrokenFileError(
            f"{folder} holds no generator: {' '.join(str(error).split())}; train it again, or "
            "install the package again if it came with it"
        ) from error
    return generator.requires_grad_(False).eval()
