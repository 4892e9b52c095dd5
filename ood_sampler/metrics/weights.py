"""Published weights of networks: find their file, or fetch it."""

import hashlib
from pathlib import Path
from urllib.error import URLError

import torch


def find_weights(
    weights: str | Path | None, *, key: str, address: str, download: bool, sha256: str = ""
) -> Path:
    """Return the path of a file of weights.

    Args:
        weights: the file, or its folder; None takes the `checkpoints` folder of `torch.hub`, where
            other programs leave it too.
        key: of the configuration, which holds `weights` and `download`.
        address: URL of the file.
        download: fetch the file if it is missing.
        sha256: first digits of its SHA-256, in hex, if known.

    Raises:
        FileNotFoundError: the file is missing, and `download` is off or fails.
        ValueError: the file has another SHA-256.
    """
    path = Path(torch.hub.get_dir(), "checkpoints") if weights is None else Path(weights)
    name = address.rsplit("/", 1)[-1]
    if path.is_dir() or not (path.suffix or path.is_file()):
        path = path / name
    remedy = f"fetch {address} and put it there, or set {key}.weights= to the path where it lies"
    if not path.exists() and download:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(address, str(path), progress=False)
        except (URLError, TimeoutError, ConnectionError) as error:
            raise FileNotFoundError(
                f"{path} is missing and its download failed ({error}): {remedy}"
            ) from error
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: {remedy}, or set {key}.download=true to have it fetched"
        )
    if sha256:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not digest.startswith(sha256):
            raise ValueError(
                f"{path} must have a SHA-256 that begins with {sha256}, got {digest}: delete it "
                f"and {remedy}"
            )
    return path
