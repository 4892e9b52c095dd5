import errno
import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from ood_sampler.store.artifacts import SHARD, Artifact, check_disk, shard_size
from ood_sampler.store.files import (
    digest,
    load_json,
    load_state,
    save_json,
    save_state,
    write_atomically,
)

KEY = {"weights": "ab12", "step": 500}


def items(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(n, *(shape or (2, 3)), generator=torch.Generator().manual_seed(seed))


def filled(root: Path, everything: Tensor) -> Artifact:
    artifact = Artifact(root, "inversion", KEY, len(everything), everything.shape[1:])
    for shard in artifact.missing():
        artifact.write(shard, everything[shard * SHARD : (shard + 1) * SHARD])
    return artifact


def again(artifact: Artifact) -> Artifact:
    """The same artifact, as another run sees it."""
    key = {name: value for name, value in artifact.key.items() if name != "stage"}
    root, stage = artifact.folder.parent, artifact.key["stage"]
    return Artifact(root, stage, key, artifact.count, artifact.shape)


def flipped(data: bytes, position: int) -> bytes:
    damaged = bytearray(data)
    damaged[position] ^= 1 << position % 8
    return bytes(damaged)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), 64), ((2048,), 64), ((3, 32, 32), 64), ((3, 256, 256), 32), ((3, 512, 512), 8)],
)
def test_shards_of_large_items_are_smaller(shape: tuple[int, ...], expected: int) -> None:
    assert shard_size(shape) == expected


def test_an_item_larger_than_a_shard_has_its_own() -> None:
    assert shard_size((3, 4096, 4096)) == 1


def test_a_full_disk_is_named_and_earlier_shards_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = filled(tmp_path, items(SHARD + 3))
    before = files(tmp_path)

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("ood_sampler.store.artifacts.save_file", full)
    with pytest.raises(OSError, match=r"No space left on device.*: make space"):
        artifact.write(1, items(3, seed=1))
    assert files(tmp_path) == before


def test_digest_tells_keys_apart_but_not_their_order() -> None:
    key = {"a": 1, "b": {"c": [1, 2], "d": None}}
    same = {"b": {"d": None, "c": [1, 2]}, "a": 1}
    assert digest(key) == digest(same)
    others = [{**key, "a": 2}, {**key, "a": "1"}, {"a": 1, "b": {"c": [2, 1], "d": None}}, {"a": 1}]
    assert len({digest(k) for k in [key, *others]}) == 5
    assert digest({"b": 2, "a": 1}) == hashlib.sha256(b'{"a": 1, "b": 2}').hexdigest()


def test_folder_is_named_by_stage_and_key(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, "inversion", KEY, 3, (2, 3))
    assert artifact.folder.parent == tmp_path
    assert artifact.folder.name == f"inversion-{digest({'stage': 'inversion', **KEY})[:16]}"
    assert artifact.folder == Artifact(tmp_path, "inversion", KEY, 500, (2, 3)).folder
    assert artifact.digest != Artifact(tmp_path, "decode", KEY, 3, (2, 3)).digest
    assert artifact.folder != Artifact(tmp_path, "inversion", {**KEY, "step": 1}, 3, (2, 3)).folder
    artifact.write(0, items(3))
    recorded = json.loads((artifact.folder / "key.json").read_text())
    assert recorded == {"stage": "inversion", **KEY}


