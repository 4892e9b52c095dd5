"""A frozen model as a run uses it: loaded when a stage first needs it, named by its weights."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.models.pretrained import ASSETS, load_pipeline, load_schedule, weights_file


@dataclass(frozen=True)
class FrozenModel:
    """A diffusers pipeline folder and what is known about it.

    Attributes:
        name: of the model in tables.
        path: the pipeline folder; a relative one is looked for in the package's assets, then below
            the working directory.
        resolution: pixels a side of its images.
        channels: of its images.
        in_domain_features: extractor name -> file of features of real pictures of the model's own
            domain (relative to the package's assets). Where there is none, samples of the model
            stand for its domain.
    """

    name: str
    path: str
    resolution: int
    channels: int = 3
    in_domain_features: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The pipeline folder.

        Raises:
            FileNotFoundError: there is none.
        """
        places = [ASSETS / str(self.path), Path(str(self.path))]
        for place in places:
            if place.is_dir():
                return place
        raise FileNotFoundError(
            f"the weights of model {self.name} are missing: looked for a pipeline folder at "
            + " and ".join(str(place) for place in places)
            + "; set model.path to one, or install the package again"
        )

    @cached_property
    def schedule(self) -> Schedule:
        """The noise schedule, read without loading the network."""
        return load_schedule(self.folder)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over weights and configuration: the identity of the frozen model.

        Raises:
            FileNotFoundError: a file is missing.
        """
        sha256 = hashlib.sha256()
        folder = self.folder
        for file in (
            weights_file(folder),
            folder / "unet" / "config.json",
            folder / "scheduler" / "scheduler_config.json",
        ):
            if not file.is_file():
                raise FileNotFoundError(
                    f"{file} is missing: model.path must name a whole diffusers pipeline folder"
                )
            sha256.update(file.read_bytes())
        return sha256.hexdigest()

    @cached_property
    def denoiser(self) -> Denoiser:
        """The network, loaded at first use.

        Raises:
            ValueError: it makes images of another resolution or number of channels.
        """
        denoiser = load_pipeline(self.folder)
        config = json.loads((self.folder / "unet" / "config.json").read_text())
        if config.get("sample_size") != self.resolution:
            raise ValueError(
                f"model.resolution must be {config.get('sample_size')}, as {self.folder} says, got "
                f"{self.resolution}"
            )
        if config.get("in_channels") != self.channels:
            raise ValueError(
                f"model.channels must be {config.get('in_channels')}, as {self.folder} says, got "
                f"{self.channels}"
            )
        return denoiser

    def in_domain_file(self, extractor: str) -> Path | None:
        """Features of real in-domain pictures under `extractor`, if they are known."""
        file = self.in_domain_features.get(extractor)
        return None if file is None else ASSETS / file
