import hashlib
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gdown
import pytest
from filelock import FileLock

from ood_sampler.models.layout import pipeline_parts
from ood_sampler.models.sources import (
    DriveFile,
    HubPipeline,
    PageFile,
    parse_source,
)
from ood_sampler.models.weights import ASSETS, RECORD, WeightFiles, cache_folder

HUB = {"hub": "owner/dogs", "megabytes": 24}
DRIVE = {"drive": "1aB", "file": "dogs.pt"}
PAGE = {"page": "https://example.org/dogs", "file": "dogs.pt"}
CHUNK = 10 * 2**20
"""Bytes that the hub's client writes at once: what it got of a piece is lost with the transfer."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Hub(ThreadingHTTPServer):
    """The part of the hub's interface that a download of one model needs."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files = files
        self.announced = {name: sha256(data) for name, data in files.items()}
        self.breaks: list[int] = []
        """Bytes of the large file after which to hang up, one for each of its next transfers."""
        self.stalled = threading.Event()
        self.stall_after: int | None = None
        self.requests: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/api/models/owner/dogs":
            self.answer(json.dumps(self.model_info()).encode())
        elif path.startswith("/owner/dogs/resolve/" + "a" * 40):
            name = path.split("/", 5)[5]
            if name.endswith(".json"):
                self.give(name)
            else:  # large files lie elsewhere
                self.send_response(302)
                self.send_header("Location", f"{self.server.address}/storage/{name}")
                self.send_header("Content-Length", "0")
                self.end_headers()
        elif path.startswith("/storage/"):
            self.give(path.removeprefix("/storage/"))
        else:
            self.answer(b'{"error": "Repository not found"}', status=404)

    def model_info(self) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = []
        for name, data in self.server.files.items():
            siblings.append({"rfilename": name, "size": len(data), "blobId": "b" * 40})
            if not name.endswith(".json"):
                lfs = {"sha256": self.server.announced[name], "size": len(data), "pointerSize": 134}
                siblings[-1]["lfs"] = lfs
        return {"id": "owner/dogs", "sha": "a" * 40, "siblings": siblings, "tags": []}

    def answer(self, data: bytes, *, status: int = 200) -> None:
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def give(self, name: str) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append((name, asked))
        data = self.server.files[name]
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if name.endswith(".json"):
            self.wfile.write(data)
            return
        if self.server.stall_after is not None:
            self.wfile.write(data[start : self.server.stall_after])
            self.server.stalled.set()
            threading.Event().wait(20)
        if self.server.breaks:
            self.wfile.write(data[start : self.server.breaks.pop(0)])
            self.close_connection = True
            return
        self.wfile.write(data[start:])


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub(
        {
            "README.md": b"dogs",
            "config.json": b'{"_class_name": "UNet2DModel"}',
            "scheduler_config.json": b"{}",
            "model_index.json": b"{}",
            "diffusion_pytorch_model.bin": b"pickle",
            "diffusion_pytorch_model.safetensors": os.urandom(2 * CHUNK + 5),
        }
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


OBTAIN = """
import json, logging, sys
from ood_sampler.models.weights import WeightFiles
logging.basicConfig(level=logging.INFO)
try:
    weights = WeightFiles(name="dogs", path=None, sources=json.loads(sys.argv[1])).obtain()
except FileNotFoundError as error:
    sys.exit(f"missing: {error}")
print(weights.path)
heavy = {"torch", "diffusers", "hydra"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def obtain(address: str, *sources: dict[str, Any]) -> subprocess.Popen[str]:
    """Get the weights in a process of its own: the hub's address is read once in a process."""
    return subprocess.Popen(
        [sys.executable, "-c", OBTAIN, json.dumps(sources or [HUB])],
        env={
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_CACHE": str(cache_folder() / "hub_cache"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def check_downloaded(
    hub: Hub,
    cache: Path,
    *,
    others: frozenset[str] = frozenset({"README.md", "diffusion_pytorch_model.bin"}),
) -> None:
    folder = cache / "models" / "dogs" / "owner--dogs"
    there = {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }
    wanted = set(hub.files) - others
    assert there == {name: hub.files[name] for name in wanted}


def large_transfers(hub: Hub) -> list[str | None]:
    return [asked for name, asked in hub.requests if name.endswith(".safetensors")]


def test_a_hub_model_is_fetched_whole_and_nothing_else(hub: Hub, cache: Path) -> None:
    process = obtain(hub.address)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert Path(stdout.strip()) == cache / "models" / "dogs" / "owner--dogs"
    check_downloaded(hub, cache)
    assert f"{HUB['megabytes']} MB" in stderr
    assert "diffusion_pytorch_model.safetensors" in stderr  # the progress bar
    before = len(hub.requests)
    assert obtain(hub.address).wait() == 0
    assert len(hub.requests) == before  # the second time it is there


SHARDS = {f"unet/diffusion_pytorch_model.fp16-0000{i}-of-00002.safetensors": b"w" for i in (1, 2)}
INDEX = json.dumps({"weight_map": {str(i): Path(name).name for i, name in enumerate(SHARDS)}})


def test_a_hub_model_of_a_variant_alone_is_fetched(hub: Hub, cache: Path) -> None:
    weights = hub.files.pop("diffusion_pytorch_model.safetensors")
    del hub.files["diffusion_pytorch_model.bin"]
    hub.files["diffusion_pytorch_model.fp16.safetensors"] = weights[:100]
    hub.announced = {name: sha256(data) for name, data in hub.files.items()}
    assert obtain(hub.address).wait() == 0
    check_downloaded(hub, cache)


def test_a_hub_model_in_shards_is_fetched_shard_by_shard(hub: Hub, cache: Path) -> None:
    parts = ("config.json", "diffusion_pytorch_model.safetensors.index.fp16.json")
    hub.files |= {"scheduler/scheduler_config.json": b"{}", **SHARDS}
    hub.files |= {f"unet/{parts[0]}": b"{}", f"unet/{parts[1]}": INDEX.encode()}
    hub.announced = {name: sha256(data) for name, data in hub.files.items()}
    process = obtain(hub.address)
    assert process.wait() == 0, process.communicate()[1]
    at_root = {name for name in hub.files if "/" not in name} - {"model_index.json"}
    check_downloaded(hub, cache, others=frozenset(at_root))
    asked = [name for name, _ in hub.requests]
    assert asked[-2:] == list(SHARDS)
    assert len(set(asked)) == len(asked)


def test_latent_diffusion_is_fetched_with_its_autoencoder(hub: Hub, cache: Path) -> None:
    index = {"vqvae": ["diffusers", "VQModel"], "unet": ["diffusers", "UNet2DModel"]}
    hub.files = {"model_index.json": json.dumps(index).encode(), "README.md": b"faces"}
    hub.files["scheduler/scheduler_config.json"] = b"{}"
    for network in ("unet", "vqvae"):
        hub.files[f"{network}/config.json"] = b"{}"
        hub.files[f"{network}/diffusion_pytorch_model.bin"] = f"weights of {network}".encode()
    hub.announced = {name: sha256(data) for name, data in hub.files.items()}
    process = obtain(hub.address)
    assert process.wait() == 0, process.stderr
    check_downloaded(hub, cache, others=frozenset({"README.md"}))
    weights = [name for name, _ in hub.requests if name.endswith(".bin")]
    assert weights == [f"{network}/diffusion_pytorch_model.bin" for network in ("vqvae", "unet")]
    shutil.rmtree(cache)
    del hub.files["vqvae/config.json"], hub.files["vqvae/diffusion_pytorch_model.bin"]
    assert "it lacks vqvae/config.json, vqvae/diff" in obtain(hub.address).communicate()[1]


def test_a_hub_model_that_lacks_a_shard_is_told(hub: Hub) -> None:
    index = {"weight_map": {"a": "diffusion_pytorch_model-00001-of-00001.safetensors"}}
    hub.files["diffusion_pytorch_model.safetensors.index.json"] = json.dumps(index).encode()
    hub.files["diffusion_pytorch_model-00001-of-00001.safetensors"] = b"w"
    for name in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"):
        del hub.files[name]
    del hub.files["diffusion_pytorch_model-00001-of-00001.safetensors"]
    stderr = obtain(hub.address).communicate()[1]
    assert "it lacks diffusion_pytorch_model-00001-of-00001.safetensors" in stderr
    index = {"weight_map": {"a": "../../x"}}
    hub.files["diffusion_pytorch_model.safetensors.index.json"] = json.dumps(index).encode()
    shutil.rmtree(cache_folder() / "models")
    stderr = obtain(hub.address).communicate()[1]
    assert "index.json must name files beside it, got '../../x'" in stderr


def test_a_broken_transfer_goes_on_where_it_broke(hub: Hub, cache: Path) -> None:
    hub.breaks = [CHUNK + 1000]
    process = obtain(hub.address)
    assert process.wait() == 0, process.communicate()[1]
    assert large_transfers(hub) == [None, f"bytes={CHUNK}-"]
    check_downloaded(hub, cache)


def test_a_killed_process_leaves_nothing_that_looks_whole_and_the_next_goes_on(
    hub: Hub, cache: Path
) -> None:
    hub.stall_after = CHUNK + 1000
    process = obtain(hub.address)
    assert hub.stalled.wait(20)
    folder = cache / "models" / "dogs" / "owner--dogs"
    while not any(file.stat().st_size == CHUNK for file in folder.glob(".*.partial")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    files = WeightFiles(name="dogs", path=None, sources=[HUB])
    assert files.find() is None
    hub.stall_after = None
    assert obtain(hub.address).wait() == 0
    assert large_transfers(hub) == [None, f"bytes={CHUNK}-"]
    check_downloaded(hub, cache)


def test_two_processes_that_want_the_same_model_fetch_it_once(hub: Hub, cache: Path) -> None:
    processes = [obtain(hub.address), obtain(hub.address)]
    assert [process.wait() for process in processes] == [0, 0]
    assert large_transfers(hub) == [None]
    check_downloaded(hub, cache)


@pytest.mark.usefixtures("online")
def test_a_process_that_waited_takes_what_the_other_fetched(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gdown, "download", None)
    files = WeightFiles(name="dogs", path=None, sources=[DRIVE])
    files.folder.mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.INFO):
        with FileLock(files.folder / ".lock"):
            waiting = pool.submit(files.obtain)
            while "waiting for it" not in caplog.text:
                assert not waiting.done()
                time.sleep(0.01)
            (files.folder / "dogs.pt").write_bytes(b"PK")
        assert waiting.result().path == cache / "models" / "dogs" / "dogs.pt"


def test_a_file_that_is_not_what_the_hub_announced_is_not_kept(hub: Hub, cache: Path) -> None:
    hub.announced["diffusion_pytorch_model.safetensors"] = "0" * 64
    stderr = obtain(hub.address).communicate()[1]
    assert "the hub announced " + "0" * 64 in stderr
    folder = cache / "models" / "dogs" / "owner--dogs"
    assert not list(folder.glob("*diffusion_pytorch_model*"))


def test_what_the_hub_does_not_have_is_said_in_one_message(hub: Hub) -> None:
    stderr = obtain(hub.address, {"hub": "owner/cats"}).communicate()[1]
    assert "missing: the weights of model dogs are missing and were not fetched" in stderr
    assert "https://huggingface.co/owner/cats" in stderr
    assert "404" in stderr
    del hub.files["scheduler_config.json"]
    assert "holds no diffusers pipeline" in obtain(hub.address).communicate()[1]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"vae": ["diffusers", "AutoencoderKL"]}, "got vae: text-to-image and other pipelines"),
        ({"unet": ["diffusers", "UNet2DConditionModel"]}, "must be a UNet2DModel, got UNet2DCond"),
        ([], "model_index.json must hold a JSON object, got list"),
    ],
)
def test_another_kind_of_pipeline_is_refused_before_its_weights_are_fetched(
    hub: Hub, index: object, message: str
) -> None:
    hub.files["model_index.json"] = json.dumps(index).encode()
    stderr = obtain(hub.address).communicate()[1]
    assert message in stderr
    assert [name for name, _ in hub.requests] == ["model_index.json"]