@pytest.mark.parametrize("n", [1, SHARD - 1, SHARD, SHARD + 1, 2 * SHARD + 5])
def test_items_come_back(n: int, tmp_path: Path) -> None:
    everything = items(n)
    artifact = Artifact(tmp_path, "inversion", KEY, n, (2, 3))
    shards = -(-n // SHARD)
    assert artifact.missing() == list(range(shards))
    assert sum(artifact.expected(shard) for shard in range(shards)) == n
    stored = filled(tmp_path, everything).open()
    assert artifact.missing() == []
    assert len(stored) == n
    assert stored.shape == (2, 3)
    assert torch.equal(stored.take(range(n)), everything)
    assert torch.equal(torch.cat(list(stored.blocks(50))), everything)


@pytest.mark.parametrize("n", [1, SHARD - 1, SHARD, SHARD + 1, 2 * SHARD, 2 * SHARD + 5])
def test_missing_items_are_those_of_missing_shards_however_many_more_lie_there(
    n: int, tmp_path: Path
) -> None:
    everything = items(4 * SHARD)
    filled(tmp_path, everything)
    artifact = Artifact(tmp_path, "inversion", KEY, n, (2, 3))
    assert artifact.missing_items() == 0
    artifact.shard_path(0).unlink()
    artifact = again(artifact)
    assert artifact.missing() == [0]
    assert artifact.missing_items() == min(n, SHARD)


@pytest.mark.parametrize("n", [1, SHARD, SHARD + 1, 2 * SHARD])
def test_shards_beyond_those_asked_for_are_not_read(
    n: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = filled(tmp_path, items(n))
    beyond = -(-n // SHARD)
    artifact.shard_path(beyond).write_bytes(b"damaged")
    assert again(artifact).missing() == []
    assert caplog.messages == []
    # asked for, it is told of
    more = Artifact(tmp_path, "inversion", KEY, n + SHARD, (2, 3))
    assert beyond in more.missing()
    assert str(artifact.shard_path(beyond)) in caplog.text


def test_items_come_in_the_order_asked_for(tmp_path: Path) -> None:
    everything = items(2 * SHARD + 5)
    stored = filled(tmp_path, everything).open()
    order = [2 * SHARD + 4, 0, SHARD, SHARD - 1, 0, 2 * SHARD, SHARD + 1, SHARD]
    assert torch.equal(stored.take(order), everything[order])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.int64])
def test_types_are_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    everything = (100 * items(5).abs()).to(dtype)
    artifact = filled(tmp_path, everything)
    assert artifact.missing() == []
    assert artifact.open().take([0]).dtype == dtype
    assert torch.equal(artifact.open().take(range(5)), everything)


def test_same_items_give_same_bytes(tmp_path: Path) -> None:
    everything = items(SHARD + 3)
    filled(tmp_path / "a", everything)
    # a view of other strides holds the same items
    filled(tmp_path / "b", everything.transpose(1, 2).contiguous().transpose(1, 2))
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_more_items_continue_the_folder(tmp_path: Path) -> None:
    everything = items(2 * SHARD + 5)
    filled(tmp_path / "grown", everything[: SHARD + 2])
    grown = Artifact(tmp_path / "grown", "inversion", KEY, len(everything), (2, 3))
    # the second shard is there, but too short
    assert grown.missing() == [1, 2]
    filled(tmp_path / "grown", everything)
    filled(tmp_path / "at once", everything)
    assert files(tmp_path / "grown") == files(tmp_path / "at once")
    fewer = Artifact(tmp_path / "grown", "inversion", KEY, SHARD + 2, (2, 3))
    assert fewer.missing() == []
    assert torch.equal(torch.cat(list(fewer.open().blocks())), everything[: SHARD + 2])


def test_flipped_bits_are_found(tmp_path: Path) -> None:
    everything = items(2, 2)
    artifact = filled(tmp_path, everything)
    path = artifact.shard_path(0)
    data = path.read_bytes()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        if artifact.missing() != [0]:
            assert torch.equal(artifact.open().take([0, 1]), everything)
    path.write_bytes(data)
    assert artifact.missing() == []


def test_truncated_shards_are_found(tmp_path: Path) -> None:
    artifact = filled(tmp_path, items(SHARD + 3, 1))
    path = artifact.shard_path(1)
    data = path.read_bytes()
    for length in (*range(0, len(data), 7), len(data) - 1):
        path.write_bytes(data[:length])
        assert artifact.missing() == [1]
    path.write_bytes(data + b"\0")
    assert artifact.missing() == [1]


def test_a_shard_without_checksum_is_not_trusted(tmp_path: Path) -> None:
    artifact = filled(tmp_path, items(3))
    for damaged in (save({"items": items(3)}), save({"other": items(3)}), b"{}", b"not tensors"):
        artifact.shard_path(0).write_bytes(damaged)
        assert artifact.missing() == [0]
    artifact.shard_path(0).unlink()
    artifact.shard_path(0).mkdir()
    assert artifact.missing() == [0]


def test_a_failed_write_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = filled(tmp_path, items(SHARD + 3))
    before = files(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, lambda *_: full(0))
            for shard in (1, 2):
                with pytest.raises(OSError, match="No space left"):
                    artifact.write(shard, items(3, seed=1))
        assert files(tmp_path) == before
    assert artifact.missing() == []


def test_files_are_readable_as_the_user_has_it(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        artifact = filled(tmp_path, items(3))
    finally:
        os.umask(mask)
    assert artifact.shard_path(0).stat().st_mode & 0o777 == 0o640


def test_an_interrupted_write_leaves_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "new" / "file", b"data")
    assert files(tmp_path) == {}


def test_what_a_killed_process_left_is_no_shard(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, "inversion", KEY, 3, (2, 3))
    artifact.folder.mkdir(parents=True)
    (artifact.folder / ".000000.safetensors.123").write_bytes(b"half")
    assert artifact.missing() == [0]
    filled(tmp_path, items(3))
    assert torch.equal(artifact.open().take([2]), items(3)[2:])


def test_writing_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    for data in (b"long data", b"short"):
        write_atomically(path, data)
        assert files(tmp_path) == {"a/b": data}


def test_disk_must_hold_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> Any:  # noqa: ANN401
        asked.append(path)
        return SimpleNamespace(free=2_000_000_000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    root = tmp_path / "deep" / "outputs"
    check_disk(root, 2_000_000_000)
    assert asked == [root]
    assert root.is_dir()
    assert files(tmp_path) == {}
    with pytest.raises(OSError, match=r"2\.0 GB free, .* needs 3\.0 GB: lower num_samples"):
        check_disk(root, 3_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3_000_000))
    with pytest.raises(OSError, match=r"has 3 MB free, and this run needs 20 MB: lower"):
        check_disk(root, 20_000_000)


def test_folder_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"cannot be written .*: set output to") as caught:
            check_disk(root, 0)
        assert str(root) in str(caught.value)


