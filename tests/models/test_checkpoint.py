import json
import pickle
import re
import subprocess
import sys
import tarfile
import zipfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ood_sampler.diffusion.denoiser import EpsilonDenoiser, SampleDenoiser, VelocityDenoiser
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.models import checkpoint
from ood_sampler.models.checkpoint import load_checkpoint, read_schedule
from tests.models.originals import FIXTURES, relative_error

State = dict[str, Tensor]
GUIDED, PESSER = (FIXTURES / name / "checkpoint.pt" for name in ("guided_diffusion", "pesser"))
ARCHITECTURE = json.loads((FIXTURES / "guided_diffusion" / "arch.json").read_text())
HEADS = {"model": {"num_head_channels": 16}}


@pytest.fixture(scope="module")
def state() -> State:
    loaded: State = torch.load(PESSER, weights_only=True)
    return loaded


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


def error_of(file: Path) -> float:
    io = load_file(PESSER.parent / "io.safetensors")
    denoiser = load_checkpoint(file)
    assert {weight.dtype for weight in denoiser.parameters()} == {torch.float32}
    return relative_error(denoiser.eps(io["x"][:1], io["timesteps"][:1]), io["output"][:1])


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: weight for name, weight in state.items()}


def silent(state: State) -> State:
    return {name: torch.zeros_like(weight) for name, weight in state.items()}


WRAPPINGS: dict[str, Callable[[State], object]] = {
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": s["conv_in.bias"]}}}},
    "ema": lambda s: {"model": silent(s), "ema": s},
    "ema_state_dict": lambda s: {"ema_state_dict": s, "state_dict": silent(s)},
    "params_ema": lambda s: {"params": silent(s), "params_ema": s},
    "shadow": lambda s: {"model": silent(s), "average": {"decay": 0.999, "shadow": s}},
    "shadow_params": lambda s: {
        "model": prefixed(silent(s), "module."),
        "ema": {"decay": 0.999, "num_updates": 3, "shadow_params": list(s.values())},
    },
    "module.": lambda s: prefixed(s, "module."),
    "module._orig_mod.": lambda s: {"ema": prefixed(s, "module._orig_mod.")},
    "_orig_mod inside": lambda s: {n.replace("mid.", "mid._orig_mod."): s[n] for n in s},
    "ema beside module": lambda s: prefixed(silent(s), "module.") | prefixed(s, "ema.module."),
    "model._orig_mod.": lambda s: prefixed(s, "model._orig_mod."),
    "flat ema": lambda s: prefixed(silent(s), "model.") | prefixed(s, "model_ema."),
    "bare beside ema": lambda s: silent(s) | prefixed(s, "ema."),
    "lightning": lambda s: {"state_dict": prefixed(s, "network."), "global_step": 5},
    "ddim": lambda s: [prefixed(s, "module."), {"state": {}}, 1, 2],
    "ddim ema": lambda s: [prefixed(silent(s), "module."), {"state": {}}, 1, 2, s],
    "with betas": lambda s: {**s, "betas": torch.full((10,), 0.1)},
    "LitEma": lambda s: {
        "state_dict": {
            **prefixed(silent(s), "model.diffusion_model."),
            **{f"model_ema.diffusion_model{name.replace('.', '')}": s[name] for name in s},
            "model_ema.decay": torch.tensor(0.9999),
            "scale_factor": torch.tensor(1.0),
        }
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrapped_prefixed_and_averaged_weights_load(
    wrapping: str, state: State, file: Path
) -> None:
    torch.save(WRAPPINGS[wrapping](state), file)
    assert error_of(file) < 2e-5


def test_files_are_told_apart_by_content(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "model.ckpt")
    torch.save(state, tmp_path / "model.safetensors")
    torch.save(state, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for file in tmp_path.iterdir():
        assert error_of(file) < 2e-5


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float16, 0.01), (torch.bfloat16, 0.1), (torch.float64, 2e-5)],
)
def test_other_precisions_are_computed_in_float32(
    dtype: torch.dtype, tolerance: float, state: State, file: Path
) -> None:
    rounded = {name: weight.to(dtype) for name, weight in state.items()}
    torch.save(rounded, file)
    assert error_of(file) < tolerance
    torch.save({name: weight.float() for name, weight in rounded.items()}, file.with_name("full"))
    io = load_file(PESSER.parent / "io.safetensors")
    outputs = [
        load_checkpoint(path).eps(io["x"][:1], io["timesteps"][:1])
        for path in (file, file.with_name("full"))
    ]
    assert torch.equal(*outputs)


