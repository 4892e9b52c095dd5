"""What training refuses before it starts."""

import re
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from ood_sampler.command.arguments import read_command
from ood_sampler.config import CONF
from ood_sampler.faults import CommandError
from ood_sampler.models.gan import load_generator
from ood_sampler.store.lock import hold
from ood_sampler.train import (
    GanRecipe,
    build_network,
    check_keys,
    check_resumed,
    newest_checkpoint,
    train,
)


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
        (["name=mine", "data.root=x", "imagse=3"], r"^imagse is not known; did you mean images\?"),
        (
            ["name=mine", "data.root=x", "module.batchsize=3"],
            r"^module\.batchsize is not known; did you mean module\.batch_size\?",
        ),
        (
            ["recipe=gna"],
            r"^recipe=gna is not known; did you mean gan\?; there are: diffusion, gan$",
        ),
        (["name=mine", "data.root=x", "module.batch_size=0"], "module.batch_size must be .* got 0"),
        (["name=mine", "data.root=x", "images=many"], "images must be a whole number above 0, got"),
        (["name=mine", "data.root=x", "images=1e6"], "images must be a whole number above 0, got"),
        (["name=mine", "data.root=x", "module.learning_rate=x"], "must be a number above 0, got x"),
        (
            ["name=mine", "data.root=x", "recipe=gan", "module.penalty_every=0"],
            "module.penalty_every must be a whole number above 0, got 0",
        ),
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


def test_a_training_goes_on_with_its_own_images_and_settings_alone(tmp_path: Path) -> None:
    check_resumed(tmp_path, composed(), "pictures")
    check_resumed(tmp_path, composed(["images=9"]), "pictures")
    with pytest.raises(ValueError, match="another training, which differs in images and network"):
        check_resumed(tmp_path, composed(["network.layers_per_block=2"]), "others")
    with pytest.raises(ValueError, match="differs in module"):
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


SMALL_GAN = [
    "recipe=gan",
    "images=12",
    "data.resolution=8",
    "network.channels=[8,4]",
    "network.width=4",
    "module.discriminator.channels=[4]",
    "module.discriminator.compared=2",
    "module.batch_size=4",
    "module.penalty_every=2",
    "checkpoint_every=2",
    "snapshot_every=2",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            ["data.resolution=16", "network.channels=[8,4,4]"],
            r"discriminator\.channels takes images of 8x8, data\.resolution is 16",
        ),
        (["module.discriminator.compared=3"], r"compared must divide module\.batch_size=4, got 3"),
        (["network.channels=[8]"], r"network\.channels makes images of 4x4"),
    ],
)
def test_networks_of_a_gan_that_do_not_fit_are_named_before_work(
    changes: list[str], said: str
) -> None:
    cfg = composed([*SMALL_GAN, *changes])
    with pytest.raises(ValueError, match=said):
        GanRecipe().network(cfg)
    GanRecipe().network(composed(SMALL_GAN))


def test_every_recipe_composes_with_the_keys_of_its_own() -> None:
    recipes = sorted(file.stem for file in (CONF / "recipe").glob("*.yaml"))
    assert recipes == ["diffusion", "gan"]
    check_keys(["name=mine", "data.root=x", *SMALL_GAN])
    assert "schedule" in composed(["recipe=diffusion"])
    assert "schedule" not in composed(["recipe=gan"])
    with pytest.raises(CommandError, match=r"module\.snr_clip"):
        check_keys(["name=mine", "data.root=x", "recipe=gan", "module.snr_clip=3"])
    with pytest.raises(CommandError, match=r"module\.batch_size must be .* got 0"):
        check_keys(["name=mine", "data.root=x", "recipe=gan", "module.batch_size=0"])


def test_the_default_recipe_is_that_of_denoisers() -> None:
    cfg = composed()
    assert cfg == composed(["recipe=diffusion"])
    assert cfg.module._target_ == "ood_sampler.modules.training.DenoiserTraining"
    assert (cfg.trainer.precision, cfg.trainer.gradient_clip_val) == ("bf16-mixed", 1.0)
    assert cfg.compile is True


def test_a_generator_of_another_resolution_is_refused() -> None:
    cfg = composed(["recipe=gan", "data.resolution=16"])
    with pytest.raises(ValueError, match=r"makes images of 32x32, data\.resolution is 16"):
        GanRecipe().network(cfg)


SMALL_DENOISER = [
    "recipe=diffusion",
    "compile=false",
    "data.resolution=8",
    "network.block_out_channels=[32,32,32,32]",
    "module.batch_size=4",
    "schedule.num_train_timesteps=20",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "trainer.log_every_n_steps=1",
]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", [SMALL_DENOISER, SMALL_GAN])
def test_a_training_says_nothing_of_how_checkpoints_are_written(
    recipe: list[str], pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out"
    # the last step is no multiple of checkpoint_every, so that it gets a checkpoint of its own
    own = [f"data.root={pictures}", f"output={output}", "checkpoint_every=3"]
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        for images in (8, 16):
            train(composed([*recipe, *own, f"images={images}"]))
            newest = newest_checkpoint(output)
            assert newest is not None
            checkpoint = torch.load(newest, weights_only=True)
            assert checkpoint["global_step"] == images // 4
            assert checkpoint["optimizer_states"]
    assert "Restored all states" in caplog.text
    assert "weights_only" not in caplog.text


@pytest.mark.filterwarnings("ignore")
def test_a_gan_is_trained_stopped_and_gone_on_with(pictures: Path, tmp_path: Path) -> None:
    def trained(name: str, *images: int) -> dict[str, torch.Tensor]:
        output = tmp_path / name
        for count in images:
            own = [f"data.root={pictures}", f"output={output}", f"images={count}"]
            train(composed([*SMALL_GAN, *own]))
        return load_generator(output / "pipeline").state_dict()

    whole, parts = trained("whole", 16), trained("parts", 8, 16)
    assert all(torch.equal(parts[name], value) for name, value in whole.items())
    seen = sorted(file.name for file in (tmp_path / "parts").glob("samples_*"))
    assert seen == ["samples_000000008.png", "samples_000000016.png"]


def test_a_folder_takes_one_training_at_a_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "mine"
    cfg = composed([*SMALL_GAN, f"data.root={tmp_path / 'none'}", f"output={output}"])
    held, release = threading.Event(), threading.Event()

    def other() -> None:
        with hold([output], needed=lambda: True, what="another training"):
            held.set()
            release.wait(20)

    training = threading.Thread(target=other)
    training.start()
    assert held.wait(20)
    threading.Timer(0.3, release.set).start()
    with caplog.at_level("INFO"), pytest.raises(FileNotFoundError, match="none"):
        train(cfg)
    assert release.is_set()
    assert f"waiting for the training in {output}" in caplog.text
    training.join()
