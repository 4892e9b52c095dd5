"""Cards, and pushing to a stand-in of the hub."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from ood_sampler.faults import CommandError
from ood_sampler.models.__main__ import answer, main
from ood_sampler.models.cards import shipped
from ood_sampler.models.hub import upload_of
from ood_sampler.models.layout import parts_of
from ood_sampler.models.weights import ASSETS

TOKEN = "hf_stand_in"  # noqa: S105 of nobody


class Hub(ThreadingHTTPServer):
    """The part of the hub's API that a push uses."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.kind = ""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.body()
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self.answer(200, {"url": f"{self.server.address}/me/mine"})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            named = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.answer(200, {"files": named})
        else:
            assert "/me/mine/commit/main" in self.path
            self.server.kind = self.path.split("/")[2]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
            self.answer(
                200,
                {
                    "commitUrl": f"{self.server.address}/me/mine/commit/1",
                    "commitOid": "1",
                    "success": True,
                },
            )

    def body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, code: int, found: dict[str, Any]) -> None:
        data = json.dumps(found).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield server
    server.shutdown()
    server.server_close()


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_a_shipped_base_goes_to_the_hub_in_diffusers_layout(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(["push", "dog32", "me/mine", "private=true"])
    assert f"{hub.address}/me/mine" in capsys.readouterr().out
    (created,) = hub.created
    assert (created["name"], created["organization"]) == ("mine", "me")
    assert created.get("private") or created.get("visibility") == "private"
    assert hub.kind == "models"
    pushed = written(tmp_path, hub.files)
    for part in parts_of(ASSETS / "dog32") or ():
        assert (pushed / part).read_bytes() == (ASSETS / "dog32" / part).read_bytes()
    card = (pushed / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers\n")
    assert "license: mit\n" in card
    assert "5,000 training images of the class dog" in card

    from diffusers import DDPMPipeline

    assert DDPMPipeline.from_pretrained(pushed).unet.config.sample_size == 32


def test_a_trained_base_goes_without_paths_of_its_machine(
    hub: Hub, model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "pipeline").symlink_to(model_folder)
    (folder / "config.yaml").write_text(
        "images: 512\nseed: 0\ndata: {root: /secret/place, resolution: 16}\n"
        "schedule: {num_train_timesteps: 1000, beta_schedule: linear}\n"
    )
    assert answer(["push", str(folder), "me/mine", "licence=cc-by-4.0"])
    card = hub.files["README.md"].decode()
    assert "license: cc-by-4.0" in card
    assert "# mine" in card
    assert "| images seen in training | 512 |" in card
    assert not any(b"secret" in data for data in hub.files.values())
    assert set(parts_of(model_folder) or ()) <= set(hub.files)


def test_samples_go_as_a_data_set_of_images(hub: Hub, tmp_path: Path) -> None:
    rows = [
        {"name": "cog (3)", "kid": 0.25, "kid_low": 0.2, "kid_high": 0.3, "precision": 0.9},
        {"name": "real images", "kid": 0.01, "kid_low": 0.0, "kid_high": 0.02},
    ]
    run = {"model": "dog32", "data": "mine", "sampler": "cog", "step": 500, "seed": 0}
    found = {"run": run, "protocol": {"judges": "imagenet"}, "rows": rows, "skipped": ["/secret"]}
    (tmp_path / "metrics.json").write_text(json.dumps(found))
    samples = tmp_path / "samples"
    samples.mkdir()
    (samples / "00000.png").write_bytes(b"picture")
    (samples / "manifest.csv").write_text("file,seed,index,near_copy\n00000.png,0,0,1\n")
    (samples / "attribution.csv").write_text("file,few_shot\n00000.png,secret.png\n")
    assert answer(["push", str(tmp_path), "me/mine"])
    assert hub.kind == "datasets"
    assert hub.created[0]["type"] == "dataset"
    assert set(hub.files) == {"README.md", "train/00000.png", "train/metadata.csv"}
    assert hub.files["train/metadata.csv"].decode() == (
        "file_name,seed,index,near_copy\n00000.png,0,0,1\n"
    )
    # a run whose near-copies were not measured
    (samples / "manifest.csv").write_text("file,seed,index\n00000.png,0,0\n")
    metadata = upload_of(str(tmp_path), licence=None).files["train/metadata.csv"]
    assert metadata == b"file_name,seed,index\n00000.png,0,0\n"
    card = hub.files["README.md"].decode()
    assert "| kid | 0.25 [0.2, 0.3] | 0.01 [0, 0.02] |" in card
    assert "| precision | 0.9 | – |" in card
    assert "license" not in card
    assert not any(b"secret" in data for data in hub.files.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["push", "dog32"], "push dog32 OWNER/NAME"),
        (["push", "dog32", "mine"], "mine must be OWNER/NAME"),
        (["push", "dog32", "me/mine", "privat=true"], "did you mean private?"),
        (["push", "dog32", "me/mine", "private=yes"], "private must be true or false"),
        (["push", "ddpm_church", "me/mine"], "ddpm_church is nothing to push"),
        (["card", "dgo32"], "did you mean dog32?"),
        (["card", "checkpoint"], "must be set"),
        (["crd", "dog32"], "did you mean card?"),
    ],
)
def test_a_mistake_is_told_before_anything_is_sent(
    arguments: list[str], message: str, hub: Hub
) -> None:
    with pytest.raises(CommandError) as caught:
        answer(arguments)
    assert message in str(caught.value)
    assert not hub.created


def test_without_a_token_or_a_hub_that_takes_it_nothing_is_pushed(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(CommandError, match="set HF_TOKEN"):
        answer(["push", "dog32", "me/mine"])
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "wrong")
    monkeypatch.setattr(sys, "argv", ["models", "push", "dog32", "me/mine"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: me/mine was not pushed: ")
    assert "401" in error
    assert error.count("\n") == 1
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CommandError, match="HF_HUB_OFFLINE"):
        answer(["push", "dog32", "me/mine"])


def test_a_card_tells_data_licence_size_checksum_and_quality(
    capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    assert answer(["card", "dog32"])
    told = capsys.readouterr().out
    for text in ("5,000 CIFAR-10 photographs", "MIT", "3x32x32", "KID", "MB in all"):
        assert text in told
    assert len([line for line in told.splitlines() if "SHA-256" in line]) >= 1
    assert answer(["card", "iddpm_afhqdog"])
    told = capsys.readouterr().out
    assert "CC BY-NC 4.0" in told
    assert "not here; from" in told
    assert "was not measured here" in told
    assert answer(["card", "analytic_gaussian"])
    assert capsys.readouterr().out.startswith("analytic_gaussian: ")
    for name in shipped():
        assert answer(["card", name])
        assert f"# {name}" in capsys.readouterr().out


def test_cards_need_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys\nfrom ood_sampler.models.__main__ import answer\nanswer(['card', 'dog32'])\n"
        "heavy = {'torch', 'lightning', 'diffusers', 'hydra'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