def test_the_loaded_network_keeps_nothing_of_the_file(state: State, file: Path) -> None:
    torch.save(state, file)
    io = load_file(PESSER.parent / "io.safetensors")
    denoiser = load_checkpoint(file)
    before = denoiser.eps(io["x"][:1], io["timesteps"][:1])
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))
    assert torch.equal(before, denoiser.eps(io["x"][:1], io["timesteps"][:1]))


def test_the_denoiser_is_frozen() -> None:
    denoiser = load_checkpoint(PESSER)
    assert not any(weight.requires_grad for weight in denoiser.parameters())
    assert not any(module.training for module in denoiser.modules())


def test_it_is_exported_without_importing_torch() -> None:
    code = (
        "import sys, ood_sampler.models as models\n"
        "sys.exit('torch' in sys.modules or models.__all__ != ['load_checkpoint'])"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    import ood_sampler.models

    assert ood_sampler.models.load_checkpoint is load_checkpoint
    with pytest.raises(AttributeError, match="has no attribute 'load_nothing'"):
        _ = ood_sampler.models.load_nothing  # type: ignore[attr-defined]


class Malicious:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.flag,))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("left", "name"),
    [
        (Namespace(lr=1), "argparse.Namespace"),
        (np.float64(0.5), r"numpy\._?core\.multiarray\.scalar"),
        (Path("a"), r"pathlib\.PosixPath"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_settings_beside_weights_are_not_read(
    left: object, name: str, state: State, file: Path
) -> None:
    torch.save({"state_dict": state, "args": left}, file)
    with pytest.raises(ValueError, match=rf"other objects \({name}\), which are not read\. If you"):
        load_checkpoint(file)


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_with_code_is_refused_and_runs_nothing(
    archive: bool, state: State, file: Path
) -> None:
    flag = file.with_name("executed")
    torch.save({**state, "x": Malicious(flag)}, file, _use_new_zipfile_serialization=archive)
    torch.load(file, weights_only=False)  # the bomb works
    assert flag.exists()
    flag.unlink()
    for read in (load_checkpoint, read_schedule):
        with pytest.raises(
            ValueError,
            match=r"tensors alone, got a pickle with other objects \([\w.]+\): .*nothing",
        ):
            read(file)
    file.write_bytes(pickle.dumps(Malicious(flag)))
    with pytest.raises(ValueError, match="nothing in it was executed"):
        load_checkpoint(file)
    assert not flag.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty file; fetch the file again"),
        (b"\n<!DOCTYPE html><html><title>Google Drive</title>", "got a web page.*in a browser"),
        (b"<HTML>", "got a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "got a Git LFS pointer"),
        (b"no checkpoint at all", "nothing in it was executed"),
        (
            b"hello\n",
            r"got a broken one or no checkpoint at all \(unknown code 101\); fetch.*, or set",
        ),
        (b"PK\x03\x04 but no archive", "whole checkpoint, got a broken one"),
        (b"\x20\0\0\0\0\0\0\0{", "whole safetensors"),
        (pickle.dumps({"a": 1}, protocol=2), "whole checkpoint"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(content: bytes, message: str, file: Path) -> None:
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"model\.pt must .*{message}"):
        load_checkpoint(file)


def test_an_archive_is_to_be_unpacked(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("unet/config.json", "{}")
        archive.writestr("unet/diffusion_pytorch_model.bin", "")
    with pytest.raises(
        ValueError, match=r"got a zip archive of unet/config\.json and others: unpa"
    ):
        load_checkpoint(file)
    packed = file.with_suffix(".tar.gz")
    for mode, kind in (("w", "tar"), ("w:gz", "gzip"), ("w:xz", "xz")):
        with tarfile.open(packed, mode) as archive:  # type: ignore[call-overload]
            archive.add(file, arcname="model.pt")
        with pytest.raises(ValueError, match=rf"got an archive \({kind}\): unpack it"):
            load_checkpoint(packed)


def test_a_json_file_is_no_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "model_index.json"
    file.write_text('{"_class_name": "DDPMPipeline"}')
    with pytest.raises(
        ValueError, match=r"got JSON: set model\.path to the folder of the pipeline"
    ):
        load_checkpoint(file)


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.pt").symlink_to(PESSER)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_checkpoint("~/model.pt").schedule.T == read_schedule("~/model.pt").T


@pytest.mark.parametrize("kind", ["archive", "old", "safetensors"])
def test_truncated_files_are_refused(kind: str, state: State, file: Path) -> None:
    if kind == "safetensors":
        save_file(state, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=kind == "archive")
    data = file.read_bytes()
    for share in (0.001, 0.5, 0.999):
        file.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ValueError, match=r"model\.pt must .* fetch the file again"):
            load_checkpoint(file)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    for read in (load_checkpoint, read_schedule):
        with pytest.raises(FileNotFoundError, match=r"nothing\.pt"):
            read(tmp_path / "nothing.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("mid.block_1.conv1.bias"), r"lacks mid\.block_1\.conv1\.bias; check"),
        (lambda s: s.pop("conv_in.weight"), r"lacks 'conv_in\.weight'"),
        (lambda s: s.pop("up.0.block.0.nin_shortcut.weight"), r"unexpected up\.0\.block\.0\.nin_"),
        (lambda s: s.update(extra=torch.zeros(2)), "has unexpected extra; check"),
        (
            lambda s: s.update({str(i): torch.zeros(2) for i in range(5)}),
            "has unexpected 0, 1, 2 and 2 more",
        ),
        (lambda s: s["conv_out.bias"].fill_(torch.inf), r"finite weights, .* in conv_out\.bias"),
        (lambda s: s["conv_out.bias"].fill_(torch.nan), r"finite weights, .* in conv_out\.bias"),
        (
            lambda s: s.update({"conv_out.bias": torch.zeros(4)}),
            r"hold conv_out\.bias in the shape \(3,\) of its architecture, got \(4,\)",
        ),
        (
            lambda s: s.update({"conv_out.bias": torch.zeros(3, dtype=torch.int64)}),
            r"floating-point weights, got torch\.int64 in conv_out\.bias",
        ),
        (
            lambda s: s.update({"conv_in.bias": torch.zeros(1).expand(32)}),
            r"dense floating-point weights, .* in conv_in\.bias",
        ),
    ],
)
def test_weights_that_are_not_whole_are_refused(
    change: Callable[[State], object], message: str, file: Path
) -> None:
    state = torch.load(PESSER, weights_only=True)
    change(state)
    torch.save(state, file)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(file)


@pytest.mark.parametrize(
    "content",
    [{"weight": torch.zeros(3)}, [1, 2], torch.zeros(3), {}],
    ids=["another network", "a list", "a tensor", "nothing"],
)
def test_a_file_without_a_known_network_is_refused(content: object, file: Path) -> None:
    torch.save(content, file)
    with pytest.raises(ValueError, match="state dict of guided-diffusion or pesser-ddpm, got"):
        load_checkpoint(file)


def test_containers_without_end_are_refused(file: Path) -> None:
    endless: list[object] = []
    endless += [endless, endless]
    torch.save(endless, file)
    with pytest.raises(ValueError, match="state dict of guided-diffusion or pesser-ddpm"):
        load_checkpoint(file)


@pytest.mark.parametrize("left_out", [(), ("conv_in.bias",)])
def test_averages_that_are_not_understood_are_told(
    left_out: tuple[str, ...], state: State, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    averages = {f"model_ema.{n.replace('.', '')}": state[n] for n in state if n not in left_out}
    torch.save(prefixed(state, "model.") | averages, file)
    load_checkpoint(file)
    told = "averaged weights at model_ema. that are not understood: the raw ones are taken"
    assert (told in caplog.text) == bool(left_out)


@pytest.mark.parametrize("fits", [True, False])
def test_averages_without_names_that_do_not_fit_are_told(
    fits: bool, state: State, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    averages = list(state.values())[: None if fits else -1]
    torch.save({"model": state, "ema": {"shadow_params": averages}}, file)
    load_checkpoint(file)
    told = "averaged weights at shadow_params that are not understood: the raw ones are taken"
    assert (told in caplog.text) != fits


@pytest.mark.parametrize(
    "name",
    ["first_stage_model.decoder.conv_in.bias", "cond_stage_model.x", "module.first_stage_model.x"],
)
def test_a_latent_diffusion_model_is_refused(name: str, state: State, file: Path) -> None:
    content = {**prefixed(state, "model.diffusion_model."), name: torch.zeros(2)}
    torch.save({"state_dict": content}, file)
    with pytest.raises(ValueError, match="models of latents or of text are not implemented"):
        load_checkpoint(file)


STATES = {
    "guided": torch.load(GUIDED, weights_only=True),
    "pesser": torch.load(PESSER, weights_only=True),
}
ODD_SHAPES: list[tuple[int, ...]] = [(), (1,), (0, 0), (7, 5), (0, 3, 3, 3)]


@pytest.mark.parametrize("shape", ODD_SHAPES, ids=str)
@pytest.mark.parametrize("key", STATES)
def test_a_tensor_of_any_other_shape_is_refused(
    key: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # one of each kind
    names = {re.sub(r"\d+", "0", name): name for name in STATES[key] if "weight" in name}
    for name in names.values():
        content = {**STATES[key], name: torch.zeros(shape)}
        monkeypatch.setattr(checkpoint, "read_tensors", lambda path, content=content: content)
        for order in (True, False) if "qkv" in name else (False,):
            heads = {**HEADS["model"], "use_new_attention_order": order}
            with pytest.raises(ValueError, match=r"."):
                load_checkpoint(GUIDED, {"model": heads} if key == "guided" else None)


@pytest.mark.parametrize("key", STATES)
def test_numbers_beside_names_are_refused(key: str, file: Path) -> None:
    torch.save({**STATES[key], 3: torch.zeros(2)}, file)
    with pytest.raises(ValueError, match="has unexpected 3"):
        load_checkpoint(file, HEADS if key == "guided" else None)


def test_weights_of_no_width_are_refused(file: Path) -> None:
    for key, state in STATES.items():
        torch.save({name: weight[..., :0] for name, weight in state.items()}, file)
        with pytest.raises(ValueError, match=r"model\.pt must hold"):
            load_checkpoint(file, HEADS if key == "guided" else None)


def test_several_networks_are_refused(state: State, file: Path) -> None:
    torch.save({"model": state, "teacher": silent(state)}, file)
    with pytest.raises(ValueError, match=r"got several, at 'model\.', 'teacher\.'"):
        load_checkpoint(file)


def test_the_format_is_checked() -> None:
    with pytest.raises(ValueError, match=r"format must be pesser-ddpm, as .* got guided-diffusion"):
        load_checkpoint(PESSER, {"format": "guided-diffusion"})
    with pytest.raises(ValueError, match=r"format must be guided-diffusion, as .* got pesser-ddpm"):
        load_checkpoint(GUIDED, {**ARCHITECTURE, "format": "pesser-ddpm"})
    load_checkpoint(PESSER, {"format": "pesser-ddpm"})


def test_a_misspelt_section_is_refused() -> None:
    for read in (load_checkpoint, read_schedule):
        with pytest.raises(ValueError, match="must have a section diffusion, got 'difusion'"):
            read(PESSER, {"difusion": {"diffusion_steps": 10}})
        with pytest.raises(ValueError, match="architecture must be a mapping of sections, got 'x'"):
            read(PESSER, "x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"architecture\.diffusion must be a mapping, got 3"):
        load_checkpoint(PESSER, {"diffusion": 3})


def test_a_model_without_classes_takes_no_label() -> None:
    with pytest.raises(ValueError, match=r"model\.label must be null: .* got 2"):
        load_checkpoint(PESSER, label=2)


def schedule_of(diffusion: Mapping[str, Any] | None) -> Schedule:
    read = read_schedule(PESSER, {"diffusion": diffusion})
    loaded = load_checkpoint(PESSER, {"diffusion": diffusion}).schedule
    assert torch.equal(read.alpha_bars, loaded.alpha_bars)
    return read


def test_the_schedule_is_that_of_the_architecture() -> None:
    def named(
        name: Literal["linear", "scaled_linear", "squaredcos_cap_v2"],
        T: int,
        start: float = 1e-4,
        end: float = 0.02,
    ) -> Schedule:
        return Schedule.from_name(name, T, beta_start=start, beta_end=end)

    steps = {"num_diffusion_timesteps": 100}
    for diffusion, expected in [
        (None, Schedule.linear()),
        ({"prediction_type": "sample"}, Schedule.linear()),
        ({"noise_schedule": None}, Schedule.linear()),
        ({"noise_schedule": "linear"}, Schedule.linear()),
        ({"diffusion_steps": 4000}, named("linear", 4000, 0.25e-4, 0.005)),
        ({"noise_schedule": "cosine", "diffusion_steps": 50}, named("squaredcos_cap_v2", 50)),
        ({"noise_schedule": "linear", "timestep_respacing": "ddim25"}, Schedule.linear()),
        ({"beta_schedule": "linear", "beta_end": 0.01}, named("linear", 1000, end=0.01)),
        ({"beta_schedule": "quad", **steps}, named("scaled_linear", 100)),
        ({"beta_schedule": "scaled_linear", "num_train_timesteps": 9}, named("scaled_linear", 9)),
        ({"beta_schedule": "squaredcos_cap_v2", **steps}, named("squaredcos_cap_v2", 100)),
        (steps, named("linear", 100)),
        ({"betas": [0.1, 0.2]}, Schedule(torch.tensor([0.1, 0.2], dtype=torch.float64))),
    ]:
        torch.testing.assert_close(
            schedule_of(diffusion).alpha_bars, expected.alpha_bars, rtol=1e-12, atol=0
        )


@pytest.mark.parametrize(
    ("diffusion", "message"),
    [
        ({"noise_schedule": "sqrt"}, "noise_schedule must be linear or cosine, got 'sqrt'"),
        ({"beta_schedule": "jsd"}, "beta_schedule must be linear, .* got 'jsd'"),
        ({"diffusion_steps": 0}, r"diffusion_steps must be in 1\.\.1000000, got 0"),
        ({"diffusion_steps": 10**9}, r"diffusion_steps must be in 1\.\.1000000, got 1000000000"),
        ({"num_train_timesteps": 10**9}, r"num_train_timesteps must be in 1\.\.1000000, got"),
        ({"num_diffusion_timesteps": 0}, r"num_diffusion_timesteps must be in 1\.\.1000000, got"),
        ({"diffusion_steps": "all"}, "diffusion_steps must be an integer, got 'all'"),
        ({"betas": [0.1], "beta_end": 0.1}, "betas, beta_end must not be given together"),
        (
            {"num_diffusion_timesteps": 3, "num_train_timesteps": 4},
            "num_train_timesteps must not be given beside num_diffusion_timesteps, got 4",
        ),
        ({"betas": [0.1, 1.0]}, r"betas must be in \(0, 1\)"),
        ({"betas": "many"}, "betas must be numbers, .* got 'many'"),
        ({"prediction_type": "flow"}, "prediction_type must be epsilon, .* or sample, got 'flow'"),
        (
            {"prediction_type": "epsilon", "predict_xstart": True},
            "prediction_type must be sample, as predict_xstart says, got 'epsilon'",
        ),
        (
            {"rescale_timesteps": True, "diffusion_steps": 500},
            "rescale_timesteps must be false for a chain of 500 steps",
        ),
        ({"noise": "linear"}, r"noise must not be in architecture\.diffusion"),
    ],
)
def test_a_schedule_that_is_not_implemented_is_refused(
    diffusion: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_checkpoint(PESSER, {"diffusion": diffusion})


def test_rescaling_1000_steps_changes_nothing() -> None:
    assert schedule_of({"rescale_timesteps": True, "diffusion_steps": 1000}).T == 1000


def test_a_table_in_the_checkpoint_is_the_schedule(state: State, file: Path) -> None:
    betas = torch.linspace(0.1, 0.4, 10)
    inner = {**prefixed(state, "model."), "betas": betas}
    optimizer = {"param_groups": [{"betas": (0.9, 0.999)}], "betas": [0.9, 0.999]}
    for content in (
        {**state, "betas": betas},
        {"state_dict": state, "betas": betas.tolist(), "optimizer": optimizer},
        {"optimizer": optimizer, "state_dict": inner},
        {"betas": [0.5] * 12, "state_dict": inner},
        {"betas": betas, "state_dict": {**state, "betas": torch.tensor([0.9, 0.999])}},
    ):
        torch.save(content, file)
        expected = Schedule(betas).alpha_bars
        for schedule in (read_schedule(file), load_checkpoint(file).schedule):
            torch.testing.assert_close(schedule.alpha_bars, expected, rtol=1e-6, atol=0)
        assert read_schedule(file, {"diffusion": {"diffusion_steps": 77}}).T == 77
    for content in (
        {"state_dict": state, "optimizer": optimizer},
        {"state_dict": state, "betas": (0.9, 0.999)},
        {**state, "betas": torch.tensor(0.9)},
        {**state, "betas": "linear and long"},
    ):
        torch.save(content, file)
        assert read_schedule(file).T == 1000
        load_checkpoint(file)
    torch.save({"state_dict": state, "betas": ["a"] * 10}, file)
    with pytest.raises(ValueError, match="betas must be a list of numbers, got list"):
        read_schedule(file)


@pytest.mark.parametrize(
    ("diffusion", "kind"),
    [
        ({}, EpsilonDenoiser),
        ({"prediction_type": "epsilon"}, EpsilonDenoiser),
        ({"prediction_type": "v_prediction"}, VelocityDenoiser),
        ({"prediction_type": "sample"}, SampleDenoiser),
        ({"predict_xstart": True}, SampleDenoiser),
        ({"predict_xstart": False, "prediction_type": "v_prediction"}, VelocityDenoiser),
    ],
)
def test_the_prediction_type_is_that_of_the_architecture(
    diffusion: Mapping[str, Any], kind: type
) -> None:
    assert type(load_checkpoint(GUIDED, {**HEADS, "diffusion": diffusion})) is kind


def test_a_folder_needs_no_architecture(model_folder: Path) -> None:
    assert load_checkpoint(model_folder).network.resolution == 16  # type: ignore[union-attr]
    assert read_schedule(model_folder, {}).T == 1000
    for read in (load_checkpoint, read_schedule):
        with pytest.raises(ValueError, match=r"architecture must be left out .* got model"):
            read(model_folder, {"model": {}})
    with pytest.raises(FileNotFoundError, match=r"diffusion_pytorch_model\.safetensors is missing"):
        load_checkpoint(FIXTURES)


def test_damage_that_makes_another_network_or_schedule_names_the_file(
    state: State, file: Path
) -> None:
    torch.save({"ema": state, "betas": torch.linspace(-0.1, 2, 1000)}, file)
    for read in (load_checkpoint, read_schedule):
        with pytest.raises(ValueError, match=r"betas must .* \(for .*model\.pt\)$"):
            read(file)
    guided = torch.load(GUIDED, weights_only=True)
    guided["input_blocks.0.0.weight"] = torch.zeros(128, 3, 3, 3)
    guided["input_blocks.0.0.bias"] = torch.zeros(128)
    torch.save(guided, file)
    with pytest.raises(ValueError, match=r"model\.pt"):
        load_checkpoint(file, HEADS)
