import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ood_sampler.models.checkpoint import load_checkpoint
from ood_sampler.models.pesser import PesserDDPM, Sinusoid, infer
from tests.models.originals import FIXTURES, OriginalPesser, inputs, randomized, relative_error

FIXTURE = FIXTURES / "pesser"
ARCHITECTURE = json.loads((FIXTURE / "arch.json").read_text())
CELEBA_HQ = PesserDDPM(
    ch=128, ch_mult=(1, 1, 2, 2, 4, 4), num_res_blocks=2, attention_factors=(16,), image_size=256
)


@pytest.mark.parametrize("architecture", [ARCHITECTURE, None], ids=["given", "inferred"])
@pytest.mark.parametrize(
    ("dtype", "expected", "tolerance"),
    [(torch.float32, "output", 2e-5), (torch.float64, "output_fp64", 1e-10)],
)
def test_the_fixture_is_matched(
    dtype: torch.dtype, expected: str, tolerance: float, architecture: Mapping[str, Any] | None
) -> None:
    io = load_file(FIXTURE / "io.safetensors")
    denoiser = load_checkpoint(FIXTURE / "checkpoint.pt", architecture).to(dtype)
    eps = denoiser.eps(io["x"].to(dtype), io["timesteps"])
    assert relative_error(eps, io[expected]) < tolerance
    assert denoiser.network.resolution == (32 if architecture else None)  # type: ignore[union-attr]


def test_the_small_original_matches_the_fixture_too() -> None:
    io = load_file(FIXTURE / "io.safetensors")
    original = OriginalPesser(mult=(1, 1, 2, 2), depth=2, attention=(4,)).double()
    original.load_state_dict(torch.load(FIXTURE / "checkpoint.pt", weights_only=True))
    with torch.no_grad():
        output = original(io["x"].double(), io["timesteps"])
    assert relative_error(output, io["output_fp64"]) < 1e-10


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"with_conv": False},
        {"with_conv": False, "mult": (1, 2, 3), "depth": 2, "attention": (1, 4)},
        {"attention": (), "mult": (1,)},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_every_variant_is_exact(options: dict[str, Any], tmp_path: Path) -> None:
    original = randomized(OriginalPesser(**options))
    torch.save(original.state_dict(), tmp_path / "model.ckpt")
    denoiser = load_checkpoint(tmp_path / "model.ckpt").double()
    x, t = inputs()
    assert relative_error(denoiser.eps(x, t), original.double()(x, t)) < 1e-10


def test_the_sinusoid_keeps_the_original_order_of_operations() -> None:
    from diffusers.models.embeddings import Timesteps

    t = torch.arange(1000)
    ours = Sinusoid(128)(t)
    exact = torch.cat([torch.sin(t.double()[:, None]), torch.cos(t.double()[:, None])], 1)
    torch.testing.assert_close(ours[:, [0, 64]].double(), exact, rtol=0, atol=1e-6)
    stock = Timesteps(128, flip_sin_to_cos=False, downscale_freq_shift=1)(t)
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-4)
    assert (ours - stock).abs().max() > 1e-5
    odd = Sinusoid(7)(t)
    assert odd.shape == (1000, 7)
    assert odd[:, 6].eq(0).all()


def test_the_weights_tell_the_architecture() -> None:
    state = torch.load(FIXTURE / "checkpoint.pt", weights_only=True)
    assert infer(state) == {
        "ch": 32,
        "ch_mult": (1, 1, 2, 2),
        "num_res_blocks": 2,
        "attention_factors": (4,),
        "in_channels": 3,
        "out_ch": 3,
        "resamp_with_conv": True,
    }


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("model", {"ch": 64}, "ch must be 32, as .* says, got 64"),
        ("model", {"ch_mult": "1,2,2,2"}, "ch_mult must be 1,1,2,2, as .* says, got 1,2,2,2"),
        ("model", {"num_res_blocks": 1}, "num_res_blocks must be 2, as .* says, got 1"),
        ("model", {"attn_resolutions": [16]}, "attn_resolutions must be 8, as .* says, got 16"),
        ("model", {"in_channels": 1}, "in_channels must be 3, as .* says, got 1"),
        ("model", {"out_ch": 6}, "out_ch must be 3, as .* says, got 6"),
        ("model", {"resamp_with_conv": False}, "resamp_with_conv must be true, .* got false"),
        ("model", {"type": "bayesian"}, "type must be simple, got bayesian"),
        ("model", {"type": 3}, "type must be a name, got 3"),
        ("model", {"heads": 2}, r"heads must not be in architecture\.model"),
        ("data", {"channels": 1}, "channels must be 3, as .* says, got 1"),
        ("data", {"image_size": 64}, "attn_resolutions must be 16, as .* says, got 8"),
        ("data", {"image_size": None}, r"image_size must be given in architecture\.data"),
        ("data", {"rescaled": False}, "rescaled must be true"),
        ("data", {"logit_transform": True}, "logit_transform false"),
    ],
)
def test_a_field_that_contradicts_the_weights_is_refused(
    section: str, changes: Mapping[str, object], message: str
) -> None:
    architecture = {**ARCHITECTURE, section: {**ARCHITECTURE[section], **changes}}
    with pytest.raises(ValueError, match=message):
        load_checkpoint(FIXTURE / "checkpoint.pt", architecture)


def test_a_size_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image_size must be divisible by 8, .* got 36"):
        load_checkpoint(FIXTURE / "checkpoint.pt", {"data": {"image_size": 36}})


def test_the_fields_of_the_published_yaml_are_known() -> None:
    data = {
        "dataset": "LSUN",
        "category": "bedroom",
        "image_size": 32,
        "channels": 3,
        "logit_transform": False,
        "uniform_dequantization": False,
        "gaussian_dequantization": False,
        "random_flip": True,
        "rescaled": True,
        "num_workers": 32,
    }
    load_checkpoint(
        FIXTURE / "checkpoint.pt",
        {**ARCHITECTURE, "data": data, "training": {"batch_size": 64}, "optim": {"lr": 2e-5}},
    )


def test_a_first_level_of_another_width_is_refused(tmp_path: Path) -> None:
    torch.save(OriginalPesser(mult=(2, 2)).state_dict(), tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="ch_mult must begin with 1, got 2"):
        load_checkpoint(tmp_path / "model.ckpt")


def test_the_published_architecture_has_the_published_size() -> None:
    from diffusers import UNet2DModel

    with torch.device("meta"):
        unet = UNet2DModel(**CELEBA_HQ.unet_config())
        original = OriginalPesser(ch=128, mult=(1, 1, 2, 2, 4, 4), depth=2, attention=(16,))
    state = original.state_dict()
    assert sum(weight.numel() for weight in unet.parameters()) == 113_673_219
    assert sum(weight.numel() for weight in state.values()) == 113_673_219
    architecture = {"data": {"image_size": 256}, "model": {"attn_resolutions": [16]}}
    assert PesserDDPM.from_state(state, architecture, source="a file") == CELEBA_HQ
