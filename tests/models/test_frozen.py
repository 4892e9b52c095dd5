import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ood_sampler.models import weights
from ood_sampler.models.frozen import FrozenModel, checksum
from ood_sampler.models.weights import RECORD

FIXTURES = Path(__file__).parent / "fixtures"
GUIDED = FIXTURES / "guided_diffusion"
DRIVE = {"drive": "1aB", "file": "dogs.pt"}


def guided(**changes: Any) -> FrozenModel:  # noqa: ANN401
    architecture = json.loads((GUIDED / "arch.json").read_text())
    settings: dict[str, Any] = {
        "name": "dogs",
        "path": str(GUIDED / "checkpoint.pt"),
        "resolution": 32,
        "architecture": {section: architecture[section] for section in ("format", "model")},
        **changes,
    }
    return FrozenModel(**settings)


def pipeline(folder: Path, **changes: Any) -> FrozenModel:  # noqa: ANN401
    return FrozenModel(**{"name": "tiny", "path": str(folder), "resolution": 16, **changes})


def test_a_checkpoint_file_is_a_model() -> None:
    model = guided()
    assert model.schedule.T == 1000
    x_t = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert model.denoiser.eps(x_t, torch.tensor(5)).shape == x_t.shape


def test_a_pipeline_folder_brings_its_own_architecture(model_folder: Path) -> None:
    model = pipeline(model_folder, architecture={"format": "pesser-ddpm", "model": {"ch": 128}})
    assert model.denoiser.schedule.T == model.schedule.T == 1000
    assert model.digest == pipeline(model_folder).digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 32}, r"model\.resolution must be 16"),
        ({"channels": 1}, r"model\.channels must be 3"),
        ({"label": 3}, r"model\.label must be null"),
    ],
)
def test_a_pipeline_of_another_kind_is_refused(
    model_folder: Path, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _ = pipeline(model_folder, **changes).denoiser


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 64}, r"model\.resolution must be 32"),
        ({"channels": 1}, r"model\.channels must be 3"),
        ({"architecture": 3}, r"model\.architecture must be a mapping of sections, got 3"),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _ = guided(**changes).denoiser


def test_what_is_null_in_an_architecture_counts_as_not_given() -> None:
    sparse = {
        "format": None,
        "data": {"image_size": None},
        "model": {"num_head_channels": 16, "ch": None, "channel_mult": None},
    }
    x_t = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(700)
    inferred = guided(architecture=sparse)
    assert torch.equal(inferred.denoiser.eps(x_t, t), guided().denoiser.eps(x_t, t))
    given = guided(architecture={"model": {"num_head_channels": 16}})
    assert inferred.digest == given.digest != guided().digest


