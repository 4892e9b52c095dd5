"""Where the files of a configuration are: those of `conf/`, and a user's own."""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from ood_sampler.command.quoting import parse, quoted
from ood_sampler.config import CONF, Run, Training
from ood_sampler.faults import CommandError

SEARCH_PATH = "hydra.searchpath"


@dataclass(frozen=True)
class Configuration:
    """The files that a command can name.

    Attributes:
        name: of the file that lists the defaults.
        main: the folder with that file.
        more: where Hydra also looks, as it is told: file://FOLDER or pkg://PACKAGE.
    """

    name: str = "run"
    main: Path = CONF
    more: tuple[str, ...] = ()

    @property
    def root(self) -> type:
        """The structured config of the keys at the top."""
        return Training if self.name.removesuffix(".yaml") == "train" else Run

    @property
    def folders(self) -> list[Path]:
        """All folders with files, the one that counts first."""
        found = [_folder(place) for place in self.more]
        return [self.main, *(folder for folder in found if folder is not None)]

    def is_group(self, key: str) -> bool:
        """Whether a key is that of a group of options."""
        return bool(key) and any((folder / key).is_dir() for folder in self.folders)

    def groups(self) -> set[str]:
        """The names of all groups at the top."""
        return {path.name for folder in self.folders for path in folder.iterdir() if path.is_dir()}

    def options(self, group: str) -> list[str]:
        """The options of a group, sorted."""
        files = (file for folder in self.folders for file in (folder / group).glob("*.yaml"))
        return sorted({file.stem for file in files})

    def file(self, group: str, option: str) -> Path | None:
        """The file of an option."""
        name = f"{option.removesuffix('.yaml')}.yaml"
        found = (folder / group / name for folder in self.folders)
        return next((file for file in found if file.is_file()), None)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration with Hydra's own part, as far as it is known before a run.

        Raises:
            HydraException: it does not compose.
        """
        more = ",".join(quoted(place) for place in self.more)
        settings = [text for text in overrides if not text.startswith(f"{SEARCH_PATH}=")]
        if more:
            settings.append(f"{SEARCH_PATH}=[{more}]")
        with initialize_config_dir(str(self.main.absolute()), version_base="1.3"):
            return compose(self.name, settings, return_hydra_config=True)


SHIPPED = Configuration()
"""Configuration of a run, without files of a user's own."""


def find_configuration(
    overrides: Sequence[str], *, name: str, main: str | None, more: str | None
) -> Configuration:
    """Where a command has Hydra look.

    Args:
        overrides: settings of the command, among them perhaps `hydra.searchpath`.
        name: of the file that lists the defaults.
        main: what `--config-path` says.
        more: what `--config-dir` says.

    Raises:
        CommandError: a folder is not there.
    """
    places = [] if more is None else [f"file://{_existing('--config-dir', more).absolute()}"]
    for text in overrides:
        parsed = parse(text)
        if parsed is not None and parsed.key_or_group == SEARCH_PATH:
            value = parsed.value()
            places += value if isinstance(value, list) else [str(value)]
    for place in places:
        if _folder(place) is None:
            raise CommandError(
                f"{SEARCH_PATH} holds {place}, which is not there: write file:///FOLDER or "
                "pkg://PACKAGE"
            )
    folder = CONF if main is None else _existing("--config-path", main)
    if not (folder / f"{name.removesuffix('.yaml')}.yaml").is_file():
        raise CommandError(f"there is no {name}.yaml in {folder}: --config-name names another")
    return Configuration(name, folder, tuple(places))


def _existing(option: str, text: str) -> Path:
    # Hydra itself takes --config-path from the file with the program
    places: Iterator[Path | None] = iter(
        (Path(text).expanduser(), _folder(text), Path(__file__).parent / text)
    )
    found = next((folder for folder in places if folder is not None and folder.is_dir()), None)
    if found is None:
        raise CommandError(f"{option} {text} is not there: it takes a folder of YAML files")
    return found.resolve()


def _folder(place: str) -> Path | None:
    """The folder of a place that Hydra searches."""
    if not place.startswith("pkg://"):
        folder = Path(place.removeprefix("file://"))
        return folder if folder.is_dir() else None
    package, _, below = place.removeprefix("pkg://").partition("/")
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if found is None:
        return None
    roots = (Path(root) / below for root in found.submodule_search_locations or [])
    return next((root for root in roots if root.is_dir()), None)
