import os
import pickle
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import key, picture, write_lmdb
from torch.utils.data import DataLoader, Dataset

from ood_sampler.data import sources
from ood_sampler.data.images import ImageError
from ood_sampler.data.sources import (
    SUFFIXES,
    FolderSource,
    ImageSource,
    LmdbSource,
    MissingPackageError,
    ZipSource,
    load_extra,
    load_training_images,
    open_source,
)

NAMES = ["b/Ünïcode ★.PNG", "a.jpeg", "b/a.Jpg", "Z.webp", "c/d/e.tif", "c/d/f.TIFF", "日本.bmp"]
IGNORED = [".hidden.png", "__MACOSX/a.png", "c/.cache/a.png", "notes.txt", "png", "c/a.png.zip"]


def write_folder(root: Path, names: list[str]) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def write_zip(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, name.encode())
    return path


def contents(source: ImageSource) -> list[str]:
    return [source.read(index).decode() for index in range(len(source))]


@pytest.mark.parametrize("order", [1, -1])
def test_folder_and_zip_list_the_same_pictures_in_one_order(tmp_path: Path, order: int) -> None:
    names = (NAMES + IGNORED)[::order]
    folder = FolderSource(write_folder(tmp_path / ".folder", names))
    archive = ZipSource(write_zip(tmp_path / "archive.zip", names))
    assert folder.names == archive.names == sorted(NAMES)
    assert contents(folder) == contents(archive) == sorted(NAMES)
    assert len(folder) == len(archive) == len(NAMES)


def test_order_does_not_depend_on_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder(tmp_path, NAMES)
    expected = FolderSource(root).names
    listed = list(os.walk(root))
    shuffled = [(folder, folders, files[::-1]) for folder, folders, files in listed[::-1]]
    monkeypatch.setattr(os, "walk", lambda *_, **__: iter(shuffled))
    assert FolderSource(root).names == expected


def test_zip_members_that_are_folders_or_repeated_count_once(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", ["folder.png/", "folder.png/a.png"])
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("folder.png/a.png", "newer")
    source = ZipSource(path)
    assert source.names == ["folder.png/a.png"]
    assert contents(source) == ["newer"]


@pytest.mark.parametrize(
    "member", ["../a.png", "a/../../b.png", "/etc/a.png", "..\\a.png", "C:\\a.png", "\\a.png", ".."]
)
def test_zip_with_an_escaping_name_is_refused(tmp_path: Path, member: str) -> None:
    path = write_zip(tmp_path / "a.zip", ["fine.png", member])
    with pytest.raises(ImageError, match=r"a\.zip must hold relative names without \.\., got"):
        ZipSource(path)


def test_zip_name_with_dots_inside_is_fine(tmp_path: Path) -> None:
    assert ZipSource(write_zip(tmp_path / "a.zip", ["a..b/c...png"])).names == ["a..b/c...png"]


def test_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", NAMES)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ImageError, match=r"a\.zip is neither a folder nor a readable zip archive"):
        open_source(path)


def test_archive_of_a_later_version_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", ["a.png"])
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x01\x02") + 6] = 193
    archive.write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.zip is neither.*\(zip file version 19\.3\)"):
        ZipSource(archive)


def test_damaged_member_is_refused_and_others_stay_readable(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", "first")
        archive.writestr("b.png", "second")
    path.write_bytes(path.read_bytes().replace(b"first", b"furst"))
    source = ZipSource(path)
    with pytest.raises(ImageError, match=r"a\.zip/a\.png cannot be read"):
        source.read(0)
    assert source.read(1) == b"second"


def test_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", ["a.png"])
    data = bytearray(path.read_bytes())
    # Bit 0 of the general purpose flag, in the local header and in the central directory.
    data[data.index(b"PK\x03\x04") + 6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ImageError, match="without a password"):
        ZipSource(path).read(0)


def test_huge_files_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(1001))
    (tmp_path / "bomb.png").write_bytes(bytes(1001))
    for root in (FolderSource(tmp_path), ZipSource(tmp_path / "a.zip")):
        with pytest.raises(ImageError, match=r"bomb\.png must be at most 1000 bytes, got 1001"):
            root.read(0)


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    source = FolderSource(tmp_path)
    assert source.names == ["gone.png", "pipe.png"]
    for index in range(2):
        with pytest.raises(ImageError, match="is not a readable file"):
            source.read(index)


def test_removed_file_is_an_image_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path) -> bytes:
        raise PermissionError("denied")

    source = FolderSource(write_folder(tmp_path, ["a.png"]))
    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(ImageError, match=r"a\.png cannot be read \(denied\)"):
        source.read(0)