def test_without_a_network_the_message_says_so(cache: Path) -> None:
    process = obtain("http://127.0.0.1:9")
    stderr = process.communicate()[1]
    assert process.returncode == 1
    assert "Traceback" not in stderr
    assert "https://huggingface.co/owner/dogs: " in stderr
    assert "Connection refused" in stderr
    assert str(cache / "models" / "dogs") in stderr


def download(content: bytes) -> Any:  # noqa: ANN401
    def fake(*, id: str, output: str, **options: object) -> str:
        assert id == "1aB"
        assert options["resume"]
        Path(output).write_bytes(content)
        return output

    return fake


def download_5(
    url: str | None = None,
    output: str | None = None,
    quiet: bool = False,
    id: str | None = None,
    resume: bool = False,
) -> str | None:
    """As gdown 5 and 6.0 to 6.2 are called; 6.0 removed `fuzzy`, 6.3 brought `timeout`."""
    assert (url, quiet, id, resume) == (None, False, "1aB", True)
    Path(str(output)).write_bytes(b"PK weights")
    return output


def download_6(
    url: str | None = None,
    output: str | None = None,
    *,
    id: str | None = None,
    resume: bool = False,
    timeout: float | None = None,
    retries: int = 0,
) -> str | None:
    assert timeout is not None
    assert timeout > 0
    assert retries > 0
    return download_5(url, output, id=id, resume=resume)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")


