import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ood_sampler.codecs.gan import GanCodec
from ood_sampler.diffusion.solvers import DdimSolver
from ood_sampler.faults import BrokenFileError
from ood_sampler.metrics.features import EmbeddedFeatures
from ood_sampler.models.gan import GanModel, save_generator
from ood_sampler.models.gan_verification import recovered, strangeness
from ood_sampler.models.style_generator import StyleGenerator


@pytest.fixture
def generator() -> StyleGenerator:
    torch.manual_seed(0)
    return StyleGenerator(channels=[6, 4], width=5, mapping=2)


@pytest.fixture
def folder(generator: StyleGenerator, tmp_path: Path) -> Path:
    save_generator(generator, tmp_path / "mine", torch.float16)
    return tmp_path / "mine"


def model(folder: Path | str, **changes: Any) -> GanModel:  # noqa: ANN401
    given: dict[str, Any] = {
        "name": "mine",
        "resolution": 8,
        "path": str(folder),
        "space": "w_plus",
        "steps": 3,
        "starts": 2,
        "learning_rate": 0.1,
        "pixels": 1.0,
        "features": 0.1,
    }
    return GanModel(**{**given, **changes})


def test_a_saved_generator_makes_the_same_images(generator: StyleGenerator, folder: Path) -> None:
    z = torch.randn(2, 5)
    found = model(folder).generator
    torch.testing.assert_close(found(z), generator(z), rtol=0.02, atol=0.02)
    assert not any(parameter.requires_grad for parameter in found.parameters())
    assert {v.dtype for v in load_file(folder / "generator.safetensors").values()} == {
        torch.float16
    }


def test_the_codec_has_the_settings_of_the_model(folder: Path) -> None:
    codec = model(folder).codec(DdimSolver(steps=4, power=1))
    assert isinstance(codec, GanCodec)
    assert codec.settings == {
        "space": "w_plus",
        "steps": 3,
        "starts": 2,
        "learning_rate": 0.1,
        "pixels": 1.0,
        "features": 0.1,
    }
    x_0 = torch.rand(2, 3, 8, 8)
    assert codec.encode(x_0, [500])[500].shape == (2, 4, 5)


def test_features_have_a_gradient_and_are_those_of_the_judge(folder: Path) -> None:
    judge, x = model(folder).judge, torch.rand(2, 3, 32, 32, requires_grad=True)
    features = judge(x)
    torch.testing.assert_close(features, EmbeddedFeatures()(x))
    features.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in judge.parameters())


def test_the_identity_is_that_of_the_weights(generator: StyleGenerator, folder: Path) -> None:
    before = model(folder).digest
    assert model(folder, steps=9).digest == before
    generator.constant.data += 1
    save_generator(generator, folder, torch.float16)
    assert model(folder).digest != before
    assert StyleGenerator in model(folder).makers


def test_missing_weights_are_told(folder: Path, tmp_path: Path) -> None:
    assert model(folder).is_here
    assert model(folder).missing_megabytes is None
    (folder / "config.json").unlink()
    for found in (model(folder), model("nowhere")):
        assert not found.is_here
        with pytest.raises(FileNotFoundError, match=r"weights of model mine are missing.*recipe="):
            _ = found.missing_megabytes


@pytest.mark.parametrize("broken", ["weights", "config", "field"])
def test_damaged_files_are_told(broken: str, folder: Path) -> None:
    config = folder / "config.json"
    if broken == "weights":
        file = folder / "generator.safetensors"
        file.write_bytes(file.read_bytes()[:-20])
    elif broken == "config":
        config.write_text("{")
    else:
        config.write_text(json.dumps({**json.loads(config.read_text()), "width": 7}))
    with pytest.raises(BrokenFileError, match="holds no generator"):
        _ = model(folder).generator


def test_another_resolution_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.resolution must be 8, as .* says, got 32"):
        _ = model(folder, resolution=32).generator
    with pytest.raises(ValueError, match=r"model\.starts must be >= 1, got 0"):
        model(folder, starts=0)


def test_the_check_of_weights_recovers_their_own_images(folder: Path) -> None:
    found = recovered(model(folder))
    assert (found.images, found.evaluations) == (4, 301)
    assert found.psnr > 20
    assert strangeness(model(folder)) is None
