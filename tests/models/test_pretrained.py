import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.models.frozen import FrozenModel
from ood_sampler.models.pretrained import load_pipeline, load_schedule, weights_file


@pytest.fixture
def copy(model_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(model_folder, tmp_path / "copy")
    return tmp_path / "copy"


def change_scheduler(folder: Path, **changes: object) -> None:
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_the_loaded_network_is_the_saved_one(model_folder: Path) -> None:
    from diffusers import DDPMPipeline

    denoiser = load_pipeline(model_folder)
    unet = DDPMPipeline.from_pretrained(model_folder, low_cpu_mem_usage=False).unet
    x_t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 700])
    with torch.no_grad():
        expected = unet(x_t, t).sample
    torch.testing.assert_close(denoiser.eps(x_t, t), expected, rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())


def test_half_precision_weights_are_computed_in_float32(copy: Path) -> None:
    state = {name: value.half() for name, value in load_file(weights_file(copy)).items()}
    save_file(state, weights_file(copy), metadata={"format": "pt"})
    denoiser = load_pipeline(copy)
    assert {parameter.dtype for parameter in denoiser.parameters()} == {torch.float32}


def test_the_schedule_is_that_of_the_scheduler(copy: Path) -> None:
    from diffusers import DDPMScheduler

    for name in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        change_scheduler(copy, beta_schedule=name, num_train_timesteps=50)
        expected = DDPMScheduler.from_pretrained(copy / "scheduler").alphas_cumprod.double()
        torch.testing.assert_close(
            load_schedule(copy).alpha_bars[1:], expected, rtol=1e-5, atol=1e-7
        )
    betas = [0.1, 0.2, 0.3]
    change_scheduler(copy, trained_betas=betas)
    expected = Schedule(torch.tensor(betas, dtype=torch.float64)).alpha_bars
    assert torch.equal(load_schedule(copy).alpha_bars, expected)


def test_a_model_that_does_not_predict_noise_is_refused(copy: Path) -> None:
    change_scheduler(copy, prediction_type="v_prediction")
    with pytest.raises(ValueError, match="prediction_type must be epsilon, got 'v_prediction'"):
        load_pipeline(copy)


class Malicious:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.flag,))  # type: ignore[return-value]


def test_a_pickle_with_code_is_refused_and_runs_nothing(copy: Path, tmp_path: Path) -> None:
    flag = tmp_path / "executed"
    bomb = pickle.dumps(Malicious(flag))
    pickle.loads(bomb)  # noqa: S301  the bomb works
    assert flag.exists()
    flag.unlink()

    weights_file(copy).write_bytes(bomb)
    with pytest.raises(ValueError, match=r"must hold the weights .* as safetensors"):
        load_pipeline(copy)
    weights_file(copy).unlink()
    (copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(bomb)
    with pytest.raises(FileNotFoundError, match=r"diffusion_pytorch_model\.safetensors"):
        load_pipeline(copy)
    assert not flag.exists()


def test_truncated_weights_are_refused(copy: Path) -> None:
    data = weights_file(copy).read_bytes()
    weights_file(copy).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="fetch the file again"):
        load_pipeline(copy)


def test_weights_that_are_not_finite_are_refused(copy: Path) -> None:
    state = load_file(weights_file(copy))
    state["conv_in.bias"][0] = torch.nan
    save_file(state, weights_file(copy), metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"NaN or inf in conv_in\.bias"):
        load_pipeline(copy)


def test_weights_of_another_network_are_refused(copy: Path) -> None:
    file = copy / "unet" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "block_out_channels": [8, 32]}))
    with pytest.raises(ValueError, match="must hold the weights of"):
        load_pipeline(copy)


def test_a_missing_model_says_where_it_was_looked_for(tmp_path: Path) -> None:
    model = FrozenModel(name="cats", path=str(tmp_path / "nowhere"), resolution=16)
    with pytest.raises(FileNotFoundError, match=r"weights of model cats are missing.*model\.path"):
        _ = model.digest


def test_a_pipeline_folder_without_weights_says_which_file(copy: Path) -> None:
    weights_file(copy).unlink()
    with pytest.raises(FileNotFoundError, match=r"diffusion_pytorch_model\.safetensors is missing"):
        _ = FrozenModel(name="tiny", path=str(copy), resolution=16).digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 32}, r"model\.resolution must be 16"),
        ({"channels": 1}, r"model\.channels must be 3"),
    ],
)
def test_a_model_of_another_shape_is_refused(
    model_folder: Path, changes: dict[str, int], message: str
) -> None:
    model = FrozenModel(
        **{"name": "tiny", "path": str(model_folder), "resolution": 16, **changes}  # type: ignore[arg-type]
    )
    with pytest.raises(ValueError, match=message):
        _ = model.denoiser


def test_the_digest_is_of_weights_and_configuration(copy: Path) -> None:
    def digest() -> str:
        return FrozenModel(name="tiny", path=str(copy), resolution=16).digest

    before = digest()
    change_scheduler(copy, beta_end=0.03)
    changed = digest()
    data = bytearray(weights_file(copy).read_bytes())
    data[-1] ^= 1
    weights_file(copy).write_bytes(data)
    assert len({before, changed, digest()}) == 3


def test_the_shipped_model_ships_whole() -> None:
    model = FrozenModel(
        name="dog32",
        path="dog32",
        resolution=32,
        in_domain_features={"features32": "features32/dog_test_features.safetensors"},
    )
    assert model.schedule.T == 1000
    file = model.in_domain_file("features32")
    assert file is not None
    assert load_file(file)["features"].shape[0] == 1000
    assert model.in_domain_file("inception") is None
    x_t = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    # at the last step an image is noise to 4 digits: the estimate must be nearly that
    torch.testing.assert_close(model.denoiser.eps(x_t, torch.tensor(999)), x_t, rtol=0, atol=0.25)
