import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ood_sampler.diffusion.denoiser import Denoiser, EpsilonDenoiser
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.models.frozen import FrozenModel, checksum
from ood_sampler.modules.adapters import (
    ADAPTER,
    AdapterFineTuning,
    AdapterTuning,
    adapted_layers,
    asked_adapter,
    check_installed,
    merged,
    tune_adapter,
    with_adapter,
)
from ood_sampler.modules.finetuning import FineTuning, Tuned
from ood_sampler.store.files import load_json, load_state
from tests.conftest import RESOLUTION
from tests.modules.test_finetuning import images, killed_at

RANK = 2
SETTINGS = AdapterTuning(
    steps=12,
    learning_rate=0.01,
    batch_size=8,
    validate_every=4,
    patience=4,
    validation_share=0.25,
    ema_decay=0.9,
    rank=RANK,
    alpha=4.0,
)


@pytest.fixture(scope="module")
def frozen() -> Denoiser:
    """A tiny network with attention."""
    from diffusers import UNet2DModel

    from ood_sampler.models.pretrained import UNet

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=RESOLUTION,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    )
    return EpsilonDenoiser(UNet(unet), Schedule.linear())


def tune(folder: Path, trainer: Callable[..., Any], model: Denoiser, **changes: Any) -> Tuned:  # noqa: ANN401
    return tune_adapter(
        model, images(), SETTINGS, seed=0, trainer=trainer, folder=folder, **changes
    )


def eps(model: Denoiser) -> Tensor:
    x = torch.randn(3, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eps(x, torch.tensor(300))


def test_convolutions_and_projections_of_attention_are_adapted(frozen: Denoiser) -> None:
    names = adapted_layers(frozen.network)  # type: ignore[arg-type]
    kinds = {name.split(".")[-1] for name in names}
    assert {"conv_in", "conv_out", "conv1", "conv2", "to_q", "to_k", "to_v"} <= kinds
    assert not any("time_emb" in name for name in names)


def test_an_adapter_that_was_not_trained_changes_no_bit(frozen: Denoiser) -> None:
    before = checksum(frozen)
    adapted = with_adapter(frozen, rank=RANK, alpha=4.0, seed=0)
    assert torch.equal(eps(adapted), eps(frozen))
    assert checksum(frozen) == checksum(merged(adapted)) == before
    other = with_adapter(frozen, rank=RANK, alpha=4.0, seed=1)
    state = torch.get_rng_state()
    again = with_adapter(frozen, rank=RANK, alpha=4.0, seed=0)
    assert checksum(adapted) == checksum(again) != checksum(other)
    assert torch.equal(state, torch.get_rng_state())


def test_what_is_trained_is_counted(frozen: Denoiser) -> None:
    module = AdapterFineTuning(
        denoiser=frozen, images=images()[:8], held_out=images()[8:], settings=SETTINGS, seed=0
    )
    expected = 0
    for name, layer in frozen.network.named_modules():  # type: ignore[union-attr]
        if name in adapted_layers(frozen.network):  # type: ignore[arg-type]
            inputs = layer.weight[0].numel()  # type: ignore[index]
            expected += RANK * (inputs + len(layer.weight))  # type: ignore[arg-type]
    assert module.trained == expected
    (group,) = module.configure_optimizers().param_groups
    assert sum(weight.numel() for weight in group["params"]) == expected


def test_the_update_of_each_layer_has_the_rank_asked_for(
    frozen: Denoiser, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    before = checksum(frozen)
    tuned = tune(tmp_path, trainer, frozen)
    assert checksum(frozen) == before
    assert tuned.best.validation < tuned.curve[0].validation
    state, own = load_state(tuned.weights), frozen.network.state_dict()  # type: ignore[union-attr]
    adapter = load_state(tmp_path / ADAPTER)
    assert state is not None
    assert adapter is not None
    assert state.keys() == own.keys()
    layers = [f"{name}.weight" for name in adapted_layers(frozen.network)]  # type: ignore[arg-type]
    for name, value in state.items():
        if name not in layers:
            assert torch.equal(value, own[name])
            continue
        layer = f"network.{name.removesuffix('.weight')}"
        down, up = (adapter[f"{layer}.lora_{half}.default.weight"] for half in "AB")
        update = (value - own[name]).flatten(1).double()
        # alpha / rank is 2
        expected = 2 * up.flatten(1).double() @ down.flatten(1).double()
        torch.testing.assert_close(update, expected, rtol=1e-3, atol=1e-6)
        assert int(torch.linalg.matrix_rank(expected)) == RANK
    found = load_json(tmp_path / "curve.json")
    assert found is not None
    assert found["trained"] == sum(value.numel() for value in adapter.values())


@pytest.mark.parametrize("step", [7])
def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(
    frozen: Denoiser, trainer: Callable[..., Any], tmp_path: Path, step: int
) -> None:
    whole = tune(tmp_path / "whole", trainer, frozen)
    folder = tmp_path / "killed"
    with pytest.raises(RuntimeError, match="killed"):
        tune(folder, killed_at(trainer, step), frozen, checkpoint_every=3)
    assert [file.name for file in folder.glob("*.ckpt")] == ["resume.ckpt"]
    resumed = tune(folder, trainer, frozen, checkpoint_every=3)
    assert resumed.curve == whole.curve
    assert resumed.weights.read_bytes() == whole.weights.read_bytes()
    assert (folder / ADAPTER).read_bytes() == (tmp_path / "whole" / ADAPTER).read_bytes()
    assert not list(folder.glob("*.ckpt"))


def test_merged_weights_predict_what_the_adapted_network_does(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path, frozen: Denoiser
) -> None:
    adapted = with_adapter(frozen, rank=RANK, alpha=4.0, seed=0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    assert float((eps(adapted) - eps(frozen)).abs().max()) > 0.01
    torch.testing.assert_close(eps(merged(adapted)), eps(adapted), rtol=1e-3, atol=1e-4)
    model = FrozenModel(name="tiny", path=str(model_folder), resolution=RESOLUTION)
    assert with_adapter(model.denoiser, rank=1, alpha=1.0, seed=0) is not None


def test_an_adapter_is_trained_as_the_copy_is() -> None:
    copy = FineTuning(
        **{name: value for name, value in vars(SETTINGS).items() if name not in ("rank", "alpha")}
    )
    assert asked_adapter(copy, rank=RANK, alpha=4.0) == SETTINGS
    assert asked_adapter(copy, rank=None, alpha=4.0) is None


def test_without_the_package_the_remedy_is_told(
    monkeypatch: pytest.MonkeyPatch, frozen: Denoiser
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"study\.adapter needs the package peft: pip install"):
        check_installed()
    with pytest.raises(ValueError, match="needs the package peft"):
        with_adapter(frozen, rank=1, alpha=1.0, seed=0)


def test_a_network_without_layers_to_adapt_is_refused() -> None:
    model = EpsilonDenoiser(nn.Sequential(nn.Linear(2, 2)), Schedule.linear())
    with pytest.raises(ValueError, match="needs a network with convolutions or attention"):
        with_adapter(model, rank=1, alpha=1.0, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, r"study\.adapter\.rank must be a whole number >= 1, got 0"),
        ({"alpha": 0.0}, r"study\.adapter\.alpha must be > 0 and finite, got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdapterTuning(**{**vars(SETTINGS), **change})
