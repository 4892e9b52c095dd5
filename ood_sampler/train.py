"""`python -m ood_sampler.train`: train a denoiser on images of one domain."""

import hashlib
import json
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ood_sampler.cli import one_sentence, start
from ood_sampler.command.arguments import Command
from ood_sampler.command.checking import nearest
from ood_sampler.command.files import Configuration
from ood_sampler.command.help import training_help_text
from ood_sampler.command.types import flat
from ood_sampler.command.values import check_complete, expand_home, plain
from ood_sampler.config import CONF
from ood_sampler.faults import CommandError
from ood_sampler.store.lock import hold

if TYPE_CHECKING:
    from diffusers import UNet2DModel
    from lightning import Callback, LightningModule, Trainer
    from torch import Tensor, nn

    from ood_sampler.models.style_generator import StyleGenerator

log = logging.getLogger(__name__)

CONFIGURATION = Configuration("train")
"""Default configuration of a training."""

_INTERRUPTED = "interrupted: the last checkpoint is kept, the same command continues"

_COUNTS = (
    "images",
    "data.resolution",
    "schedule.num_train_timesteps",
    "module.batch_size",
    "module.penalty_every",
    "checkpoint_every",
    "snapshot_every",
)
_POSITIVE = ("module.learning_rate", "module.snr_clip", "module.steps_power")


def main() -> None:
    """Answer `--help`, refuse a mistaken command, else hand over to Hydra."""
    start(
        "train",
        explain=lambda command: training_help_text(command.options.overrides),
        check=_check,
        run=run,
        interrupted=_INTERRUPTED,
    )


def _check(command: Command) -> None:
    if not command.is_answered_by_hydra and command.options.cfg is None:
        check_keys(command.overrides, command.configuration)


