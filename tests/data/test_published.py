import zipfile
from pathlib import Path
from typing import Any

import pytest
from stand_ins import picture, write_files, write_lmdb

from ood_sampler.data.domain import TargetDomain
from ood_sampler.data.images import ImageError
from ood_sampler.data.published import Origin, published_domain

ORIGIN = Origin(
    what="AFHQ, animal faces",
    where="example.org/afhq",
    licence="CC BY-NC 4.0",
    layout="train/cat and val/cat",
)
AFHQ = [["train/cat", "val/cat"], ["train/cat", "test/cat"]]
WHOLE = [["CelebA-HQ-img", "CelebA-HQ-img"], [".", "."]]


def make(root: Path, layouts: list[list[str]], **changes: Any) -> TargetDomain:  # noqa: ANN401
    options = {
        "name": "afhq_cat",
        "root": str(root),
        "layouts": layouts,
        "resolution": 16,
        "few_shot": 3,
        "held_out": None,
        "seed": 0,
        "on_error": "raise",
        "origin": ORIGIN,
    }
    return published_domain(**(options | changes))


def afhq(root: Path, held_out: str) -> Path:
    files = {f"train/cat/{seed}.jpg": picture(seed) for seed in range(5)}
    files |= {f"{held_out}/cat/{seed}.jpg": picture(seed) for seed in range(10, 14)}
    files |= {f"train/dog/{seed}.jpg": picture(seed) for seed in range(20, 22)}
    return write_files(root, files)


def zipped(path: Path, root: Path, *, below: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.*")):
            archive.write(file, f"{below}{file.relative_to(root)}")
    return path


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_published_split_is_found_at_every_level_of_folder_and_zip(
    tmp_path: Path, held_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = afhq(tmp_path / "data" / "afhq", held_out)
    write_files(tmp_path / "data" / "other", {"readme.txt": b""})
    monkeypatch.chdir(root / "train")
    roots = [
        root,
        root.parent,
        root / "train" / "cat",
        Path("cat"),
        zipped(tmp_path / "a.zip", root, below=""),
        zipped(tmp_path / "b.zip", root, below="afhq/"),
        zipped(tmp_path / "c.zip", root, below="x/y/"),
    ]
    domains = [make(place, AFHQ) for place in roots]
    few_shot, held = domains[0].few_shot, domains[0].held_out
    assert {*few_shot.names} < {f"{seed}.jpg" for seed in range(5)}
    assert sorted(held.names) == [f"{seed}.jpg" for seed in range(10, 14)]
    assert {domain.few_shot.digest for domain in domains} == {few_shot.digest}
    assert {domain.held_out.digest for domain in domains} == {held.digest}


def test_copies_across_published_splits_are_left_out_and_listed(tmp_path: Path) -> None:
    root = afhq(tmp_path, "val")
    write_files(root, {"val/cat/copy.jpg": picture(2)})
    with pytest.warns(UserWarning, match="repeated images left out: 1 of 10"):
        domain = make(root, AFHQ, few_shot=5)
    assert domain.skipped == [("copy.jpg", "has the same bytes as few-shot image 2.jpg")]
    assert "copy.jpg" not in domain.held_out.names


def test_equal_parts_are_split_and_other_folders_left_out(tmp_path: Path) -> None:
    files = {f"CelebA-HQ-img/{seed}.jpg": picture(seed) for seed in range(8)}
    files |= {f"CelebAMask-HQ-mask-anno/0/{seed}_skin.png": picture(seed) for seed in range(20, 28)}
    domain = make(write_files(tmp_path, files), WHOLE)
    names = [*domain.few_shot.names, *domain.held_out.names]
    assert sorted(names) == [f"{seed}.jpg" for seed in range(8)]


def test_whole_root_is_the_last_resort(tmp_path: Path) -> None:
    root = write_files(tmp_path, {f"a/{seed}.jpg": picture(seed) for seed in range(6)})
    assert len(make(root, WHOLE).held_out) == 3


def test_missing_data_set_is_explained_in_one_message(tmp_path: Path) -> None:
    root = tmp_path / "afhq"
    with pytest.raises(FileNotFoundError) as info:
        make(root, AFHQ)
    message = str(info.value)
    assert message == (
        f"the data set afhq_cat is missing: {root} does not exist. It is AFHQ, animal faces, from "
        "example.org/afhq (licence: CC BY-NC 4.0). Expected layout: train/cat and val/cat. Set "
        "data.root to it, or the environment variable OOD_SAMPLER_DATA to the folder that holds "
        "all data sets"
    )


def test_archive_beside_the_missing_root_is_pointed_at(tmp_path: Path) -> None:
    (tmp_path / "afhq.zip").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"There is .*/afhq\.zip: unpack it, or set data"):
        make(tmp_path / "afhq", AFHQ)


def test_other_layouts_are_told_with_what_was_found(tmp_path: Path) -> None:
    root = write_files(tmp_path / "x", {"afhq.zip": b"", "cat/1.jpg": picture(1), ".git/a": b""})
    with pytest.raises(FileNotFoundError) as info:
        make(root, AFHQ)
    assert "in a known layout, it holds afhq.zip, cat (unpack afhq.zip first). It is" in str(
        info.value
    )
    archive = zipped(tmp_path / "a.zip", root, below="deep/")
    with pytest.raises(FileNotFoundError, match=r"it holds deep\. It is AFHQ"):
        make(archive, AFHQ)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="it holds nothing"):
        make(tmp_path / "empty", AFHQ)
    with pytest.raises(ValueError, match=r"at least one image, got none.*It is AFHQ"):
        make(tmp_path / "empty", WHOLE)