def test_missing_root_names_its_key(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; set data\.root to"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"set data\.held_out_root to"):
        open_source(tmp_path / "nowhere", key="data.held_out_root")


def test_missing_folder_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FolderSource(tmp_path / "nowhere")


def test_root_without_pictures_names_the_suffixes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "empty", IGNORED)
    archive = write_zip(tmp_path / "empty.zip", IGNORED)
    for root in (folder, archive):
        with pytest.raises(ValueError, match="must hold at least one image, got none") as info:
            open_source(root)
        assert str(root) in str(info.value)
        assert all(suffix in str(info.value) for suffix in SUFFIXES)


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "pictures", ["a.png"])
    assert open_source("~/pictures").names == ["a.png"]


class Bodies(Dataset[bytes]):
    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> bytes:
        return self.source.read(index)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_open_zip_is_read_from_several_forked_processes_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    bodies = [np.random.default_rng(index).bytes(50_000) for index in range(24)]
    with zipfile.ZipFile(path, "w") as archive:
        for index, body in enumerate(bodies):
            archive.writestr(f"{index:02d}.png", body)
    source = ZipSource(path)
    assert source.read(0) == bodies[0]
    loader = DataLoader(
        Bodies(source), batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    assert list(loader) == bodies


def test_forked_process_opens_the_archive_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ZipSource(write_zip(tmp_path / "a.zip", ["a.png"]))
    mine = source._open()
    assert source._open() is mine
    monkeypatch.setattr(os, "getpid", lambda: -7)
    assert source._open() is not mine


def test_sources_can_be_pickled(tmp_path: Path) -> None:
    source = pickle.loads(pickle.dumps(ZipSource(write_zip(tmp_path / "a.zip", NAMES))))  # noqa: S301
    assert contents(source) == sorted(NAMES)


def test_training_images_are_all_pictures_in_order(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    for name, image in zip(["c.png", "a.png", "b.png"], pixels, strict=True):
        Image.fromarray(image).save(tmp_path / name)
    images = load_training_images(tmp_path, 8)
    assert images.dtype == torch.uint8
    expected = torch.from_numpy(pixels[[1, 2, 0]]).permute(0, 3, 1, 2)
    assert torch.equal(images, expected)
    assert load_training_images(tmp_path, 5).shape == (3, 3, 5, 5)


def test_training_images_name_the_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"text")
    with pytest.raises(ImageError, match=r"bad\.png is not an image"):
        load_training_images(tmp_path, 8)


def test_zip_links_are_refused_if_they_lead_out_and_else_left_out(tmp_path: Path) -> None:
    def write(target: str) -> Path:
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/fine.png", "fine")
            link = zipfile.ZipInfo("a/link.png")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, target)
        return path

    for target in ("../../etc/passwd", "/etc/passwd", "../..", "x" * 5000, ""):
        with pytest.raises(ImageError, match=r"must hold no links that lead out of it, got 'a/lin"):
            ZipSource(write(target))
    for target in ("fine.png", "../a/fine.png", "..fine/../fine.png"):
        assert ZipSource(write(target)).names == ["a/fine.png"]


def test_zip_folder_has_the_names_of_the_unpacked_folder(tmp_path: Path) -> None:
    source = ZipSource(
        write_zip(tmp_path / "a.zip", ["x/y/b.png", "x/y/z/a.png", "x/c.png"]), "x/y"
    )
    assert source.names == ["b.png", "z/a.png"]
    assert contents(source) == ["x/y/b.png", "x/y/z/a.png"]
    assert source.path(1) == f"{tmp_path}/a.zip/x/y/z/a.png"


def test_lmdb_holds_its_values_under_their_keys(tmp_path: Path) -> None:
    source = LmdbSource(write_lmdb(tmp_path / "church_lmdb", range(2000), side=2))
    assert list(source.names) == sorted(key(seed) for seed in range(2000))
    assert source.names[-1] == source.names[1999]
    assert source.names[3:5] == [source.names[3], source.names[4]]
    with pytest.raises(IndexError, match="must be below 2000, got 2000"):
        source.names[2000]
    by_key = {key(seed): picture(seed, 2, "WEBP") for seed in range(2000)}
    for index in (0, 1, 1023, 1024, 1999):
        assert source.read(index) == by_key[source.names[index]]
        assert source.path(index) == f"{tmp_path}/church_lmdb/{source.names[index]}"


