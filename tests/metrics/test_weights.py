import hashlib
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from ood_sampler.metrics.weights import find_weights

ADDRESS = "https://example.org/models/network.pth"


def test_a_file_or_its_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    file = checkpoints / "network.pth"
    file.write_bytes(b"weights")
    bare = tmp_path / "bare"
    bare.write_bytes(b"weights")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for weights in (file, str(file), checkpoints, str(checkpoints), None):
        assert find_weights(weights, key="space", address=ADDRESS, download=False) == file
    assert find_weights(bare, key="space", address=ADDRESS, download=False) == bare


def test_missing_weights_name_file_source_and_keys(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        find_weights(tmp_path, key="space", address=ADDRESS, download=False)
    assert str(caught.value) == (
        f"{tmp_path / 'network.pth'} is missing: fetch {ADDRESS} and put it there, or set "
        "space.weights= to the path where it lies, or set space.download=true to have it fetched"
    )


def test_a_download_lands_where_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(url: str, path: str, *, progress: bool) -> None:
        assert url == ADDRESS
        Path(path).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", write)
    found = find_weights(tmp_path / "new", key="space", address=ADDRESS, download=True)
    assert found == tmp_path / "new" / "network.pth"
    assert found.read_bytes() == b"weights"


def test_a_failed_download_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str, path: str, *, progress: bool) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(FileNotFoundError, match=r"download failed .*no route.*: fetch https://"):
        find_weights(tmp_path, key="space", address=ADDRESS, download=True)


def test_another_file_under_the_name_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "network.pth"
    file.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    for known in (digest, digest[:8]):
        assert (
            find_weights(file, key="space", address=ADDRESS, download=False, sha256=known) == file
        )
    with pytest.raises(ValueError, match=f"SHA-256 that begins with 1234, got {digest}: delete it"):
        find_weights(file, key="space", address=ADDRESS, download=False, sha256="1234")