def test_two_copies_of_the_layout_are_not_mixed(tmp_path: Path) -> None:
    afhq(tmp_path / "afhq", "val")
    afhq(tmp_path / "copy", "val")
    with pytest.raises(ValueError, match=r"once, got it in .*/afhq and .*/copy; set data\.root"):
        make(tmp_path, AFHQ)


def test_the_root_itself_comes_before_what_lies_below_it(tmp_path: Path) -> None:
    root = afhq(tmp_path / "afhq", "test")
    old = write_files(root / "v1", {f"train/cat/{seed}.jpg": picture(seed) for seed in (30, 31)})
    write_files(old, {f"val/cat/{seed}.jpg": picture(seed) for seed in (40, 41)})
    archive = zipped(tmp_path / "both.zip", root, below="")
    for place in (root, archive):
        held_out = make(place, AFHQ, few_shot=2).held_out
        assert sorted(held_out.names) == [f"{seed}.jpg" for seed in range(10, 14)]
    assert sorted(make(old, AFHQ, few_shot=2).held_out.names) == ["40.jpg", "41.jpg"]


def test_versions_beside_one_another_are_to_be_chosen_from(tmp_path: Path) -> None:
    first, second = afhq(tmp_path / "x" / "v1", "val"), afhq(tmp_path / "x" / "v2", "test")
    message = r"once, got it in .*v1 and .*v2; set data\.root to one of them"
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "x", AFHQ)
    with pytest.raises(ValueError, match=r"got it in v1 and v2; unpack it and set data\.root"):
        make(zipped(tmp_path / "both.zip", tmp_path / "x", below=""), AFHQ)
    assert len(make(first, AFHQ).held_out) == len(make(second, AFHQ).held_out) == 4


@pytest.mark.parametrize("place", ["", "train/cat", ".."])
def test_versions_unpacked_into_one_folder_are_refused(tmp_path: Path, place: str) -> None:
    root = afhq(tmp_path / "x" / "afhq", "val")
    afhq(root, "test")
    message = (
        r"must hold one version of the data set afhq_cat, got \S+/train/cat with \S+/val/cat and "
        r"\S+/train/cat with \S+/test/cat, whose images are mixed; unpack each into a folder"
    )
    with pytest.raises(ValueError, match=message):
        make(root / place, AFHQ)
    if not place:
        with pytest.raises(ValueError, match=r"got train/cat with val/cat and train/cat with test"):
            make(zipped(tmp_path / "a.zip", root, below=""), AFHQ)


def test_database_of_another_name_is_not_taken_for_the_data_set(tmp_path: Path) -> None:
    layouts = [["church_lmdb", "church_lmdb"], [".", "."]]
    database = write_lmdb(tmp_path / "bedroom_lmdb", range(6))
    with pytest.raises(FileNotFoundError, match="it holds bedroom_lmdb"):
        make(tmp_path, layouts)
    assert len(make(database, layouts).few_shot) == 3
    write_lmdb(tmp_path / "church_lmdb", range(4))
    assert len(make(tmp_path, layouts, few_shot=2).held_out) == 2


def test_damaged_archive_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "afhq.zip").write_bytes(b"text")
    with pytest.raises(ImageError, match="neither a folder nor a readable zip archive"):
        make(tmp_path / "afhq.zip", AFHQ)