def test_lmdb_needs_no_lock_and_changes_nothing(tmp_path: Path) -> None:
    folder = write_lmdb(tmp_path / "church_lmdb", range(3))
    (folder / "lock.mdb").unlink()
    before = (folder / "data.mdb").read_bytes()
    folder.chmod(0o500)
    (folder / "data.mdb").chmod(0o400)
    source = open_source(folder)
    assert source.read(0)[:4] == b"RIFF"
    assert [file.name for file in folder.iterdir()] == ["data.mdb"]
    assert (folder / "data.mdb").read_bytes() == before
    folder.chmod(0o700)


def test_lmdb_is_open_several_times_at_once(tmp_path: Path) -> None:
    folder = write_lmdb(tmp_path / "church_lmdb", range(3))
    sources = [LmdbSource(folder), open_source(tmp_path)]
    sources.append(pickle.loads(pickle.dumps(sources[0])))  # noqa: S301
    bodies = {tuple(source.read(index) for index in range(3)) for source in sources}
    assert len(bodies) == 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_lmdb_is_read_from_forked_processes(tmp_path: Path) -> None:
    source = LmdbSource(write_lmdb(tmp_path / "church_lmdb", range(12)))
    expected = [source.read(index) for index in range(12)]
    loader = DataLoader(
        Bodies(source), batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    assert list(loader) == expected


@pytest.mark.parametrize(
    ("page", "place", "width", "value"),
    [
        (0, 16 + 24 + 48 + 40, 8, 3 * 2**40),  # the page of the root
        (0, 16 + 24 + 96, 8, 2**50),  # the last page
        (2, 10, 2, 2),  # what a page holds
    ],
)
def test_damaged_lmdb_is_an_error_and_no_crash(
    page: int, place: int, width: int, value: int, tmp_path: Path
) -> None:
    folder = write_lmdb(tmp_path / "church_lmdb", range(40), side=4)
    data = bytearray((folder / "data.mdb").read_bytes())
    for start in range(4096 * page, len(data) if page else 8192, 4096):
        data[start + place : start + place + width] = value.to_bytes(width, "little")
    (folder / "data.mdb").write_bytes(data)
    with pytest.raises(ImageError, match=r"church_lmdb.*fetch and unpack it again"):
        LmdbSource(folder)


@pytest.mark.parametrize("kept", [0, 100, 8192, 0.5, -4096])
def test_truncated_lmdb_is_an_error_and_no_crash(tmp_path: Path, kept: float) -> None:
    folder = write_lmdb(tmp_path / "church_lmdb", range(20))
    data = (folder / "data.mdb").read_bytes()
    end = int(len(data) * kept) if isinstance(kept, float) else kept
    (folder / "data.mdb").write_bytes(data[:end])
    with pytest.raises(ImageError, match=r"church_lmdb.*fetch and unpack it again"):
        LmdbSource(folder)


def test_lmdb_that_is_truncated_later_is_an_error(tmp_path: Path) -> None:
    source = LmdbSource(write_lmdb(tmp_path / "church_lmdb", range(20)))
    size = (tmp_path / "church_lmdb" / "data.mdb").stat().st_size
    os.truncate(tmp_path / "church_lmdb" / "data.mdb", size - 4096)
    with pytest.raises(ImageError, match=rf"truncated, it must have {size} bytes and has"):
        source.read(0)


def test_folder_of_one_database_is_taken_for_it_and_of_two_is_not(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "a_lmdb", range(3))
    assert open_source(tmp_path).location == tmp_path / "a_lmdb"
    write_lmdb(tmp_path / "b_lmdb", range(3))
    with pytest.raises(ValueError, match=r"must hold one LMDB database, got a_lmdb, b_lmdb; set"):
        open_source(tmp_path)


def test_zipped_lmdb_and_packed_pictures_are_to_be_unpacked(tmp_path: Path) -> None:
    folder = write_lmdb(tmp_path / "a_lmdb", range(3))
    with zipfile.ZipFile(tmp_path / "a_lmdb.zip", "w") as archive:
        archive.write(folder / "data.mdb", "a_lmdb/data.mdb")
    with pytest.raises(ValueError, match=r"this zip holds an LMDB database: unpack it first"):
        open_source(tmp_path / "a_lmdb.zip")
    packed = write_folder(tmp_path / "packed", ["images.zip"])
    with pytest.raises(ValueError, match=r"unpack images\.zip that is in it"):
        open_source(packed)


def test_missing_package_is_named_with_its_remedy() -> None:
    install = r"pip install -e '\.\[data\]' in the project's folder"
    expected = rf"^a\.fits needs the package nothing: {install}$"
    with pytest.raises(MissingPackageError, match=expected):
        load_extra("nothing.io", use="a.fits")