@pytest.mark.usefixtures("online")
def test_a_drive_file_is_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gdown, "download", download(b"PK weights"))
    files = WeightFiles(name="dogs", path=None, sources=[DRIVE, PAGE])
    assert files.find() is None
    weights = files.obtain()
    assert weights.path == cache / "models" / "dogs" / "dogs.pt"
    assert weights.path.read_bytes() == b"PK weights"
    assert {file.name for file in weights.path.parent.iterdir()} == {"dogs.pt", ".lock"}


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("function", [download_5, download_6])
def test_every_version_of_gdown_is_called_with_what_it_knows(
    function: Callable[..., str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gdown, "download", function)
    weights = WeightFiles(name="dogs", path=None, sources=[DRIVE]).obtain()
    assert weights.path.read_bytes() == b"PK weights"


@pytest.mark.usefixtures("online")
def test_without_the_errors_of_gdown_6_those_of_gdown_5_are_understood(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class RetrievalError(Exception):
        pass

    def refuse(**options: object) -> None:
        raise RetrievalError("Too many users")

    monkeypatch.setattr(gdown, "download", refuse)
    monkeypatch.setattr(gdown.exceptions, "FileURLRetrievalError", RetrievalError)
    monkeypatch.delattr(gdown.exceptions, "DownloadError")
    with pytest.raises(FileNotFoundError, match="view: Too many users"):
        WeightFiles(name="dogs", path=None, sources=[DRIVE]).obtain()


@pytest.mark.usefixtures("online")
def test_a_drive_that_sends_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gdown, "download", lambda **options: None)
    with pytest.raises(FileNotFoundError, match="view: Google Drive did not send the file"):
        WeightFiles(name="dogs", path=None, sources=[DRIVE]).obtain()


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("page", [b"<!DOCTYPE html><html>Quota exceeded", b"\n <HTML>Sign in"])
def test_a_web_page_is_not_taken_for_weights(
    cache: Path, monkeypatch: pytest.MonkeyPatch, page: bytes
) -> None:
    monkeypatch.setattr(gdown, "download", download(page))
    with pytest.raises(FileNotFoundError, match="sent a web page instead of the file"):
        WeightFiles(name="dogs", path=None, sources=[DRIVE]).obtain()
    assert [file.name for file in (cache / "models" / "dogs").iterdir()] == [".lock"]


def refused() -> None:
    try:
        raise gdown.exceptions.FileURLRetrievalError("Too many users have viewed the file")
    except gdown.exceptions.FileURLRetrievalError as error:
        raise gdown.exceptions.FileURLRetrievalError(f"long\n\n\tadvice {error}") from error


def unreachable() -> None:
    raise OSError("no route to host")


def without_headers() -> None:
    raise KeyError("content-type")


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (refused, "view: Too many users have viewed the file)"),
        (unreachable, "view: no route to host)"),
        (without_headers, "'content-type'"),
    ],
)
def test_what_drive_refuses_is_said_in_one_message(
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[], None],
    reason: str,
) -> None:
    monkeypatch.setattr(gdown, "download", lambda **options: fault())
    with pytest.raises(FileNotFoundError) as caught:
        WeightFiles(name="dogs", path=None, sources=[DRIVE, PAGE]).obtain()
    message = str(caught.value)
    assert reason in message
    assert (
        f"looked in {cache / 'models' / 'dogs'} for dogs.pt (from "
        "https://drive.google.com/file/d/1aB/view or https://example.org/dogs)" in message
    )
    assert "\n" not in message