def test_the_digest_is_of_weights_architecture_and_label(
    model_folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(model_folder, tmp_path / "copy")
    assert pipeline(copy, name="other").digest == pipeline(model_folder).digest
    digests = {pipeline(copy).digest, pipeline(copy, label=1).digest, guided().digest}
    file = copy / "unet" / "config.json"
    file.write_text(file.read_text() + "\n")
    digests.add(pipeline(copy).digest)
    other = json.loads((GUIDED / "arch.json").read_text())["model"] | {"num_head_channels": 8}
    digests.add(guided(architecture={"model": other}).digest)
    assert len(digests) == 5


def test_every_file_is_read_for_its_checksum_once(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    original = weights.sha256_of

    def counted(file: Path) -> str:
        hashed.append(file.name)
        return original(file)

    monkeypatch.setattr(weights, "sha256_of", counted)
    model = pipeline(model_folder)
    _ = model.digest, model.schedule, model.denoiser, model.digest
    assert sorted(hashed) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "scheduler_config.json",
    ]


def in_cache(cache: Path, data: bytes) -> Path:
    file = cache / "models" / "dogs" / "dogs.pt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def test_a_checksum_is_recorded_when_the_weights_have_loaded(cache: Path) -> None:
    good = (GUIDED / "checkpoint.pt").read_bytes()
    cached = {"path": None, "sources": [DRIVE]}
    file = in_cache(cache, good[: len(good) // 2])
    with pytest.raises(ValueError, match="fetch the file again"):
        _ = guided(**cached).denoiser
    assert not (file.parent / RECORD).exists()

    in_cache(cache, good)
    _ = guided(**cached).denoiser
    assert (file.parent / RECORD).exists()

    # compared before anything opens the file
    in_cache(cache, good[: len(good) // 2])
    for use in ("digest", "denoiser"):
        with pytest.raises(ValueError, match=r"dogs\.pt must have the SHA-256 .* of its first use"):
            getattr(guided(**cached), use)


def test_a_broken_file_in_the_cache_is_to_be_removed(cache: Path, tmp_path: Path) -> None:
    good = (GUIDED / "checkpoint.pt").read_bytes()
    file = in_cache(cache, good[: len(good) // 2])
    for use in ("denoiser", "schedule"):
        with pytest.raises(ValueError, match=f"; remove {file} to have it fetched again$"):
            getattr(guided(path=None, sources=[DRIVE]), use)
    own = tmp_path / "own.pt"
    own.write_bytes(file.read_bytes())
    in_cache(cache, good)
    for model in (
        guided(path=str(own)),  # the user's own
        guided(path=None, sources=[DRIVE], label=3),  # whole
    ):
        with pytest.raises(ValueError, match=r"must") as caught:
            _ = model.denoiser
        assert "remove" not in str(caught.value)


def test_a_resolution_that_the_network_cannot_halve_is_refused(
    model_folder: Path, tmp_path: Path
) -> None:
    heads = {"model": {"num_head_channels": 16}}
    with pytest.raises(ValueError, match=r"model\.resolution must be divisible by 8, .* got 36"):
        _ = guided(architecture=heads, resolution=36).denoiser
    assert guided(architecture=heads, resolution=40).denoiser
    copy = shutil.copytree(model_folder, tmp_path / "copy")
    config = copy / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": None}))
    with pytest.raises(ValueError, match=r"model\.resolution must be divisible by 2, .* got 15"):
        _ = pipeline(copy, resolution=15).denoiser
    assert pipeline(copy, resolution=18).denoiser


def test_what_would_be_fetched_is_known_before(
    cache: Path, tmp_path: Path, model_folder: Path
) -> None:
    page = {"page": "https://example.org", "file": "dogs.pt", "megabytes": 3}
    sources = [page, DRIVE, {"hub": "owner/dogs", "megabytes": 24}]
    assert guided(path=None, sources=sources).missing_megabytes == 24
    assert math.isnan(guided(path=None, sources=[DRIVE]).missing_megabytes or 0)
    assert math.isnan(guided(path="owner/dogs").missing_megabytes or 0)
    for changes in (
        {"path": None, "sources": [page]},
        {"path": None},
        {"path": str(tmp_path / "x")},
    ):
        with pytest.raises(FileNotFoundError, match=r"weights of model dogs are missing"):
            _ = guided(**changes).missing_megabytes
    in_cache(cache, b"PK")
    assert guided(path=None, sources=sources).missing_megabytes is None
    assert pipeline(model_folder).missing_megabytes is None


def test_the_schedule_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ood_sampler.models.frozen.load_checkpoint", None)
    architecture = {"model": {}, "diffusion": {"noise_schedule": "cosine", "diffusion_steps": 50}}
    assert guided(architecture=architecture).schedule.T == 50


def test_missing_weights_are_a_message_with_the_key_to_set(tmp_path: Path, cache: Path) -> None:
    model = FrozenModel(name="cats", path=str(tmp_path / "nowhere"), resolution=16)
    with pytest.raises(FileNotFoundError, match=r"weights of model cats are missing.*model\.path"):
        _ = model.digest
    model = FrozenModel(name="cats", resolution=16)
    with pytest.raises(FileNotFoundError, match=r"no source of them is known: set model\.path"):
        _ = model.schedule
    model = FrozenModel(name="cats", resolution=16, sources=[DRIVE])
    with pytest.raises(FileNotFoundError, match=f"{cache}/models/cats for dogs.pt"):
        _ = model.denoiser


def test_a_malformed_source_is_found_at_once() -> None:
    with pytest.raises(ValueError, match=r"model\.sources must hold entries"):
        FrozenModel(name="cats", resolution=16, sources=[{"url": "x"}])


def test_the_shipped_model_ships_whole() -> None:
    model = FrozenModel(
        name="dog32", path="dog32", resolution=32, in_domain_features={"f": "features32/f.x"}
    )
    assert model.schedule.T == 1000
    assert model.weights.record is None
    file = model.in_domain_file("f")
    assert file is not None
    assert file.parent.is_dir()
    assert model.in_domain_file("other") is None


def test_the_checksum_is_of_every_bit_of_every_parameter_and_buffer(model_folder: Path) -> None:
    denoiser = pipeline(model_folder).denoiser
    before = checksum(denoiser)
    assert checksum(pipeline(model_folder).denoiser) == before
    # neither a call nor the layout of the weights changes what they are
    x_t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    denoiser.to(memory_format=torch.channels_last).eps(x_t, torch.tensor(5))
    assert checksum(denoiser) == before
    weight = list(denoiser.parameters())[-1].data
    weight[-1] = torch.nextafter(weight[-1], torch.tensor(9.0))
    assert checksum(denoiser) != before
    weight[-1] = torch.nextafter(weight[-1], torch.tensor(-9.0))
    assert checksum(denoiser) == before
    denoiser.schedule.alpha_bars[7] *= 2
    assert checksum(denoiser) != before


def test_the_checksum_tells_names_types_and_shapes_apart() -> None:
    layers = [torch.nn.Linear(2, 3), torch.nn.Linear(3, 2), torch.nn.Linear(2, 3).double()]
    for layer in layers:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    modules = [*layers, torch.nn.Sequential(layers[0])]
    assert len({checksum(module) for module in modules}) == len(modules)
