"""The files of a generator: a folder on disk, or among the package's assets."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ood_sampler.models.weights import ASSETS

WEIGHTS = "generator.safetensors"
CONFIG = "config.json"


@dataclass(frozen=True)
class GeneratorFiles:
    """Where a generator is looked for.

    Attributes:
        name: of the model, for messages.
        path: a folder; a bare name is also looked for in the package's assets.
    """

    name: str
    path: str

    @property
    def folder(self) -> Path:
        """The folder, there or not."""
        given = Path(self.path).expanduser()
        is_bare = given.name == self.path and not given.exists()
        return ASSETS / given if is_bare else given

    @property
    def are_here(self) -> bool:
        """Whether all files are on this machine."""
        return all(file.is_file() for file in self._files)

    @property
    def megabytes(self) -> float:
        """Size of the weights on disk."""
        return sum(file.stat().st_size for file in self._files) / 1e6

    @property
    def checksums(self) -> dict[str, str]:
        """SHA-256 of each file, computed again when a file changes.

        Raises:
            FileNotFoundError: a file is missing.
        """
        self.check()
        return {file.name: _sha256(file, file.stat().st_mtime_ns) for file in self._files}

    def check(self) -> None:
        """See that all files are there.

        Raises:
            FileNotFoundError: one is missing.
        """
        if not self.are_here:
            raise FileNotFoundError(
                f"the weights of model {self.name} are missing: {self.folder} must hold {WEIGHTS} "
                f"and {CONFIG}; set model.path to the folder `pipeline` of a training with "
                "recipe=gan"
            )

    @property
    def _files(self) -> list[Path]:
        return [self.folder / name for name in (WEIGHTS, CONFIG)]


@lru_cache(maxsize=8)
def _sha256(file: Path, changed: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