@pytest.mark.usefixtures("online")
def test_without_gdown_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    expected = r"pip install -e '\.\[data\]' in the project's folder"
    with pytest.raises(FileNotFoundError, match=expected):
        WeightFiles(name="dogs", path=None, sources=[DRIVE]).obtain()


@pytest.mark.usefixtures("online")
def test_the_next_source_is_tried_where_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        gdown, "download", lambda **o: download(b"<html>" if o["id"] == "no" else b"PK")(**o)
    )
    monkeypatch.setattr(HubPipeline, "fetch", lambda self, folder: unreachable_source())
    sources = [HUB, {"drive": "1aB", "file": "second.pt"}]
    assert WeightFiles(name="dogs", path=None, sources=sources).obtain().path.name == "second.pt"


def unreachable_source() -> None:
    from ood_sampler.models.sources import FetchError

    raise FetchError("not today")


def test_offline_nothing_is_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gdown, "download", None)
    with pytest.raises(FileNotFoundError) as caught:
        WeightFiles(name="dogs", path=None, sources=[HUB, DRIVE, PAGE]).obtain()
    message = str(caught.value)
    for part in (
        "HF_HUB_OFFLINE is set",
        "owner--dogs/ (from https://huggingface.co/owner/dogs)",
        "dogs.pt (from https://drive.google.com/file/d/1aB/view or https://example.org/dogs)",
        str(cache / "models" / "dogs"),
        "set model.path",
    ):
        assert part in message
    assert not cache.exists()


