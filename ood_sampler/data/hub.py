"""Read image data sets of the Hugging Face hub, downloaded or from a local copy."""

from functools import partial
from pathlib import Path
from typing import Any

from ood_sampler.data.domain import TargetDomain, picture_domain
from ood_sampler.data.images import ImageError
from ood_sampler.data.listing import user_path
from ood_sampler.data.options import from_keys
from ood_sampler.data.sequences import Numbered
from ood_sampler.data.sources import MAX_BYTES, ImageSource, load_extra, read_file
from ood_sampler.data.split import Split

_SAVED = ("dataset_dict.json", "state.json")
"""Files that `save_to_disk` leaves in a folder: for several splits, for one."""


class HubImages(ImageSource):
    """Images of one split of a data set, in its order, named by their number.

    The stored bytes are returned as they are: nothing is decoded here.

    Args:
        id: `owner/name` on the hub, or a folder: of `save_to_disk`, or a clone with Parquet files
            or folders of images.
        config: Configuration name; None takes the only or default one.
        revision: Branch, tag or commit on the hub; None takes the newest, and is right for folders.
        split: Name of the split, or a slice of one, such as `train[:1000]`. A folder of
            `save_to_disk` that holds one split without a name counts as `train`.
        column: Name of the column with the images; None takes the only one.
        key: The setting that gave `split`, for error messages.

    Raises:
        FileNotFoundError: The data set is not on this machine and cannot be fetched.
        ValueError: The configuration, split or column does not exist, there are several columns of
            images, the files are damaged, or the package datasets is not installed.
    """

    def __init__(
        self,
        id: str,
        *,
        config: str | None,
        revision: str | None,
        split: str,
        column: str | None,
        key: str = "data.split",
    ) -> None:
        if not isinstance(split, str) or not split:
            raise ValueError(f"{key} must be the name of a split or a slice of one, got {split!r}")
        datasets = load_extra("datasets", use=f"data.id={id}")
        rows = _load(datasets, id, config=config, revision=revision, split=split, key=key)
        self._column = _picture_column(datasets, rows, column)
        self._rows = rows.select_columns([self._column]).cast_column(
            self._column, datasets.Image(decode=False)
        )
        try:
            # Reading rows trusts the numbers in the files: wrong ones can end the process.
            self._rows.data.validate(full=True)
        except ValueError as error:
            raise ValueError(
                f"the data set {id} is damaged ({_first_line(error)}); fetch it again"
            ) from error
        self._roots = _roots(datasets, id)
        self.location = id
        prefix = split.replace("{", "{{").replace("}", "}}")
        self.names = Numbered(f"{prefix}/{{:07d}}", len(self._rows))

    def read(self, index: int) -> bytes:
        picture = self._rows[index][self._column] or {}
        data: bytes | None = picture.get("bytes")
        if data is None and picture.get("path"):
            return read_file(self._inside(index, picture["path"]))
        if data is None:
            raise ImageError(f"{self.path(index)} has no image; leave it out")
        if len(data) > MAX_BYTES:
            raise ImageError(
                f"{self.path(index)} must be at most {MAX_BYTES} bytes, got {len(data)}; remove it"
            )
        return data

    def _inside(self, index: int, path: str) -> Path:
        # Rows come from others, and their paths could name any file of this machine.
        # Links are resolved first: those of the cache stay within it.
        try:
            file = Path(path).resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise ImageError(
                f"{self.path(index)} cannot be read, its path is {path!r} ({error}); leave it out"
            ) from error
        if not any(file.is_relative_to(root) for root in self._roots):
            raise ImageError(
                f"{self.path(index)} must be an image below the data set's own folder or the "
                f"Hugging Face cache, got the path {path}; leave it out, or store the data set "
                "again with its images in it"
            )
        return file


