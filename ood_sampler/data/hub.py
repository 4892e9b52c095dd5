"""Image data sets of the Hugging Face hub, downloaded or from a local copy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

from ood_sampler.data.domain import TargetDomain, picture_domain
from ood_sampler.data.images import ImageError
from ood_sampler.data.sources import MAX_BYTES, ImageSource, load_extra, read_file

_SAVED = ("dataset_dict.json", "state.json")
"""Files that `save_to_disk` leaves in a folder: of several splits, of one."""


class HubSource(ImageSource):
    """Pictures of one split of a data set, in its order; named by their number.

    Stored pictures are passed on as they are: nothing is decoded here.

    Args:
        id: `owner/name` on the hub, or a folder: of `save_to_disk`, or a clone with Parquet files
            or folders of pictures.
        config: Configuration name; None takes the only or default one.
        revision: Branch, tag or commit on the hub; None takes the newest, and is right for folders.
        split: Name of the split, or a slice of one, such as `train[:1000]`.
        column: Name of the column with the pictures; None takes the only one.

    Raises:
        FileNotFoundError: The data set is neither here nor can it be fetched.
        ValueError: The configuration, split or column does not exist, there are several columns of
            pictures, the files are damaged, or the package datasets is not installed.
    """

    def __init__(
        self,
        id: str,
        *,
        config: str | None,
        revision: str | None,
        split: str,
        column: str | None,
    ) -> None:
        datasets = load_extra("datasets", use=f"data.id={id}")
        rows = _load(datasets, id, config=config, revision=revision, split=split)
        self._column = _picture_column(datasets, rows, column)
        self._rows = rows.select_columns([self._column]).cast_column(
            self._column, datasets.Image(decode=False)
        )
        self.location = id
        self.names = _Numbers(split, len(self._rows))

    def read(self, index: int) -> bytes:
        picture = self._rows[index][self._column] or {}
        data: bytes | None = picture.get("bytes")
        if data is None and picture.get("path"):
            return read_file(Path(picture["path"]))
        if data is None:
            raise ImageError(f"{self.path(index)} has no picture; leave it out")
        if len(data) > MAX_BYTES:
            raise ImageError(
                f"{self.path(index)} must be at most {MAX_BYTES} bytes, got {len(data)}; remove it"
            )
        return data


def hub_domain(
    *,
    name: str,
    id: str,
    config: str | None,
    revision: str | None,
    split: str,
    held_out_split: str | None,
    column: str | None,
    resolution: int,
    few_shot: int | None,
    held_out: int | None,
    seed: int,
    on_error: Literal["raise", "skip"],
) -> TargetDomain:
    """Make a domain of a data set of the hub, split as `folder_domain` says.

    Args:
        name: What the domain is called in tables.
        id: As in `HubSource`, like the next three.
        config: Likewise.
        revision: Likewise.
        split: Likewise, of the few-shot pictures.
        held_out_split: Split of the held-out pictures; None divides `split`.
        column: As in `HubSource`.
        resolution: As in `folder_domain`, like the rest.
        few_shot: Likewise.
        held_out: Likewise.
        seed: Likewise.
        on_error: Likewise.

    Raises:
        FileNotFoundError: As `HubSource`.
        ImageError: `on_error` is `raise` and a picture is unreadable.
        ValueError: As `HubSource`, or there are too few pictures, or an argument is out of range.
    """

    def source(part: str) -> HubSource:
        return HubSource(str(id), config=config, revision=revision, split=part, column=column)

    return picture_domain(
        name=name,
        few_shot_source=source(split),
        held_out_source=None if held_out_split is None else source(held_out_split),
        resolution=resolution,
        few_shot=few_shot,
        held_out=held_out,
        seed=seed,
        on_error=on_error,
    )


class _Numbers(Sequence[str]):
    """`train/0000000`, `train/0000001`, ..., made when asked for."""

    def __init__(self, prefix: str, count: int) -> None:
        self._prefix = prefix
        self._indices = range(count)

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in self._indices[index]]
        return f"{self._prefix}/{self._indices[index]:07d}"


def _load(
    datasets: Any,  # noqa: ANN401 a module without types
    id: str,
    *,
    config: str | None,
    revision: str | None,
    split: str,
) -> Any:  # noqa: ANN401
    folder = Path(id).expanduser()
    try:
        if any((folder / file).is_file() for file in _SAVED):
            return _of_split(datasets.load_from_disk(str(folder)), split)
        place = str(folder) if folder.is_dir() else id
        return datasets.load_dataset(place, name=config, revision=revision, split=split)
    except OSError as error:
        raise FileNotFoundError(
            f"the data set {id} is missing: it is no local folder, and it could not be fetched "
            f"from the Hugging Face hub ({_first_line(error)}). Set data.id to OWNER/NAME of a "
            "public image data set (its page there states the licence) and go online, or to a "
            "folder with a copy: one made by save_to_disk, or a clone with Parquet files or "
            "pictures. Copies fetched before are looked for below "
            f"{datasets.config.HF_DATASETS_CACHE}"
        ) from error
    except (ValueError, RuntimeError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"the data set {id} cannot be used ({_first_line(error)}); check data.config="
            f"{_text(config)}, data.revision={_text(revision)} and data.split={split}, or fetch "
            "it again"
        ) from error


def _of_split(saved: Any, split: str) -> Any:  # noqa: ANN401
    if not hasattr(saved, "keys"):
        return saved
    if split not in saved:
        raise ValueError(f"split {split!r} is not one of {', '.join(saved.keys())}")
    return saved[split]


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
                f"data.column must be a column of pictures ({', '.join(found) or 'there is none'})"
                f", got {column}; all columns: {columns}"
            )
        return column
    if len(found) != 1:
        raise ValueError(
            f"the data set must have one column of pictures, got {', '.join(found) or 'none'} of "
            f"the columns {columns}; set data.column"
        )
    return found[0]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _text(value: str | None) -> str:
    return "null" if value is None else value