def make_pipeline(folder: Path, *, prefix: str = "", suffix: str = "safetensors") -> Path:
    scheduler = "scheduler/" if prefix else ""
    for name in (
        f"{prefix}config.json",
        f"{scheduler}scheduler_config.json",
        f"{prefix}diffusion_pytorch_model.{suffix}",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize("prefix", ["", "unet/"])
def test_a_model_in_the_users_hub_cache_is_found(tmp_path: Path, prefix: str) -> None:
    repository = tmp_path / "hub_cache" / "models--owner--dogs"
    snapshot = make_pipeline(repository / "snapshots" / ("a" * 40), prefix=prefix, suffix="bin")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    found = WeightFiles(name="dogs", path=None, sources=[HUB]).find()
    assert found is not None
    assert found.path == snapshot
    (snapshot / f"{prefix}config.json").unlink()
    assert WeightFiles(name="dogs", path=None, sources=[HUB]).find() is None


def test_the_order_is_path_cache_hub_cache(tmp_path: Path, cache: Path) -> None:
    def found(path: str | None = None) -> Path | None:
        weights = WeightFiles(name="dogs", path=path, sources=[HUB, DRIVE]).find()
        return None if weights is None else weights.path

    repository = tmp_path / "hub_cache" / "models--owner--dogs"
    snapshot = make_pipeline(repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    assert found() == snapshot
    own = make_pipeline(cache / "models" / "dogs" / "owner--dogs")
    assert found() == own
    assert found(str(tmp_path / "nowhere")) is None
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dogs.pt").touch()
    assert found(str(tmp_path / "mine")) == tmp_path / "mine" / "dogs.pt"
    assert found(str(own)) == own


def test_a_hub_id_is_a_path_where_nothing_lies(cache: Path) -> None:
    files = WeightFiles(name="mine", path="owner/dogs")
    folder = make_pipeline(cache / "models" / "mine" / "owner--dogs", prefix="unet/")
    found = files.find()
    assert found is not None
    assert found.path == folder
    assert WeightFiles(name="mine", path="weights/dogs.pt").sources == []
    with pytest.raises(FileNotFoundError, match=r"looked for .*weights/dogs\.pt; set model\.path"):
        WeightFiles(name="mine", path="weights/dogs.pt").obtain()


def test_what_is_missing_at_a_path_is_fetched_for_a_hub_id_alone(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    fetched = []

    def fetch(source: HubPipeline, folder: Path) -> None:
        fetched.append(source.hub)
        make_pipeline(folder / source.entry)

    monkeypatch.setattr(HubPipeline, "fetch", fetch)
    nowhere = WeightFiles(name="mine", path=str(tmp_path / "nowhere"), sources=[HUB])
    with pytest.raises(FileNotFoundError, match=r"looked for .*nowhere; set model\.path"):
        nowhere.obtain()
    with pytest.raises(FileNotFoundError, match=r"looked for .*nowhere; set model\.path"):
        nowhere.missing_megabytes()
    assert fetched == []
    by_id = WeightFiles(name="mine", path="owner/cats")
    assert math.isnan(by_id.missing_megabytes() or 0)
    assert by_id.obtain().path == cache / "models" / "mine" / "owner--cats"
    assert by_id.missing_megabytes() is None
    assert WeightFiles(name="dogs", path=None, sources=[HUB]).missing_megabytes() == 24
    WeightFiles(name="dogs", path=None, sources=[HUB]).obtain()
    assert fetched == ["owner/cats", "owner/dogs"]


def test_a_bare_name_is_a_shipped_pipeline_where_none_lies_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(path: str) -> Path | None:
        weights = WeightFiles(name="mine", path=path).find()
        return None if weights is None else weights.path

    monkeypatch.chdir(tmp_path)
    shipped = ASSETS / "dog32"
    assert found("dog32") == shipped
    (tmp_path / "dog32").mkdir()
    (tmp_path / "dog32" / "notes.txt").touch()
    assert found("dog32") == shipped
    for path in (".", "..", "", "features32", "./dog32", "dog32/", "../assets/dog32", "nowhere"):
        assert found(path) is None, path
    make_pipeline(tmp_path / "dog32")
    assert found("dog32") == Path("dog32")
    make_pipeline(tmp_path)
    assert found(".") == Path()


@pytest.mark.parametrize("sources", [[], [DRIVE, PAGE]])
def test_a_folder_in_place_of_a_file_says_what_is_in_it(
    tmp_path: Path, sources: list[dict[str, Any]]
) -> None:
    for name in ("b.pt", "a.safetensors", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError) as caught:
        WeightFiles(name="mine", path=str(tmp_path), sources=sources).obtain()
    message = str(caught.value)
    assert f"{tmp_path} has no whole diffusers pipeline (config.json, sch" in message
    assert ("nor dogs.pt, but a.safetensors, b.pt; set" in message) == bool(sources)
    assert f"set model.path to the file itself, as {tmp_path / 'a.safetensors'}" in message
    assert "notes.txt" not in message
    assert "\n" not in message


def test_a_folder_here_is_not_taken_for_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "dogs").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="owner/dogs has no whole diffusers pipeline"):
        WeightFiles(name="mine", path="owner/dogs").obtain()


def test_another_hub_model_under_the_same_name_is_another_folder(cache: Path) -> None:
    make_pipeline(cache / "models" / "mine" / "owner--dogs")
    assert WeightFiles(name="mine", path="owner/cats").find() is None


def unread(part: str) -> Path:
    raise AssertionError(f"{part} is no index")


def test_parts_are_taken_from_one_layout() -> None:
    both = {"unet/config.json", "scheduler_config.json", "diffusion_pytorch_model.bin"}
    assert pipeline_parts(both, unread) is None
    root = {"config.json", "scheduler_config.json", "diffusion_pytorch_model.bin"}
    assert pipeline_parts(root, unread) == [
        "config.json",
        "scheduler_config.json",
        "diffusion_pytorch_model.bin",
    ]
    safe = "diffusion_pytorch_model.safetensors"
    assert pipeline_parts(root | {safe}, unread) == [
        "config.json",
        "scheduler_config.json",
        safe,
    ]


def test_checksums_are_kept_and_compared(cache: Path) -> None:
    files = WeightFiles(name="dogs", path=None, sources=[DRIVE])
    place = cache / "models" / "dogs" / "dogs.pt"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"by hand")
    weights = files.obtain()
    assert weights.checksums == {"": sha256(b"by hand")}
    record = place.parent / RECORD
    assert not record.exists()
    weights.remember()
    assert json.loads(record.read_text()) == {"dogs.pt": sha256(b"by hand")}
    assert files.obtain().checksums == weights.checksums

    place.write_bytes(b"changed")
    with pytest.raises(ValueError, match="of its first use") as caught:
        _ = files.obtain().checksums
    for part in (str(place), sha256(b"by hand"), sha256(b"changed"), f"remove {record} if"):
        assert part in str(caught.value)
    record.unlink()
    assert files.obtain().checksums == {"": sha256(b"changed")}


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


