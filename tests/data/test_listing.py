import os
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from stand_ins import fields, picture, write_files, write_lmdb

from ood_sampler.data.arrays import ArraySource
from ood_sampler.data.layout import Layout
from ood_sampler.data.listing import Listing, list_folder, user_path
from ood_sampler.data.published import Origin, published_domain
from ood_sampler.data.sources import FolderSource, ZipSource, open_source

ORIGIN = Origin(what="cats", where="here", licence="mine", layout="any")

FILES = {
    "a.png": picture(0),
    "b.JFIF": picture(1, kind="JPEG"),
    "c.jpe": picture(2, kind="JPEG"),
    "d": picture(3, kind="TIFF"),
    "e/img.0001": picture(4, kind="WEBP"),
    "e/f": picture(5, kind="BMP"),
    "e/g": picture(6, kind="JPEG"),
    "e/h": picture(7),
}
PASSED_OVER = {
    "2.gif": picture(9, kind="GIF"),
    "e/1.GIF": picture(9, kind="GIF"),
    "photo.heic": b"",
    "photo.CR2": b"",
    "e/pages": picture(9, kind="GIF"),
    "old/pictures.zip": b"",
}
UNTOLD = {
    ".hidden.gif": b"",
    ".git/1.gif": b"",
    "__MACOSX/2.gif": b"",
    "labels.csv": b"",
    "README": b"All images are mine.\n",
    "empty": b"",
}
TOLD = (
    "2 .gif (2.gif), 1 .cr2 (photo.CR2), 1 .heic (photo.heic), 1 .zip (old/pictures.zip), "
    "1 without a suffix (e/pages)"
)


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_passed_over_is_counted_by_kind(tmp_path: Path, order: int) -> None:
    files = dict([*(FILES | PASSED_OVER | UNTOLD).items()][::order])
    folder = FolderSource(write_files(tmp_path / "folder", files))
    archive = ZipSource(pack(tmp_path / "a.zip", files))
    for source in (folder, archive):
        assert source.names == sorted(FILES)
        assert [source.read(index) for index in range(8)] == [FILES[n] for n in sorted(FILES)]
        assert source.passed_over == TOLD
    inner = ZipSource(tmp_path / "a.zip", "e")
    assert inner.passed_over == "1 .gif (1.GIF), 1 without a suffix (pages)"


def test_links_are_counted_and_not_followed(tmp_path: Path) -> None:
    root = write_files(tmp_path / "root", {"a.png": picture(0), "e/b.png": picture(1)})
    write_files(tmp_path / "outside", {"c.png": picture(2)})
    (root / "outside").symlink_to(tmp_path / "outside")
    (root / "e" / "round").symlink_to(root)
    (root / ".hidden").symlink_to(tmp_path / "outside")
    (root / "gone").symlink_to(tmp_path / "nowhere")
    (root / "linked.png").symlink_to(tmp_path / "outside" / "c.png")
    os.mkfifo(root / "pipe")
    source = FolderSource(root)
    assert source.names == ["a.png", "e/b.png", "linked.png"]
    assert source.read(2) == picture(2)
    assert source.passed_over == "2 linked folders (e/round), 1 broken link (gone)"


def test_links_in_an_archive_are_counted(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"a/fine.png": picture(0)})
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("a/link.png", "a/folder"):
            link = zipfile.ZipInfo(name)
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, "fine.png")
    assert ZipSource(path).names == ["a/fine.png"]
    assert ZipSource(path).passed_over == "2 links (a/folder)"


def test_files_without_a_suffix_that_cannot_be_read_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, {"a.png": picture(0), "b": picture(1)})

    def denied(*_: object) -> None:
        raise PermissionError("denied")

    monkeypatch.setattr(Path, "open", denied)
    assert FolderSource(tmp_path).passed_over == "1 without a suffix (b)"


def test_many_kinds_are_summed_up() -> None:
    listing = Listing()
    for index in range(20):
        listing.add(f"{index}", f".k{index:02d}")
    assert listing.passed_over().endswith("1 .k05 (5), 14 of other kinds")


def test_the_run_is_told_once(tmp_path: Path) -> None:
    write_files(tmp_path, FILES | PASSED_OVER)
    with pytest.warns(UserWarning, match=r"^passed over in .*: 2 \.gif \(2\.gif\), 1") as record:
        open_source(tmp_path)
    assert len(record) == 1
    assert TOLD in str(record[0].message)
    assert "linked" not in str(record[0].message)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match=r"1 linked folder \(more\).*copy linked folders$"):
        open_source(tmp_path)


def test_a_root_without_pictures_tells_what_it_holds(tmp_path: Path) -> None:
    files = {name: data for name, data in PASSED_OVER.items() if name.lower().endswith(".gif")}
    for root in (write_files(tmp_path / "x", files), pack(tmp_path / "a.zip", files)):
        with pytest.raises(ValueError, match=r"image, got none; .*; it holds 2 \.gif \(2\.gif\)$"):
            open_source(root)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "all").symlink_to(tmp_path / "x")
    with pytest.raises(ValueError, match=r"it holds 1 linked folder \(all\)$"):
        open_source(tmp_path / "links")


def test_pictures_beside_a_published_data_set_in_an_archive_are_told_of(tmp_path: Path) -> None:
    files = {f"train/cat/{seed}.jpg": picture(seed) for seed in range(4)}
    files |= {f"val/cat/{seed}.jpg": picture(seed) for seed in range(5, 9)}
    path = pack(tmp_path / "a.zip", files | {"val/cat/x.gif": b"", "train/dog/x.gif": b""})
    with pytest.warns(UserWarning, match=r"a\.zip/val/cat: 1 \.gif \(x\.gif\);") as record:
        published_domain(
            name="cats",
            root=str(path),
            layouts=[["train/cat", "val/cat"]],
            resolution=16,
            few_shot=None,
            held_out=None,
            seed=0,
            on_error="raise",
            origin=ORIGIN,
        )
    assert len(record) == 1


def test_fields_that_are_passed_over_are_counted_too(tmp_path: Path) -> None:
    files = list_folder(write_files(tmp_path, {"a.npy": b"", "b.NPY": b"", "c.png": b"", "d": b""}))
    assert sorted(files.names) == ["c.png"]
    listing = list_folder(tmp_path, (".npy",))
    assert sorted(listing.names) == ["a.npy", "b.NPY"]
    assert listing.passed_over() == "1 .png (c.png)"


@pytest.mark.parametrize("key", ["data.root", "data.held_out_root"])
@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_path_is_refused(
    tmp_path: Path, key: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", fields(9, 8, 8))
    write_files(tmp_path, FILES)
    monkeypatch.chdir(tmp_path)
    message = rf"^{key} must be a folder or file, got nothing"
    with pytest.raises(ValueError, match=message):
        open_source(value, key=key)
    with pytest.raises(ValueError, match=message):
        ArraySource(value, Layout(), key=key)


def test_unknown_homes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^data\.root=~nobody-here/x has an unknown home folder"):
        user_path("~nobody-here/x", key="data.root")


def test_databases_pass_nothing_over(tmp_path: Path) -> None:
    assert open_source(write_lmdb(tmp_path / "a_lmdb", range(3))).passed_over == ""