def check_keys(overrides: Sequence[str], configuration: Configuration = CONFIGURATION) -> None:
    """Say in one sentence what is wrong with a command.

    Raises:
        CommandError: it does not compose, a key that must be set is not, or a number is out of its
            range.
    """
    try:
        cfg = configuration.compose(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise CommandError(_mistake(str(error), overrides, configuration)) from error
    needed = ("name", "data.root")
    missing = [key for key in needed if OmegaConf.select(cfg, key, throw_on_missing=False) is None]
    if missing:
        raise CommandError(
            f"{' and '.join(missing)} must be set: "
            "python -m ood_sampler.train name=mine data.root=/my/images"
        )
    del cfg.hydra
    check_complete(cfg)
    for key in (*_COUNTS, *_POSITIVE):
        value = OmegaConf.select(cfg, key, default=1)  # not all recipes have all
        kind, words = (int, "whole number") if key in _COUNTS else (int | float, "number")
        if not isinstance(value, kind) or value <= 0:
            raise CommandError(f"{key} must be a {words} above 0, got {value}")
    if cfg.trainer.devices != 1:
        raise CommandError(
            f"trainer.devices must be 1, got {cfg.trainer.devices}: each would see the same batches"
        )


def _mistake(error: str, overrides: Sequence[str], configuration: Configuration) -> str:
    """What is wrong with a command that Hydra refuses, with the nearest key for one not known."""
    other = re.search(r"Could not find '(?P<group>\w+)/(?P<option>[^']+)'", error)
    if other is not None:
        group, option = other.groups()
        options = configuration.options(group)
        known = f"{nearest(option, options)}; there are: {', '.join(options)}"
        return f"{group}={option} is not known{known}"
    unknown = re.match(r"Could not override '(?P<key>[^']+)'", error)
    if unknown is None:
        return " ".join(error.split())
    composed = configuration.compose([text for text in overrides if text.startswith("recipe=")])
    del composed.hydra
    keys = [key for key, _ in flat(plain(composed))]
    key = unknown["key"]
    return f"{key} is not known{nearest(key, keys)}; --help lists the keys"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def run(cfg: DictConfig) -> None:
    """One training; a mistake or a fault ends it with one sentence and exit code 1."""
    expand_home(cfg)
    with one_sentence(_INTERRUPTED, failed=lambda sentence: sys.exit(1)):
        train(cfg)


def check_resumed(output: Path, cfg: DictConfig, pictures: str) -> None:
    """Check that a training resumes with the settings and the images it began with.

    Raises:
        ValueError: they differ.
    """
    from ood_sampler.store.files import write_atomically

    identity = output / "identity.json"
    found = {
        "pictures": pictures,
        **{
            block: OmegaConf.to_container(cfg[block], resolve=True)
            for block in ("network", "schedule", "module")
            if block in cfg
        },
    }
    if not identity.exists():
        write_atomically(identity, json.dumps(found).encode())
        return
    begun = json.loads(identity.read_text())
    other = [key for key in found if begun.get(key) != found[key]]
    if other:
        named = " and ".join(other).replace("pictures", "images")
        raise ValueError(
            f"{output} holds another training, which differs in {named}: choose another name, or "
            "remove the folder to start again"
        )


def build_network(network: DictConfig, resolution: int) -> "UNet2DModel":
    """Build the network, and try it on one blank image before any training.

    Raises:
        ValueError: it cannot be built, cannot take such an image or returns another shape.
    """
    import torch

    size = (1, 3, resolution, resolution)
    try:
        unet: UNet2DModel = hydra.utils.instantiate(network, _convert_="all")
        with torch.no_grad():
            returned = tuple(unet(torch.zeros(size), 0).sample.shape)
    except (HydraException, ArithmeticError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"the network of network.* does not work on {resolution}x{resolution} pixels: "
            f"{' '.join(str(error).split())}; "
            "attention_head_dim and norm_num_groups must divide block_out_channels, and the "
            "resolution be divisible by two for every level but the last"
        ) from error
    if returned != size:
        raise ValueError(
            f"the network of network.* turns images of shape {size[1:]} into {returned[1:]}: "
            "in_channels and out_channels must be 3"
        )
    return unet


def newest_checkpoint(folder: Path) -> Path | None:
    """Find the intact checkpoint of the most steps; log and skip broken ones."""
    from ood_sampler.store.tensor_files import read_tensors

    steps: dict[int, Path] = {}
    for path in sorted(folder.glob("*.ckpt")):
        try:
            checkpoint: dict[str, int] = read_tensors(path)  # type: ignore[assignment]
        except ValueError as error:
            log.warning("warning: %s is left out: %s", path.name, error)
            continue
        steps[checkpoint["global_step"]] = path
    return steps[max(steps)] if steps else None


class Recipe(Protocol):
    """What is trained, and what comes of it."""

    def network(self, cfg: DictConfig) -> "nn.Module":
        """Build the network and try it on one blank image.

        Raises:
            ValueError: it cannot be built, or does not fit the resolution.
        """

    def module(self, cfg: DictConfig, network: "nn.Module", images: "Tensor") -> "LightningModule":
        """Build the training of a network."""

    def snapshots(self, cfg: DictConfig, module: "LightningModule") -> "Callback":
        """Build what saves weights and samples on the way."""

    def save(self, cfg: DictConfig, module: "LightningModule", folder: Path) -> None:
        """Save the averaged weights as a model."""


class DiffusionRecipe:
    """A denoiser, saved as a diffusers pipeline."""

    def network(self, cfg: DictConfig) -> "nn.Module":
        from ood_sampler.models.pretrained import UNet

        return UNet(build_network(cfg.network, cfg.data.resolution))

    def module(self, cfg: DictConfig, network: "nn.Module", images: "Tensor") -> "LightningModule":
        from ood_sampler.diffusion.schedule import Schedule

        schedule = Schedule.from_name(
            cfg.schedule.beta_schedule,
            cfg.schedule.num_train_timesteps,
            beta_start=cfg.schedule.beta_start,
            beta_end=cfg.schedule.beta_end,
        )
        partial = hydra.utils.instantiate(cfg.module)
        module: LightningModule = partial(network=network, schedule=schedule, images=images)
        return module

    def snapshots(self, cfg: DictConfig, module: "LightningModule") -> "Callback":
        from ood_sampler.report.training import Snapshots

        return Snapshots(
            folder=Path(cfg.output),
            every=cfg.snapshot_every,
            count=64,
            steps=min(50, cfg.schedule.num_train_timesteps // 2),
        )

    def save(self, cfg: DictConfig, module: "LightningModule", folder: Path) -> None:
        from diffusers import DDPMPipeline, DDPMScheduler

        unet = module.network.unet  # type: ignore[union-attr]
        unet.load_state_dict(module.ema.unet.state_dict())  # type: ignore[union-attr]
        scheduler = DDPMScheduler(**cfg.schedule, prediction_type=module.prediction_type)
        DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(folder)


class GanRecipe:
    """A generator and its discriminator; the averaged generator is saved."""

    def network(self, cfg: DictConfig) -> "nn.Module":
        generator: StyleGenerator = hydra.utils.instantiate(cfg.network)
        if generator.resolution != cfg.data.resolution:
            raise ValueError(
                f"network.channels makes images of {generator.resolution}x{generator.resolution}, "
                f"data.resolution is {cfg.data.resolution}: one number for each of 4, 8, 16, ..."
            )
        discriminator = cfg.module.discriminator
        taken = 4 * 2 ** len(discriminator.channels)
        if taken != cfg.data.resolution:
            raise ValueError(
                f"module.discriminator.channels takes images of {taken}x{taken}, data.resolution "
                f"is {cfg.data.resolution}: one number for each of 4, 8, 16, ... to half of it"
            )
        batch, compared = cfg.module.batch_size, discriminator.compared
        if batch % min(compared, batch):
            raise ValueError(
                f"module.discriminator.compared must divide module.batch_size={batch}, got "
                f"{compared}"
            )
        return generator

    def module(self, cfg: DictConfig, network: "nn.Module", images: "Tensor") -> "LightningModule":
        partial = hydra.utils.instantiate(cfg.module)
        module: LightningModule = partial(network=network, images=images)
        return module

    def snapshots(self, cfg: DictConfig, module: "LightningModule") -> "Callback":
        from ood_sampler.report.training import GeneratorSnapshots

        return GeneratorSnapshots(folder=Path(cfg.output), every=cfg.snapshot_every, count=64)

    def save(self, cfg: DictConfig, module: "LightningModule", folder: Path) -> None:
        from ood_sampler.models.gan import save_generator

        save_generator(module.ema, folder)  # type: ignore[arg-type]


def train(cfg: DictConfig) -> None:
    """Train, resume where an earlier call stopped, and save the averaged weights as a pipeline.

    While another training writes into the folder, this one waits, and goes on where that ended.

    Raises:
        ValueError: the network, the trainer or its compiler do not work, or the loss diverged.
    """
    output = Path(cfg.output)
    with hold([output], needed=lambda: True, what=f"the training in {output}"):
        _train(cfg)


def _train(cfg: DictConfig) -> None:
    import lightning
    import torch

    from ood_sampler.data.sources import load_training_images
    from ood_sampler.modules.allocation import keep_freed_memory

    output = Path(cfg.output)
    lightning.seed_everything(cfg.seed, verbose=False)
    recipe: Recipe = hydra.utils.instantiate(cfg.recipe)
    network = recipe.network(cfg)
    images = load_training_images(cfg.data.root, cfg.data.resolution)
    log.info("%d images of %s", len(images), cfg.data.root)
    check_resumed(output, cfg, hashlib.sha256(images.numpy().tobytes()).hexdigest())
    OmegaConf.save(cfg, output / "config.yaml", resolve=True)
    network = network.to(memory_format=torch.channels_last)
    module = recipe.module(cfg, network, images)
    if cfg.compile:
        network.compile()
    keep_freed_memory()
    steps = -(-cfg.images // cfg.module.batch_size)
    trainer = build_trainer(cfg, steps=steps, snapshots=recipe.snapshots(cfg, module))
    fit(trainer, module, steps=steps, resumed=newest_checkpoint(output))
    if trainer.global_step % cfg.checkpoint_every:
        # with the optimizer's state, from which a training of more images continues
        trainer.save_checkpoint(output / "last.ckpt", weights_only=False)
    folder = output / "pipeline"
    recipe.save(cfg, module, folder)
    log.info("finished: %s", folder)


def build_trainer(cfg: DictConfig, *, steps: int, snapshots: "Callback") -> "Trainer":
    """Build the trainer, which writes checkpoints, curves and snapshots into the output folder.

    Args:
        cfg: configuration of the training.
        steps: of the optimizer.
        snapshots: saves samples on the way.

    Raises:
        ValueError: it does not fit this machine.
    """
    import lightning
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.callbacks import ModelCheckpoint, Timer
    from lightning.pytorch.loggers import CSVLogger

    output = Path(cfg.output)
    # two files, written in turn: one is intact whenever the process ends
    checkpoints = ModelCheckpoint(
        output,
        save_last=True,
        every_n_train_steps=cfg.checkpoint_every,
        enable_version_counter=False,
    )
    try:
        return lightning.Trainer(
            **{str(key): value for key, value in cfg.trainer.items()},
            max_steps=steps,
            logger=CSVLogger(output, name="curves"),
            callbacks=[checkpoints, Timer(), snapshots],
        )
    except (MisconfigurationException, TypeError) as error:
        raise ValueError(
            f"trainer does not fit this machine: {error}; trainer.accelerator=auto takes what is "
            "there"
        ) from error


def fit(trainer: "Trainer", module: "LightningModule", *, steps: int, resumed: Path | None) -> None:
    """Run the training.

    Args:
        trainer: see `build_trainer`.
        module: draws its own batches.
        steps: of the optimizer.
        resumed: checkpoint to go on from, if any.

    Raises:
        ValueError: the network cannot be compiled on this machine.
    """
    from torch.utils.data import DataLoader

    from ood_sampler.modules.compilation import refuse_to_compile

    try:
        # the loader only counts: the module draws its batches, so that a resumed run draws the same
        # (Lightning, which cannot know, warns of a loader that does not resume)
        trainer.fit(
            module,
            DataLoader(range(steps), batch_size=None),  # type: ignore[arg-type]
            ckpt_path=resumed,
            weights_only=True,
        )
    except RuntimeError as error:
        refuse_to_compile(error, "compile=true", off="compile=false")
        raise


if __name__ == "__main__":
    main()