KNOWN = {**DRIVE, "md5": md5(b"averaged"), "raw_md5": md5(b"raw")}
RAW = f"has the MD5 {md5(b'raw')} of the raw weights, not of the averaged ones"


def in_cache(cache: Path, data: bytes) -> Path:
    file = cache / "models" / "dogs" / "dogs.pt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def test_a_file_in_the_cache_must_be_the_published_one(cache: Path) -> None:
    files = WeightFiles(name="dogs", path=None, sources=[KNOWN])
    file = in_cache(cache, b"averaged")
    files.obtain().remember()
    assert files.obtain().checksums == {"": sha256(b"averaged")}
    in_cache(cache, b"raw")
    for recorded in (True, False):
        # a record of the time when raw weights were taken explains nothing, and hides nothing
        (file.parent / RECORD).write_text(
            json.dumps({"dogs.pt": sha256(b"raw")} if recorded else {})
        )
        with pytest.raises(ValueError, match=RAW) as caught:
            _ = files.obtain().checksums
        assert f"remove it to have {file.name} fetched again" in str(caught.value)
        assert f"model=checkpoint model.name=… model.path={file}" in str(caught.value)
    in_cache(cache, b"another")
    with pytest.raises(ValueError, match=f"has the MD5 {md5(b'another')}, the published file"):
        _ = files.obtain().checksums


