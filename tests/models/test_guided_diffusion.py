import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.models.checkpoint import load_checkpoint
from ood_sampler.models.guided_diffusion import GuidedDiffusion, infer
from tests.models.originals import (
    FIXTURES,
    OriginalGuidedDiffusion,
    inputs,
    randomized,
    relative_error,
)

FIXTURE = FIXTURES / "guided_diffusion"
ARCHITECTURE = json.loads((FIXTURE / "arch.json").read_text())
AFHQ_DOG = GuidedDiffusion(
    num_channels=128,
    num_res_blocks=1,
    channel_mult=(1, 1, 2, 2, 4, 4),
    attention_factors=(16,),
    num_head_channels=64,
    out_channels=6,
    resblock_updown=True,
    use_scale_shift_norm=True,
    image_size=256,
)


def load(
    original: OriginalGuidedDiffusion,
    folder: Path,
    *,
    model: Mapping[str, object] | None = None,
    label: int | None = None,
) -> Denoiser:
    torch.save(original.state_dict(), folder / "model.pt")
    model = {"num_head_channels": 16, **(model or {})}
    return load_checkpoint(folder / "model.pt", {"model": model}, label=label)


def check_exact(denoiser: Denoiser, original: OriginalGuidedDiffusion, *labels: int) -> None:
    x, t = inputs()
    y = [torch.full_like(t, label) for label in labels]
    expected = original.double()(x, t, *y)
    assert relative_error(denoiser.double().eps(x, t), expected[:, :3]) < 1e-10


@pytest.mark.parametrize(
    ("dtype", "expected", "tolerance"),
    [(torch.float32, "output", 2e-5), (torch.float64, "output_fp64", 1e-10)],
)
def test_the_fixture_is_matched(dtype: torch.dtype, expected: str, tolerance: float) -> None:
    io = load_file(FIXTURE / "io.safetensors")
    denoiser = load_checkpoint(FIXTURE / "checkpoint.pt", ARCHITECTURE).to(dtype)
    x, t = io["x"].to(dtype), io["timesteps"]
    assert relative_error(denoiser.network(x, t), io[expected]) < tolerance  # type: ignore[operator]
    eps = denoiser.eps(x, t)
    assert eps.dtype == dtype
    assert relative_error(eps, io[expected][:, :3]) < tolerance
    one = denoiser.eps(x[1:2], t[1])
    assert relative_error(one, io[expected][1:2, :3]) < tolerance


def test_the_small_original_matches_the_fixture_too() -> None:
    io = load_file(FIXTURE / "io.safetensors")
    original = OriginalGuidedDiffusion(
        mult=(1, 1, 2, 2), out=6, updown=True, scale_shift=True, attention=(4,)
    ).double()
    original.load_state_dict(torch.load(FIXTURE / "checkpoint.pt", weights_only=True))
    with torch.no_grad():
        output = original(io["x"].double(), io["timesteps"])
    assert relative_error(output, io["output_fp64"]) < 1e-10


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"depth": 2, "attention": (1, 2, 4)},
        {"attention": (2,), "updown": True},
        {"scale_shift": True, "out": 6},
        {"scale_shift": True, "new_order": True, "depth": 2},
        {"attention": (), "mult": (1,)},
        {"mult": (1, 3), "attention": (1, 2), "updown": True, "scale_shift": True},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_every_variant_is_exact(options: dict[str, Any], tmp_path: Path) -> None:
    original = randomized(OriginalGuidedDiffusion(**options))
    model = {"use_new_attention_order": options.get("new_order", False)}
    check_exact(load(original, tmp_path, model=model), original)  # type: ignore[arg-type]


@pytest.mark.parametrize("attention", [(4,), (1, 4)])
def test_a_single_head_at_every_width(attention: tuple[int, ...], tmp_path: Path) -> None:
    original = randomized(OriginalGuidedDiffusion(attention=attention, heads=lambda width: 1))
    model = {"num_head_channels": -1, "num_heads": 1}
    check_exact(load(original, tmp_path, model=model), original)  # type: ignore[arg-type]


def test_a_constant_number_of_heads_at_one_width(tmp_path: Path) -> None:
    original = randomized(OriginalGuidedDiffusion(heads=lambda width: 8))
    model = {"num_head_channels": -1, "num_heads": 8, "num_heads_upsample": -1}
    check_exact(load(original, tmp_path, model=model), original)  # type: ignore[arg-type]
    check_exact(load(original, tmp_path, model={**model, "num_heads_upsample": 8}), original)  # type: ignore[arg-type]