@from_keys(Split)
def hub_domain(
    division: Split,
    *,
    name: str,
    id: str,
    config: str | None,
    revision: str | None,
    split: str,
    held_out_split: str | None,
    column: str | None,
    resolution: int,
) -> TargetDomain:
    """Make a domain of a data set of the hub.

    Args:
        division: Divides the images.
        name: Name of the domain in tables.
        id: As in `HubImages`, like the next three.
        config: Likewise.
        revision: Likewise.
        split: Likewise, for the few-shot images.
        held_out_split: The same for the held-out images; None divides `split`.
        column: As in `HubImages`.
        resolution: Side of the images in pixels.

    Raises:
        FileNotFoundError: As `HubImages`.
        ImageError: `division.on_error` is `raise` and an image is unreadable.
        ValueError: As `HubImages`, or there are too few images, or an argument is out of range.
    """
    source = partial(HubImages, str(id), config=config, revision=revision, column=column)
    few_shot = source(split=split)
    held_out = None
    if held_out_split is not None:
        held_out = source(split=held_out_split, key="data.held_out_split")
    return picture_domain(division, few_shot, held_out, name=name, resolution=resolution)


_DAMAGED = (ValueError, RuntimeError, KeyError, AttributeError, TypeError)
"""Errors of the package on damaged files; it does not check what it has saved."""


def _load(
    datasets: Any,  # noqa: ANN401 a module without types
    id: str,
    *,
    config: str | None,
    revision: str | None,
    split: str,
    key: str,
) -> Any:  # noqa: ANN401
    folder = user_path(id, key="data.id")
    try:
        if any((folder / file).is_file() for file in _SAVED):
            return _of_split(datasets, datasets.load_from_disk(str(folder)), split)
        place = str(folder) if folder.is_dir() else id
        return datasets.load_dataset(place, name=config, revision=revision, split=split)
    except OSError as error:
        raise FileNotFoundError(
            f"the data set {id} is missing: it is no local folder, and it could not be fetched "
            f"from the Hugging Face hub ({_first_line(error)}). Set data.id to OWNER/NAME of a "
            "public image data set (its page there states the licence) and go online, or to a "
            "folder with a copy: one made by save_to_disk, or a clone with Parquet files or "
            "images. Copies fetched before are looked for below "
            f"{datasets.config.HF_DATASETS_CACHE}"
        ) from error
    except (*_DAMAGED, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"the data set {id} cannot be used ({_first_line(error)}); check data.config="
            f"{_text(config)}, data.revision={_text(revision)} and {key}={split}, or fetch "
            "it again"
        ) from error


def _of_split(datasets: Any, saved: Any, split: str) -> Any:  # noqa: ANN401
    if isinstance(saved, datasets.Dataset):
        splits = {"train" if saved.split is None else str(saved.split): saved}
    else:
        splits = dict(saved)
    if split in splits:
        return splits[split]
    # A saved part, such as train[:100], is called by the name of the whole split.
    splits = {name.partition("[")[0]: rows for name, rows in splits.items()}
    sizes = {name: len(rows) for name, rows in splits.items()}
    try:
        parts = datasets.ReadInstruction.from_spec(split).to_absolute(sizes)
    except ValueError as error:
        raise ValueError(
            f"split {split!r} is not one of {', '.join(splits)}, nor a slice of one: "
            f"{_first_line(error)}"
        ) from error
    return datasets.concatenate_datasets(
        [splits[part.splitname].select(range(part.from_, part.to)) for part in parts]
    )


def _roots(datasets: Any, id: str) -> tuple[Path, ...]:  # noqa: ANN401
    """Return the folders in which image files may lie, links resolved."""
    hub = load_extra("huggingface_hub.constants", use=f"data.id={id}")
    config = datasets.config
    caches = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, hub.HF_HUB_CACHE)
    folder = user_path(id, key="data.id")
    own = (folder,) if folder.is_dir() else ()
    return tuple(Path(root).resolve() for root in (*own, *caches))


def _picture_column(
    datasets: Any,  # noqa: ANN401
    rows: Any,  # noqa: ANN401
    column: str | None,
) -> str:
    found: list[str] = [
        key for key, kind in rows.features.items() if isinstance(kind, datasets.Image)
    ]
    columns = ", ".join(rows.features)
    if column is not None:
        if column not in found:
            raise ValueError(
                f"data.column must be a column of images ({', '.join(found) or 'there is none'})"
                f", got {column}; all columns: {columns}"
            )
        return column
    if len(found) != 1:
        raise ValueError(
            f"the data set must have one column of images, got {', '.join(found) or 'none'} of "
            f"the columns {columns}; set data.column"
        )
    return found[0]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _text(value: str | None) -> str:
    return "null" if value is None else value