def test_a_published_sha256_is_compared(cache: Path) -> None:
    files = WeightFiles(name="dogs", path=None, sources=[{**DRIVE, "sha256": sha256(b"good")}])
    in_cache(cache, b"good")
    assert files.obtain().checksums == {"": sha256(b"good")}
    in_cache(cache, b"bad")
    with pytest.raises(ValueError, match=f"has the SHA-256 {sha256(b'bad')}, the published file"):
        _ = files.obtain().checksums


def test_a_file_of_ones_own_may_be_any_but_the_raw_one(tmp_path: Path) -> None:
    own = tmp_path / "own.ckpt"
    files = WeightFiles(name="dogs", path=str(own), sources=[HUB, KNOWN])
    own.write_bytes(b"trained further")
    assert files.obtain().checksums == {"": sha256(b"trained further")}
    own.write_bytes(b"raw")
    with pytest.raises(ValueError, match=RAW):
        _ = files.obtain().checksums
    other = WeightFiles(name="mine", path=str(own))
    assert other.obtain().checksums == {"": sha256(b"raw")}


@pytest.mark.usefixtures("online")
def test_a_fetched_file_that_is_another_is_not_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gdown, "download", download(b"raw"))
    with pytest.raises(FileNotFoundError, match=f"the file that arrived {RAW}"):
        WeightFiles(name="dogs", path=None, sources=[KNOWN]).obtain()
    assert [file.name for file in (cache / "models" / "dogs").iterdir()] == [".lock"]
    monkeypatch.setattr(gdown, "download", download(b"averaged"))
    weights = WeightFiles(name="dogs", path=None, sources=[KNOWN]).obtain()
    assert weights.path.read_bytes() == b"averaged"