def test_attention_orders_differ(tmp_path: Path) -> None:
    original = randomized(OriginalGuidedDiffusion())
    x, t = inputs()
    outputs = [
        load(original, tmp_path, model={"use_new_attention_order": order}).double().eps(x, t)  # type: ignore[arg-type]
        for order in (False, True)
    ]
    assert relative_error(*outputs) > 0.01


def test_a_class_is_used_if_it_is_asked_for(tmp_path: Path) -> None:
    original = randomized(OriginalGuidedDiffusion(classes=5))
    for label in (0, 4):
        check_exact(load(original, tmp_path, label=label), original, label)  # type: ignore[arg-type]
    check_exact(load(original, tmp_path, model={"class_cond": True}), original)  # type: ignore[arg-type]
    for label in (5, -1):
        with pytest.raises(ValueError, match=rf"model\.label must be in 0\.\.4, .* got {label}"):
            load(original, tmp_path, label=label)  # type: ignore[arg-type]


def test_classes_that_are_ignored_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    original = OriginalGuidedDiffusion(classes=5)
    load(original, tmp_path, label=2)
    load(original, tmp_path, model={"class_cond": False})
    load(OriginalGuidedDiffusion(), tmp_path, model={"class_cond": False})
    assert not caplog.records
    load(original, tmp_path)
    load(original, tmp_path, model={"class_cond": True})
    assert len(caplog.records) == 2
    assert "knows 5 classes, which are ignored: set model.label to ask for one" in caplog.text


def test_classes_that_are_ruled_out_are_dropped(tmp_path: Path) -> None:
    original = randomized(OriginalGuidedDiffusion(classes=5))
    check_exact(load(original, tmp_path, model={"class_cond": False}), original)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"model\.label must be null"):
        load(original, tmp_path, model={"class_cond": False}, label=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("label", [True, 1.5, 1.0, "cat", "1"])
def test_a_class_is_an_integer(label: object, tmp_path: Path) -> None:
    original = OriginalGuidedDiffusion(classes=5)
    with pytest.raises(
        ValueError, match=rf"model\.label must be an integer or null, got {label!r}"
    ):
        load(original, tmp_path, label=label)  # type: ignore[arg-type]


def test_a_class_needs_a_conditional_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.label must be null: .* knows no classes, got 3"):
        load(OriginalGuidedDiffusion(), tmp_path, label=3)


def test_the_weights_tell_most_of_the_architecture() -> None:
    state = torch.load(FIXTURE / "checkpoint.pt", weights_only=True)
    assert infer(state) == {
        "num_channels": 32,
        "num_res_blocks": 1,
        "channel_mult": (1, 1, 2, 2),
        "attention_factors": (4,),
        "in_channels": 3,
        "out_channels": 6,
        "resblock_updown": True,
        "use_scale_shift_norm": True,
        "num_classes": None,
    }


def test_the_heads_alone_must_be_given() -> None:
    denoiser = load_checkpoint(FIXTURE / "checkpoint.pt", {"model": {"num_head_channels": "16"}})
    assert denoiser.network.resolution is None  # type: ignore[union-attr]
    assert denoiser.network.channels == 3  # type: ignore[union-attr]
    io = load_file(FIXTURE / "io.safetensors")
    assert relative_error(denoiser.eps(io["x"], io["timesteps"]), io["output"][:, :3]) < 2e-5
    for architecture in (None, {}, {"model": None}, {"model": {"num_head_channels": None}}):
        with pytest.raises(
            ValueError,
            match=r"num_head_channels \(or num_heads\) must be given in architecture\.model",
        ):
            load_checkpoint(FIXTURE / "checkpoint.pt", architecture)


def test_lists_and_numbers_are_read_as_strings_are() -> None:
    model = {
        **ARCHITECTURE["model"],
        "channel_mult": [1, 1, 2, 2],
        "attention_resolutions": 8,
        "num_head_channels": "16",
        "learn_sigma": "True",
    }
    denoiser = load_checkpoint(FIXTURE / "checkpoint.pt", {"model": model})
    assert denoiser.network.resolution == 32  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_channels": 64}, "num_channels must be 32, as .* says, got 64"),
        ({"num_res_blocks": 2}, "num_res_blocks must be 1, as .* says, got 2"),
        ({"channel_mult": "1,2,2,2"}, "channel_mult must be 1,1,2,2, as .* says, got 1,2,2,2"),
        ({"channel_mult": ""}, "channel_mult must be 1,1,2,2, as .* says, got 1,2,2,2"),
        (
            {"channel_mult": "", "image_size": 48},
            "channel_mult must be given for image_size=48",
        ),
        (
            {"attention_resolutions": "16,8"},
            "attention_resolutions must be 8, as .* says, got 8,16",
        ),
        ({"attention_resolutions": ""}, "attention_resolutions must be 8, as .* says, got empty"),
        ({"image_size": 64}, "attention_resolutions must be 16, as .* says, got 8"),
        ({"image_size": None}, r"image_size must be given in architecture\.model with attention_"),
        (
            {"image_size": 36, "attention_resolutions": 9},
            "image_size must be divisible by 8, .* got 36",
        ),
        ({"in_channels": 1}, "in_channels must be 3, as .* says, got 1"),
        ({"learn_sigma": False}, "learn_sigma must be true, as .* says, got false"),
        ({"class_cond": True}, "class_cond must be false, as .* says, got true"),
        ({"resblock_updown": False}, "resblock_updown must be true, as .* says, got false"),
        ({"use_scale_shift_norm": 0}, "use_scale_shift_norm must be true or false, got 0"),
        (
            {"use_scale_shift_norm": False},
            "use_scale_shift_norm must be true, as .* says, got false",
        ),
        ({"conv_resample": False}, "conv_resample must be true, got false"),
        ({"num_head_channels": 24}, "num_head_channels must divide the attention width 64, got 24"),
        ({"num_head_channels": 0}, "num_head_channels must divide the attention width 64, got 0"),
        (
            {"num_head_channels": -1, "num_heads": 3},
            "num_heads must divide the attention width 64, got 3",
        ),
        (
            {"num_head_channels": -1, "num_heads_upsample": 2},
            "num_heads_upsample must be -1 or num_heads=4, got 2",
        ),
        ({"num_res_blocks": "one"}, "num_res_blocks must be an integer, got 'one'"),
        ({"num_res_blocks": 1.5}, "num_res_blocks must be an integer, got 1.5"),
        ({"num_channels": True}, "num_channels must be an integer, got True"),
        ({"dims": 3}, r"dims must not be in architecture\.model: its meaning is not known"),
    ],
)
def test_a_field_that_contradicts_the_weights_is_refused(
    changes: Mapping[str, object], message: str
) -> None:
    architecture = {**ARCHITECTURE, "model": {**ARCHITECTURE["model"], **changes}}
    with pytest.raises(ValueError, match=message):
        load_checkpoint(FIXTURE / "checkpoint.pt", architecture)


