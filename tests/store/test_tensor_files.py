import os
import pickle
from pathlib import Path

import pytest
import torch

from ood_sampler.store.tensor_files import read_state


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


# of torch 1.6 and later, and of before, as old files are
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_read_by_name(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "network.pth"
    torch.save({"a": torch.arange(3.0)}, file, _use_new_zipfile_serialization=zipped)
    state = read_state(file)
    assert list(state) == ["a"]
    assert state["a"].tolist() == [0, 1, 2]


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "network.pth"
    torch.save({"a": Bomb()}, file)
    with pytest.raises(ValueError, match=r"network\.pth must hold tensors alone, got a pickle"):
        read_state(file)
    assert not (tmp_path / "exploded").exists()
    torch.load(file, weights_only=False)
    assert (tmp_path / "exploded").exists()


def test_damaged_and_other_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "network.pth"
    torch.save({"a": torch.arange(3000.0)}, file)
    whole = file.read_bytes()
    for content in (b"", b"<html>", whole[: len(whole) // 2], pickle.dumps({"a": 1}, protocol=2)):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"network\.pth must (hold|be) "):
            read_state(file)
    for other in ([torch.ones(1)], {"state_dict": {"a": torch.ones(1)}}):
        torch.save(other, file)
        with pytest.raises(ValueError, match=r"network\.pth must hold tensors by name"):
            read_state(file)


def damaged_directory(file: Path, at: int, value: int) -> None:
    """Store a tensor, and change a byte of the last entry in the directory of its zip file."""
    torch.save({"a": torch.arange(3.0)}, file)
    data = bytearray(file.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 9] |= 0x08  # names are UTF-8
    data[entry + at] = value
    file.write_bytes(data)


def test_a_name_in_a_zip_file_that_is_no_text_is_told_as_damage(tmp_path: Path) -> None:
    file = tmp_path / "network.pth"
    damaged_directory(file, 46, 0xE5)
    with pytest.raises(ValueError, match=r"network\.pth must (hold|be) ") as caught:
        read_state(file)
    assert not isinstance(caught.value, UnicodeDecodeError)


def test_a_zip_file_of_a_version_that_nobody_writes_is_left_to_torch(tmp_path: Path) -> None:
    file = tmp_path / "network.pth"
    damaged_directory(file, 6, 0xFF)
    assert read_state(file)["a"].tolist() == [0, 1, 2]