def test_folder_must_be_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, data: bytes) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(OSError, match=r"cannot be written \(Permission denied\)"):
        check_disk(tmp_path, 0)


def test_state_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    assert load_state(path) is None
    state = {"mean": items(2), "std": items(1), "count": torch.tensor(3)}
    save_state(path, state)
    data = path.read_bytes()
    loaded = load_state(path)
    assert loaded is not None
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    save_state(path, dict(reversed(state.items())))
    assert path.read_bytes() == data
    for damaged in (data[:-1], data[:20], b"", save(state)):
        path.write_bytes(damaged)
        assert load_state(path) is None
    for position in range(len(data)):
        path.write_bytes(flipped(data, position))
        loaded = load_state(path)
        assert loaded is None or all(torch.equal(loaded[name], state[name]) for name in state)


def test_json_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert load_json(path) is None
    content = {"fid": 12.345678901234567, "kid": None, "pair": [0.1, float("nan"), float("inf")]}
    save_json(path, content)
    data = path.read_bytes()
    assert repr(load_json(path)) == repr(content)
    for damaged in (data[:-1], b"", b"null", b"{}", b'{"content": {}}', b"[" * 10**5):
        path.write_bytes(damaged)
        assert load_json(path) is None
    for position in range(len(data)):
        path.write_bytes(flipped(data, position))
        loaded = load_json(path)
        assert loaded is None or repr(loaded) == repr(content)


def test_a_damaged_file_is_told_of_once_until_it_is_written_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    everything = items(3)
    artifact = filled(tmp_path, everything)
    path = artifact.shard_path(0)
    for _ in range(2):
        path.write_bytes(flipped(path.read_bytes(), -1))
        for _ in range(3):
            assert again(artifact).missing() == [0]
        (message,) = caplog.messages
        assert f"{path} is damaged (its checksum differs)" in message
        caplog.clear()
        artifact.write(0, everything)
        assert again(artifact).missing() == []


def test_what_is_missing_or_too_short_is_not_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path, items(3))
    assert Artifact(tmp_path, "inversion", KEY, 5, (2, 3)).missing() == [0]
    assert Artifact(tmp_path, "another", KEY, 5, (2, 3)).missing() == [0]
    assert load_state(tmp_path / "nothing") is None
    assert load_json(tmp_path / "nothing") is None
    assert caplog.messages == []


def test_type_and_shape_are_part_of_the_checksum(tmp_path: Path) -> None:
    artifact = filled(tmp_path, items(6))
    path = artifact.shard_path(0)
    data = path.read_bytes()
    for old, new in ((b'"F32"', b'"I32"'), (b"[6,2,3]", b"[6,3,2]")):
        assert old in data
        path.write_bytes(data.replace(old, new))
        assert artifact.missing() == [0]


def test_a_damaged_key_is_told_of_and_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = filled(tmp_path, items(3))
    path = artifact.folder / "key.json"
    good = path.read_bytes()
    path.write_bytes(good[:-3])
    again(artifact).write(0, items(3))
    assert path.read_bytes() == good
    assert [str(path) in message for message in caplog.messages] == [True]


def test_what_killed_processes_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    artifact = filled(tmp_path, items(3))
    ending = "0123456789abcdef"
    names = [f".000000.safetensors.{ending}", f".000001.safetensors.{ending}", ".lease"]
    for name in names:
        (artifact.folder / name).write_bytes(b"half")
        # another process may still be writing the second
        age = 30 if "000001" in name else 7200
        os.utime(artifact.folder / name, (time.time() - age,) * 2)
    again(artifact).write(0, items(3))
    left = sorted(path.name for path in artifact.folder.glob(".*"))
    assert left == names[1:]