def test_constant_heads_at_several_widths_are_refused(tmp_path: Path) -> None:
    original = OriginalGuidedDiffusion(attention=(1, 4), heads=lambda width: 2)
    with pytest.raises(ValueError, match=r"num_heads must be 1 or .* widths \[32, 64\]"):
        load(original, tmp_path, model={"num_head_channels": -1, "num_heads": 2})


def test_a_first_level_of_another_width_is_refused() -> None:
    state = torch.load(FIXTURE / "checkpoint.pt", weights_only=True)
    state["time_embed.0.weight"] = torch.zeros(256, 64)
    with pytest.raises(ValueError, match=r"channel_mult must begin with 1, got 0\.5"):
        GuidedDiffusion.from_state(state, {}, source="a file")


def test_an_empty_channel_mult_is_the_table_of_the_original(tmp_path: Path) -> None:
    original = OriginalGuidedDiffusion(mult=(1, 2, 2, 2), attention=(2, 4))
    model = {"image_size": 32, "channel_mult": "", "attention_resolutions": "16,8"}
    assert load(original, tmp_path, model=model).network.resolution == 32  # type: ignore[union-attr]


def test_the_published_architecture_has_the_published_size() -> None:
    from diffusers import UNet2DModel

    with torch.device("meta"):
        unet = UNet2DModel(**AFHQ_DOG.unet_config())
    assert sum(weight.numel() for weight in unet.parameters()) == 93_563_910


def test_the_published_architecture_is_read_off_its_weights() -> None:
    with torch.device("meta"):
        original = OriginalGuidedDiffusion(
            width=128,
            mult=(1, 1, 2, 2, 4, 4),
            attention=(16,),
            out=6,
            updown=True,
            scale_shift=True,
        )
    state = original.state_dict()
    model = {"image_size": 256, "num_head_channels": 64, "attention_resolutions": "16"}
    architecture = GuidedDiffusion.from_state(
        state, {"model": {**model, "channel_mult": ""}}, source="a file"
    )
    assert architecture == AFHQ_DOG
    assert sum(weight.numel() for weight in state.values()) == 93_563_910