def test_weights_of_earlier_sources_are_named_and_not_used(cache: Path) -> None:
    folder = cache / "models" / "dogs"
    make_pipeline(folder / "owner--raw-dogs")
    (folder / "old.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=r"weights of model dogs are missing") as caught:
        WeightFiles(name="dogs", path=None, sources=[HUB]).obtain()
    expected = f"(old.ckpt, owner--raw-dogs in {folder} are other weights: use them under a name"
    assert expected in str(caught.value)


def test_a_pipeline_is_recorded_file_by_file_beside_other_files(cache: Path) -> None:
    folder = make_pipeline(cache / "models" / "dogs" / "owner--dogs")
    record = folder.parent / RECORD
    record.write_text('{"dogs.pt": "0"}')
    files = WeightFiles(name="dogs", path=None, sources=[HUB, DRIVE])
    files.obtain().remember()
    names = ("config.json", "diffusion_pytorch_model.safetensors", "scheduler_config.json")
    expected = {f"owner--dogs/{name}": sha256(name.encode()) for name in names}
    assert json.loads(record.read_text()) == {"dogs.pt": "0", **expected}
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"owner--dogs/config\.json must have the SHA-256"):
        _ = files.obtain().checksums


@pytest.mark.parametrize("text", ["not json", "[1]"])
def test_a_damaged_record_is_named(cache: Path, text: str) -> None:
    folder = make_pipeline(cache / "models" / "dogs" / "owner--dogs")
    (folder.parent / RECORD).write_text(text)
    with pytest.raises(ValueError, match=r"sha256\.json must map files to checksums"):
        _ = WeightFiles(name="dogs", path=None, sources=[HUB]).obtain().checksums


def test_a_file_that_the_user_named_leaves_no_record(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "mine.pt").write_bytes(b"mine")
    weights = WeightFiles(name="mine", path=str(tmp_path / "mine.pt")).obtain()
    weights.remember()
    assert weights.checksums == {"": sha256(b"mine")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.pt"]


def test_a_cache_that_cannot_be_written_is_no_fault_where_weights_are_there(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_pipeline(cache / "models" / "dogs" / "owner--dogs")
    weights = WeightFiles(name="dogs", path=None, sources=[HUB]).obtain()

    def denied(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", denied)
    weights.remember()
    assert "no checksum is kept" in caplog.text


@pytest.mark.usefixtures("online")
def test_a_cache_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("OOD_SAMPLER_CACHE", str(tmp_path / "file"))
    with pytest.raises(FileNotFoundError, match=r"file/models/dogs cannot be written .*set model"):
        WeightFiles(name="dogs", path=None, sources=[DRIVE]).obtain()


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OOD_SAMPLER_CACHE", "~/mine")
    assert cache_folder() == Path.home() / "mine"
    monkeypatch.delenv("OOD_SAMPLER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/ood_sampler")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "ood_sampler"


def test_a_name_stays_below_the_cache_folder(cache: Path) -> None:
    folder = WeightFiles(name="../../mine", path=None, sources=[DRIVE]).folder
    assert folder.resolve().parent == cache / "models"


def test_sources_are_read_from_their_entries() -> None:
    assert parse_source(HUB) == HubPipeline(hub="owner/dogs", megabytes=24)
    assert parse_source(DRIVE) == DriveFile(drive="1aB", file="dogs.pt")
    assert parse_source(PAGE) == PageFile(page="https://example.org/dogs", file="dogs.pt")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"drive": "1aB"}, r"model\.sources must hold entries of the form"),
        ({"url": "x"}, r"model\.sources must hold entries of the form"),
        ({**HUB, **DRIVE}, r"model\.sources must hold entries of the form"),
        ({"drive": "1aB", "file": "../dogs.pt"}, "must be a file name, got '../dogs.pt'"),
        ({"drive": "1aB", "file": ""}, "must be a file name, got ''"),
        ({**DRIVE, "md5": "123"}, "md5 in model.sources must be 32 hexadecimal digits in lower"),
        ({**DRIVE, "sha256": "G" * 64}, "sha256 in model.sources must be 64 hexadecimal digits"),
        ({**HUB, "md5": "0" * 32}, r"model\.sources must hold entries of the form"),
    ],
)
def test_a_malformed_source_is_named(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_source(entry)
