import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ood_sampler.diffusion.denoiser import (
    Denoiser,
    EpsilonDenoiser,
    SampleDenoiser,
    VelocityDenoiser,
)
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.models.layout import pipeline_files
from ood_sampler.models.pretrained import load_pipeline, load_schedule
from tests.models.stand_ins import weights_file


@pytest.fixture
def copy(model_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(model_folder, tmp_path / "copy")
    return tmp_path / "copy"


def change(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def change_scheduler(folder: Path, **changes: object) -> None:
    change(folder / "scheduler" / "scheduler_config.json", **changes)


def output(denoiser: Denoiser) -> Tensor:
    x_t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return denoiser.eps(x_t, torch.tensor([0, 700]))


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
    assert denoiser.network.resolution == 16  # type: ignore[union-attr]
    assert denoiser.network.channels == 3  # type: ignore[union-attr]


def test_half_precision_weights_are_computed_in_float32(copy: Path) -> None:
    state = {name: value.half() for name, value in load_file(weights_file(copy)).items()}
    save_file(state, weights_file(copy), metadata={"format": "pt"})
    denoiser = load_pipeline(copy)
    assert {parameter.dtype for parameter in denoiser.parameters()} == {torch.float32}


def flatten(folder: Path) -> None:
    """Bring a pipeline into the layout of the first published models: all files at the root."""
    for part in ("unet", "scheduler"):
        for file in (folder / part).iterdir():
            file.rename(folder / file.name)
        (folder / part).rmdir()


OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def to_pickle(folder: Path) -> None:
    """Bring the weights into the format of the first published models, with their names."""
    file = weights_file(folder)
    state = load_file(file)
    for new, old in OLD_NAMES.items():
        state = {name.replace(new, old): weight for name, weight in state.items()}
    assert any(".proj_attn." in name for name in state)
    torch.save(state, file.with_suffix(".bin"))
    file.unlink()


@pytest.mark.parametrize(
    "changes", [[flatten], [to_pickle], [to_pickle, flatten]], ids=["root", "bin", "both"]
)
def test_the_first_published_layout_loads(
    changes: list[Callable[[Path], None]], copy: Path
) -> None:
    expected = output(load_pipeline(copy))
    for apply in changes:
        apply(copy)
    assert torch.equal(output(load_pipeline(copy)), expected)
    weights, config, scheduler = pipeline_files(copy)
    assert weights == weights_file(copy)
    assert weights.suffix == (".bin" if to_pickle in changes else ".safetensors")
    assert config.parent == weights.parent == (copy if flatten in changes else copy / "unet")
    assert scheduler.name == "scheduler_config.json"


def test_safetensors_come_before_pickles(copy: Path) -> None:
    (copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"not opened")
    assert weights_file(copy).suffix == ".safetensors"
    load_pipeline(copy)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_missing_part_says_which(part: int, copy: Path) -> None:
    file = pipeline_files(copy)[part]
    file.unlink()
    for read in (pipeline_files, load_pipeline):
        with pytest.raises(FileNotFoundError, match=rf"{file.name} is missing"):
            read(copy)


def test_the_schedule_is_that_of_the_scheduler(copy: Path) -> None:
    from diffusers import DDPMScheduler

    for name in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        change_scheduler(copy, beta_schedule=name, num_train_timesteps=50)
        expected = DDPMScheduler.from_pretrained(copy / "scheduler").alphas_cumprod.double()
        torch.testing.assert_close(
            load_schedule(copy).alpha_bars[1:], expected, rtol=1e-5, atol=1e-7
        )
    betas = [0.1, 0.2, 0.3]
    change_scheduler(copy, trained_betas=betas, snr_shift_scale=1.0)
    expected = Schedule(torch.tensor(betas, dtype=torch.float64)).alpha_bars
    assert torch.equal(load_schedule(copy).alpha_bars, expected)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("epsilon", EpsilonDenoiser), ("v_prediction", VelocityDenoiser), ("sample", SampleDenoiser)],
)
def test_the_prediction_type_agrees_with_diffusers(name: str, kind: type, copy: Path) -> None:
    from diffusers import DDIMScheduler

    change_scheduler(copy, prediction_type=name, clip_sample=False, _class_name="DDIMScheduler")
    denoiser = load_pipeline(copy)
    assert type(denoiser) is kind
    scheduler = DDIMScheduler.from_pretrained(copy / "scheduler")
    scheduler.set_timesteps(1000)
    x_t = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    prediction = denoiser.double().network(x_t, torch.tensor([700]))  # type: ignore[operator]
    scheduler.alphas_cumprod = denoiser.schedule.alpha_bars[1:]
    expected = scheduler.step(prediction, 700, x_t).pred_original_sample
    x_0_hat = denoiser(x_t, torch.tensor(700))
    torch.testing.assert_close(x_0_hat, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction_type": "flow"}, "prediction_type must be epsilon, .* got 'flow'"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule must be linear, .* got 'sigmoid'"),
        ({"snr_shift_scale": 3.0}, "snr_shift_scale must be 1, got 3.0"),
        ({"num_train_timesteps": 10**9}, r"num_train_timesteps must be in 1\.\.1000000, got"),
        ({"num_train_timesteps": [3]}, r"num_train_timesteps must be an integer, got \[3\]"),
        ({"trained_betas": 3 * [[1]]}, "betas must be a list of numbers, got list"),
        ({"beta_schedule": {}}, r"\(in .*scheduler_config\.json\)"),
        ({"beta_start": None}, r"\(in .*scheduler_config\.json\)"),
    ],
)
def test_a_scheduler_that_is_not_implemented_is_refused(
    changes: dict[str, object], message: str, copy: Path
) -> None:
    change_scheduler(copy, **changes)
    with pytest.raises(ValueError, match=message):
        load_pipeline(copy)


ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@pytest.mark.parametrize("table", [None, [0.05] * 40])
@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_zero_terminal_snr_is_that_of_diffusers(
    name: str, table: list[float] | None, copy: Path
) -> None:
    from diffusers import DDIMScheduler

    change_scheduler(
        copy, **ZERO_SNR, prediction_type="v_prediction", beta_schedule=name, trained_betas=table
    )
    schedule = load_schedule(copy)
    assert len(table or range(1000)) == schedule.T
    assert schedule.is_pure_noise(schedule.T - 1)
    theirs = DDIMScheduler.from_pretrained(copy / "scheduler").alphas_cumprod.double()
    torch.testing.assert_close(schedule.alpha_bars[1:], theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("name", ["v_prediction", "sample"])
def test_pure_noise_at_zero_snr_decodes_as_in_diffusers(
    name: str, clip: bool, eta: float, copy: Path
) -> None:
    from diffusers import DDIMScheduler

    from ood_sampler.diffusion.solvers import DdimSolver

    change_scheduler(
        copy, **ZERO_SNR, prediction_type=name, clip_sample=clip, _class_name="DDIMScheduler"
    )
    denoiser = load_pipeline(copy).double()
    x_t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    scheduler = DDIMScheduler.from_pretrained(copy / "scheduler")
    scheduler.alphas_cumprod = denoiser.schedule.alpha_bars[1:]
    scheduler.set_timesteps(1)
    prediction = denoiser.network(x_t, torch.tensor([999, 999]))  # type: ignore[operator]
    # one move that is the whole chain, as their spacing has it
    expected = scheduler.step(prediction, 999, x_t).prev_sample
    decoded = DdimSolver(steps=1, power=1).decode(
        denoiser, x_t, step=999, clip_x_0=clip, eta=eta, noise=lambda: torch.ones_like(x_t)
    )
    torch.testing.assert_close(decoded, expected, rtol=1e-9, atol=1e-9)
    # and four, the noise of each known
    scheduler.set_timesteps(4)
    x_s = x_t
    for t in scheduler.timesteps.tolist():
        v = denoiser.network(x_s, torch.tensor([t, t]))  # type: ignore[operator]
        x_s = scheduler.step(
            v, t, x_s, eta, use_clipped_model_output=True, variance_noise=torch.ones_like(x_s)
        ).prev_sample
    decoded = DdimSolver(steps=4, power=1).decode(
        denoiser, x_t, step=999, clip_x_0=clip, eta=eta, noise=lambda: torch.ones_like(x_t)
    )
    torch.testing.assert_close(decoded, x_s, rtol=1e-6, atol=1e-6)


def test_an_estimate_of_noise_at_zero_snr_has_all_steps_but_the_last(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change_scheduler(copy, **ZERO_SNR, prediction_type="epsilon", num_train_timesteps=50)
    denoiser = load_pipeline(copy)
    full = Schedule.linear(50).with_zero_terminal_snr()
    assert torch.equal(denoiser.schedule.alpha_bars, full.alpha_bars[:-1])
    assert "step 49 of this model is pure noise (rescale_betas_zero_snr)" in caplog.text
    assert caplog.text.count("step 49") == 1
    assert load_schedule(copy).last_invertible == 48
    x_t = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert denoiser(x_t, torch.tensor(48)).isfinite().all()


def test_a_table_that_ends_in_pure_noise_needs_no_estimate_of_it(copy: Path) -> None:
    change_scheduler(copy, trained_betas=[0.1, 0.2, 1.0], prediction_type="v_prediction")
    assert load_schedule(copy).alpha_bars.tolist() == pytest.approx([1, 0.9, 0.72, 0])
    change_scheduler(copy, prediction_type="epsilon")
    with pytest.raises(ValueError, match=r"betas must be in \(0, 1\)"):
        load_schedule(copy)


def test_a_scheduler_of_another_kind_is_refused(copy: Path) -> None:
    file = pipeline_files(copy)[2]
    file.write_text('{"_class_name": "EDMEulerScheduler", "sigma_min": 0.002}')
    with pytest.raises(ValueError, match="diffusers scheduler config, but lacks 'beta_schedule'"):
        load_schedule(copy)
    for broken in ("{", "[]"):
        file.write_text(broken)
        with pytest.raises(ValueError, match=r"scheduler_config\.json must"):
            load_schedule(copy)


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

    weights = weights_file(copy)
    weights.write_bytes(bomb)
    with pytest.raises(ValueError, match="nothing in it was executed"):
        load_pipeline(copy)
    weights.unlink()
    weights.with_suffix(".bin").write_bytes(bomb)
    with pytest.raises(ValueError, match="nothing in it was executed"):
        load_pipeline(copy)
    torch.save({"conv_in.bias": Malicious(flag)}, weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match="nothing of it was executed"):
        load_pipeline(copy)
    assert not flag.exists()


def test_truncated_weights_are_refused(copy: Path) -> None:
    data = weights_file(copy).read_bytes()
    weights_file(copy).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="fetch the file again"):
        load_pipeline(copy)


def test_what_is_no_tensor_is_refused(copy: Path) -> None:
    state = load_file(weights_file(copy))
    weights_file(copy).unlink()
    torch.save({**state, "conv_in.bias": "a"}, weights_file(copy).with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"must hold tensors, got str in conv_in\.bias"):
        load_pipeline(copy)


def test_weights_that_are_not_finite_are_refused(copy: Path) -> None:
    state = load_file(weights_file(copy))
    state["conv_in.bias"][0] = torch.nan
    save_file(state, weights_file(copy), metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"NaN or inf in conv_in\.bias"):
        load_pipeline(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_out_channels": [8, 32]}, "in the shape .* of its architecture, got"),
        ({"layers_per_block": 2}, "must hold the weights of its architecture, but it lacks"),
        ({"add_attention": False}, r"has unexpected mid_block\.attentions"),
        ({"down_block_types": ["NoBlock2D"] * 2}, "must describe a UNet2DModel, got"),
        ({"block_out_channels": [8]}, "must describe a UNet2DModel, got"),
        ({"out_channels": 5}, "must predict 3 channels, or 6 with a learned variance, got 5"),
        (
            {"_class_name": "UNet2DConditionModel"},
            "must be a UNet2DModel, got UNet2DConditionModel",
        ),
        ({"layers_per_block": 10**9}, r"layers_per_block must be an integer in 1\.\.100, got"),
        ({"act_fn": 5}, "must describe a UNet2DModel, got"),
        ({"time_embedding_type": "none"}, "must describe a UNet2DModel, got"),
        ({"block_out_channels": {}}, "must describe a UNet2DModel, got"),
        ({"num_class_embeds": "a"}, "num_class_embeds must be null or an integer >= 1, got 'a'"),
        ({"num_class_embeds": True}, "num_class_embeds must be null or an integer >= 1, got True"),
        ({"sample_size": []}, r"sample_size must be that of a square, got \[\]"),
        ({"sample_size": [16, 32]}, r"sample_size must be that of a square, got \[16, 32\]"),
        ({"class_embed_type": "timestep"}, "class_embed_type must be null, got 'timestep'"),
    ],
)
def test_another_network_is_refused(changes: dict[str, object], message: str, copy: Path) -> None:
    change(copy / "unet" / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        load_pipeline(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unet": ["diffusers", "NCSNpp"]}, "must be a UNet2DModel, got NCSNpp"),
        ({"movq": ["diffusers", "VQModel"]}, "vqvae alone, got movq"),
    ],
)
def test_a_pipeline_of_other_parts_is_refused(
    changes: dict[str, object], message: str, copy: Path
) -> None:
    change(copy / "model_index.json", **changes)
    with pytest.raises(ValueError, match=message):
        load_pipeline(copy)


def test_a_pipeline_without_index_loads(copy: Path) -> None:
    change(copy / "model_index.json", feature_extractor=[None, None])
    load_pipeline(copy)
    (copy / "model_index.json").unlink()
    load_pipeline(copy)


def test_a_class_conditional_model_needs_a_class(copy: Path) -> None:
    from diffusers import UNet2DModel

    change(copy / "unet" / "config.json", num_class_embeds=4)
    torch.manual_seed(0)
    unet = UNet2DModel.from_config(json.loads((copy / "unet" / "config.json").read_text()))
    unet.save_pretrained(copy / "unet")
    x_t, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 700])
    for label in (0, 3):
        with torch.no_grad():
            expected = unet(x_t, t, torch.full((2,), label)).sample
        assert torch.equal(load_pipeline(copy, label=label).eps(x_t, t), expected)
    for label in (None, 4, -1):
        with pytest.raises(ValueError, match=r"model\.label must be in 0\.\.3"):
            load_pipeline(copy, label=label)


def test_a_model_without_classes_takes_no_label(model_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.label must be null: .* got 1"):
        load_pipeline(model_folder, label=1)
