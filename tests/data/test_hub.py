import hashlib
import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stand_ins import picture, write_files

from ood_sampler.data.domain import TargetDomain
from ood_sampler.data.hub import HubImages, hub_domain
from ood_sampler.data.images import ImageError
from ood_sampler.data.sources import MissingPackageError


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package datasets, offline and with its caches in a temporary folder."""
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", tmp_path / "modules")
    datasets.disable_progress_bars()
    yield datasets
    datasets.enable_progress_bars()


def rows(datasets: Any, seeds: range, **columns: list[Any]) -> Any:  # noqa: ANN401
    images = [{"bytes": picture(seed), "path": None} for seed in seeds]
    made = datasets.Dataset.from_dict({"image": images, **columns})
    return made.cast_column("image", datasets.Image())


def save(datasets: Any, folder: Path, kind: str) -> Path:  # noqa: ANN401
    """The splits train (seeds 0 to 7) and test (6 to 11, two copies of train) in one layout."""
    splits = {"train": range(8), "test": range(6, 12)}
    if kind == "saved":
        made = {name: rows(datasets, seeds) for name, seeds in splits.items()}
        datasets.DatasetDict(made).save_to_disk(folder)
    for name, seeds in splits.items():
        if kind == "parquet":
            (folder / "data").mkdir(parents=True, exist_ok=True)
            labels = [seed % 2 for seed in seeds]
            rows(datasets, seeds, label=labels).to_parquet(
                folder / "data" / f"{name}-00000-of-00001.parquet"
            )
        if kind == "pictures":
            files = {f"{name}/{'ab'[s % 2]}/{s:02d}.png": picture(s) for s in seeds}
            write_files(folder, files)
    return folder


def write_saved(datasets: Any, made: Any, folder: Path) -> None:  # noqa: ANN401
    """Save rows with paths; `save_to_disk` would put the images themselves in their place."""
    import pyarrow

    rows(datasets, range(1)).save_to_disk(folder)
    (file,) = folder.glob("*.arrow")
    with pyarrow.ipc.new_stream(str(file), made.data.table.schema) as stream:
        stream.write_table(made.data.table)


def open_hub(id: str | Path, **changes: Any) -> HubImages:  # noqa: ANN401
    options = {"config": None, "revision": None, "split": "train", "column": None}
    return HubImages(str(id), **(options | changes))


def make(id: str | Path, **changes: Any) -> TargetDomain:  # noqa: ANN401
    options = {
        "name": "hub",
        "id": str(id),
        "config": None,
        "revision": None,
        "split": "train",
        "held_out_split": None,
        "column": None,
        "resolution": 16,
        "few_shot": 3,
        "held_out": None,
        "seed": 0,
        "on_error": "raise",
    }
    return hub_domain(**(options | changes))


@pytest.mark.parametrize("kind", ["saved", "parquet", "pictures"])
def test_stored_pictures_are_passed_on_unchanged(hub: Any, tmp_path: Path, kind: str) -> None:  # noqa: ANN401
    source = open_hub(save(hub, tmp_path / "copy", kind))
    assert list(source.names) == [f"train/{index:07d}" for index in range(8)]
    bodies = [source.read(index) for index in range(8)]
    assert sorted(bodies) == sorted(picture(seed) for seed in range(8))
    again = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert [again.read(index) for index in range(8)] == bodies
    assert source.path(3) == f"{tmp_path}/copy/train/0000003"


@pytest.mark.parametrize("kind", ["saved", "parquet", "pictures"])
def test_copies_across_splits_are_left_out_and_listed(
    hub: Any,  # noqa: ANN401
    tmp_path: Path,
    kind: str,
) -> None:
    with pytest.warns(UserWarning, match="repeated images left out: 2 of 14"):
        domain = make(save(hub, tmp_path / "copy", kind), few_shot=8, held_out_split="test")
    assert len(domain.few_shot) == 8
    assert len(domain.held_out) == 4
    assert len(domain.skipped) == 2
    assert all("has the same bytes as few-shot image train/" in why for _, why in domain.skipped)
    assert domain.held_out[0].shape == (3, 16, 16)


def test_one_split_is_divided(hub: Any, tmp_path: Path) -> None:  # noqa: ANN401
    rows(hub, range(8)).save_to_disk(tmp_path / "copy")
    domain = make(tmp_path / "copy")
    names = [*domain.few_shot.names, *domain.held_out.names]
    assert sorted(names) == [f"train/{index:07d}" for index in range(8)]


def test_a_slice_of_a_split_is_a_split(hub: Any, tmp_path: Path) -> None:  # noqa: ANN401
    folder = save(hub, tmp_path / "copy", "parquet")
    assert len(open_hub(folder, split="train[:3]")) == 3


def test_column_is_found_or_given(hub: Any, tmp_path: Path) -> None:  # noqa: ANN401
    both = rows(hub, range(3), mask=[{"bytes": picture(9), "path": None}] * 3)
    both.cast_column("mask", hub.Image()).save_to_disk(tmp_path / "two")
    with pytest.raises(ValueError, match=r"one column of images, got image, mask of the columns"):
        open_hub(tmp_path / "two")
    assert open_hub(tmp_path / "two", column="mask").read(0) == picture(9)
    with pytest.raises(ValueError, match=r"must be a column of images \(image, mask\), got img;"):
        open_hub(tmp_path / "two", column="img")
    hub.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "none")
    with pytest.raises(ValueError, match=r"got none of the columns text; set data\.column"):
        open_hub(tmp_path / "none")


def test_row_without_a_picture_is_an_error_of_that_row(hub: Any, tmp_path: Path) -> None:  # noqa: ANN401
    images = [{"bytes": picture(seed), "path": None} if seed else None for seed in range(8)]
    made = hub.Dataset.from_dict({"image": images}).cast_column("image", hub.Image())
    made.save_to_disk(tmp_path / "copy")
    with pytest.raises(ImageError, match=r"copy/train/0000000 has no image"):
        open_hub(tmp_path / "copy").read(0)
    assert make(tmp_path / "copy", on_error="skip").skipped[0][0] == "train/0000000"


@pytest.mark.parametrize("id", ["owner/name", "./nowhere", "~/nowhere"])
def test_missing_data_set_is_explained_in_one_message(tmp_path: Path, id: str) -> None:
    with pytest.raises(FileNotFoundError) as info:
        make(id)
    message = str(info.value)
    assert message.startswith(f"the data set {id} is missing: it is no local folder, and it could")
    assert "Set data.id to OWNER/NAME" in message
    assert "save_to_disk" in message
    assert message.endswith(f"looked for below {tmp_path}/cache")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "val"}, r"cannot be used \(.*val.*data\.split=val"),
        ({"config": "big"}, r"cannot be used \(.*big.*data\.config=big"),
    ],
)
def test_unknown_split_and_configuration_are_named(
    hub: Any,  # noqa: ANN401
    tmp_path: Path,
    changes: dict[str, str],
    message: str,
) -> None:
    folder = save(hub, tmp_path / "copy", "parquet")
    with pytest.raises(ValueError, match=message):
        make(folder, **changes)


def test_unknown_split_of_a_saved_set_is_named(hub: Any, tmp_path: Path) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=r"split 'val' is not one of train, test"):
        make(save(hub, tmp_path / "copy", "saved"), split="val")


@pytest.mark.parametrize("name", ["train", "test", None, "train[:8]"])
def test_the_only_saved_split_is_called_by_its_name(
    hub: Any,  # noqa: ANN401
    tmp_path: Path,
    name: str | None,
) -> None:
    made = rows(hub, range(8))
    split = None if name is None else hub.NamedSplit(name)
    hub.Dataset(made.data, info=made.info, split=split).save_to_disk(tmp_path / "copy")
    known = "test" if name == "test" else "train"
    assert len(open_hub(tmp_path / "copy", split=known)) == 8
    if name is not None:
        assert len(open_hub(tmp_path / "copy", split=name)) == 8
    wrong = "val" if known == "train" else "train"
    expected = f"split '{wrong}' is not one of {known}, nor"
    with pytest.raises(ValueError, match=rf"{expected}.* data\.split={wrong}, or fetch"):
        make(tmp_path / "copy", split=wrong)
    with pytest.raises(ValueError, match=rf"{expected}.* data\.held_out_split={wrong}, or fetch"):
        make(tmp_path / "copy", split=known, held_out_split=wrong)


@pytest.mark.parametrize("kind", ["one", "saved", "parquet"])
def test_slices_of_every_layout_are_alike(hub: Any, tmp_path: Path, kind: str) -> None:  # noqa: ANN401
    folder = tmp_path / "copy"
    if kind == "one":
        rows(hub, range(8)).save_to_disk(folder)
    else:
        save(hub, folder, kind)
    parts = {
        "train[:3]": range(3),
        "train[-2:]": range(6, 8),
        "train[25%:50%]": range(2, 4),
        "train[5:]+train[:2]": (5, 6, 7, 0, 1),
    }
    for split, seeds in parts.items():
        source = open_hub(folder, split=split)
        source = pickle.loads(pickle.dumps(source))  # noqa: S301
        read = [source.read(index) for index in range(len(source))]
        assert read == [picture(seed) for seed in seeds]
    domain = make(folder, split="train[:3]", held_out_split="train[3:]")
    assert (len(domain.few_shot), len(domain.held_out), domain.skipped) == (3, 5, [])
    for split in ("train[", "train[:120%]", "train[a:]", "val[:3]"):
        with pytest.raises(ValueError, match=r"the data set .* cannot be used"):
            open_hub(folder, split=split)


@pytest.mark.parametrize("split", [None, "", 3])
def test_split_is_a_name(tmp_path: Path, split: Any) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=r"data\.split must be the name of a split or a slice"):
        open_hub(tmp_path, split=split)


@pytest.mark.parametrize("kind", ["saved", "parquet"])
def test_rows_cannot_name_pictures_elsewhere(hub: Any, tmp_path: Path, kind: str) -> None:  # noqa: ANN401
    write_files(tmp_path, {f"{place}.png": picture(9) for place in ("secret", "copy/in/a")})
    folder = tmp_path / "copy"
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "in" / "up").symlink_to(tmp_path)
    bad = [
        tmp_path / "secret.png",
        folder / ".." / "secret.png",
        folder / "link.png",
        folder / "in" / "up" / "secret.png",
        Path(f"{tmp_path}/copy-of/a.png"),
        Path("a\0b"),
    ]
    paths = [str(path) for path in (folder / "in" / "a.png", *bad)]
    images = {"image": [{"bytes": None, "path": path} for path in paths]}
    made = hub.Dataset.from_dict(images).cast_column("image", hub.Image())
    if kind == "saved":
        write_saved(hub, made, folder)
    else:
        import pyarrow.parquet

        (folder / "data").mkdir()
        file = folder / "data" / "train-00000-of-00001.parquet"
        pyarrow.parquet.write_table(made.data.table, file)
    source = open_hub(folder)
    assert source.read(0) == picture(9)
    for index in range(1, len(paths)):
        with pytest.raises(ImageError, match=rf"copy/train/000000{index} .* path ") as info:
            source.read(index)
        assert repr(paths[index]).strip("'") in str(info.value)


def test_linked_pictures_of_the_cache_are_read(
    hub: Any,  # noqa: ANN401
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub

    cache = tmp_path / "hub" / "datasets--a--b"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    write_files(cache, {"blobs/0f": picture(1)})
    link = cache / "snapshots" / "1" / "a.png"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../blobs/0f")
    images = [{"bytes": None, "path": str(link)}]
    made = hub.Dataset.from_dict({"image": images}).cast_column("image", hub.Image())
    write_saved(hub, made, tmp_path / "copy")
    assert open_hub(tmp_path / "copy").read(0) == picture(1)


@pytest.mark.parametrize("kind", ["saved", "parquet"])
def test_damaged_copy_is_an_error(hub: Any, tmp_path: Path, kind: str) -> None:  # noqa: ANN401
    folder = save(hub, tmp_path / "copy", kind)
    for file in folder.rglob("*0000*"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises((ValueError, FileNotFoundError), match=f"the data set {folder} "):
        make(folder)


def test_nothing_is_decoded_to_be_read(
    hub: Any,  # noqa: ANN401
    tmp_path: Path,
) -> None:
    made = hub.Dataset.from_dict({"image": [{"bytes": b"text", "path": None}]})
    made.cast_column("image", hub.Image()).save_to_disk(tmp_path / "copy")
    source = open_hub(tmp_path / "copy")
    assert hashlib.sha256(source.read(0)).digest() == hashlib.sha256(b"text").digest()


def test_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    expected = r"datasets: pip install -e '\.\[data\]' in the project's folder$"
    with pytest.raises(MissingPackageError, match=expected):
        make("owner/name")


def test_rows_with_wrong_numbers_are_refused_before_they_are_read(hub: Any, tmp_path: Path) -> None:  # noqa: ANN401
    rows(hub, range(4)).save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    data = file.read_bytes()
    sizes = [len(picture(seed)) for seed in range(4)]
    ends = np.cumsum([0, *sizes]).astype("<i4").tobytes()
    assert data.count(ends) == 1
    # the second image would end before it begins
    wrong = np.cumsum([0, *sizes]).astype("<i4")
    wrong[2] = -7
    file.write_bytes(data.replace(ends, wrong.tobytes()))
    with pytest.raises(ValueError, match=r"saved is damaged \(.*\); fetch it again"):
        open_hub(tmp_path / "saved")


def test_a_description_of_another_kind_is_damage(hub: Any, tmp_path: Path) -> None:  # noqa: ANN401
    rows(hub, range(4)).save_to_disk(tmp_path / "saved")
    file = tmp_path / "saved" / "dataset_info.json"
    description = json.loads(file.read_text())
    file.write_text(json.dumps({**description, "features": "image"}))
    with pytest.raises(ValueError, match=r"saved cannot be used \(.*\); check .* fetch it again"):
        open_hub(tmp_path / "saved")


def test_an_empty_id_is_refused_and_home_is_expanded(
    hub: Any,  # noqa: ANN401
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match=r"^data\.id must be a folder or file, got nothing"):
        make("")
    save(hub, tmp_path / "copy", "saved")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(make("~/copy").held_out) == 5
