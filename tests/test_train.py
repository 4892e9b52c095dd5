"""What training refuses before it starts."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from ood_sampler.command.arguments import read_command
from ood_sampler.config import CONF
from ood_sampler.faults import CommandError
from ood_sampler.train import build_network, check_keys, check_resumed, newest_checkpoint


def composed(overrides: Sequence[str] = ()) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", ["name=mine", "data.root=x", *overrides])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["name=mine"], "data.root must be set"),
        ([], "name and data.root must be set"),
        (["name=null", "data.root=x"], "name must be set"),
        (["name=mine", "data.root=x", "output=/dev/null/x"], "output=/dev/null/x cannot be writ"),
        (["name=mine", "data.root=x", "imagse=3"], "imagse"),
        (["name=mine", "data.root=x", "module.batch_size=0"], "module.batch_size must be .* got 0"),
        (["name=mine", "data.root=x", "images=many"], "images must be a number above 0, got many"),
        (["name=mine", "data.root=x", "trainer.devices=2"], "trainer.devices must be 1, got 2"),
    ],
)
def test_a_mistaken_command_is_named(overrides: list[str], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        check_keys(overrides)


def test_texts_of_a_training_arrive_as_they_were_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    typed = ["name=2024_05", "data.root=~/Galaxies (2020)", "images=10"]
    command = read_command(typed, name="train")
    check_keys(command.overrides, command.configuration)
    cfg = command.configuration.compose(command.overrides)
    assert (cfg.name, cfg.data.root, cfg.images) == ("2024_05", "/home/me/Galaxies (2020)", 10)
    assert cfg.output == "outputs/train/2024_05"
    assert command.arguments() == [
        "name='2024_05'",
        "data.root='/home/me/Galaxies (2020)'",
        typed[2],
    ]
    with pytest.raises(CommandError, match="name= has no value"):
        read_command(["name=", "data.root=x"], name="train")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("network.block_out_channels=[16,16,16,16]", "modulo by zero"),
        ("network.norm_num_groups=48", "must be divisible by num_groups"),
        ("data.resolution=20", "20x20 pixels"),
        ("network.down_block_types=[DownBlock2D]", "down_block_types"),
        ("network.out_channels=6", "must be 3"),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_network_that_cannot_take_the_pictures_is_refused(override: str, said: str) -> None:
    cfg = composed([override])
    with pytest.raises(ValueError, match=re.escape(said)):
        build_network(cfg.network, cfg.data.resolution)


def test_the_default_network_is_accepted() -> None:
    cfg = composed()
    assert build_network(cfg.network, cfg.data.resolution).config["sample_size"] == 32


def test_a_training_goes_on_with_its_own_pictures_and_settings_alone(tmp_path: Path) -> None:
    check_resumed(tmp_path, composed(), "pictures")
    check_resumed(tmp_path, composed(["images=9"]), "pictures")
    with pytest.raises(ValueError, match="another pictures and network"):
        check_resumed(tmp_path, composed(["network.layers_per_block=2"]), "others")
    with pytest.raises(ValueError, match="another module"):
        check_resumed(tmp_path, composed(["seed=1"]), "pictures")


def test_a_broken_checkpoint_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert newest_checkpoint(tmp_path) is None
    # a moved folder: the file that is called last is not the last one
    for name, step in (("last", 2), ("epoch=0-step=4", 4), ("epoch=1-step=6", 6)):
        torch.save({"global_step": step}, tmp_path / f"{name}.ckpt")
    newest = tmp_path / "epoch=1-step=6.ckpt"
    assert newest_checkpoint(tmp_path) == newest
    newest.write_bytes(newest.read_bytes()[:-40])
    assert newest_checkpoint(tmp_path) == tmp_path / "epoch=0-step=4.ckpt"
    assert "epoch=1-step=6.ckpt is left out" in caplog.text
