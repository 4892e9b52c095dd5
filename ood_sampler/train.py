"""`python -m ood_sampler.train`: train a denoiser on pictures of one domain."""

import logging
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(cfg: DictConfig) -> None:
    """Train, resume where an earlier call stopped, and save the averaged weights as a pipeline."""
    import lightning
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler
    from lightning.pytorch.callbacks import ModelCheckpoint, Timer
    from lightning.pytorch.loggers import CSVLogger
    from torch.utils.data import DataLoader

    from ood_sampler.data.sources import load_training_images
    from ood_sampler.diffusion.schedule import Schedule
    from ood_sampler.models.pretrained import UNet
    from ood_sampler.report.training import SamplePictures

    output = Path(cfg.output)
    images = load_training_images(cfg.data.root, cfg.data.resolution)
    log.info("%d pictures of %s", len(images), cfg.data.root)
    OmegaConf.save(cfg, output / "config.yaml", resolve=True)
    lightning.seed_everything(cfg.seed, verbose=False)
    unet = hydra.utils.instantiate(cfg.network, _convert_="all")
    schedule = Schedule.from_name(
        cfg.schedule.beta_schedule,
        cfg.schedule.num_train_timesteps,
        beta_start=cfg.schedule.beta_start,
        beta_end=cfg.schedule.beta_end,
    )
    network = UNet(unet).to(memory_format=torch.channels_last)
    module = hydra.utils.instantiate(cfg.module)(network=network, schedule=schedule, images=images)
    if cfg.compile:
        network.compile()
    steps = -(-cfg.images // cfg.module.batch_size)
    trainer = lightning.Trainer(
        **{str(key): value for key, value in cfg.trainer.items()},
        max_steps=steps,
        logger=CSVLogger(output, name="curves"),
        callbacks=[
            ModelCheckpoint(output, save_last=True, every_n_train_steps=cfg.checkpoint_every),
            Timer(),
            SamplePictures(folder=output, every=cfg.pictures_every, count=64, steps=50),
        ],
        gradient_clip_val=1.0,
    )
    resume = output / "last.ckpt"
    # the loader only counts: the module draws its batches, so that a resumed run draws the same
    trainer.fit(
        module,
        DataLoader(range(steps), batch_size=None),  # type: ignore[arg-type]
        ckpt_path=resume if resume.exists() else None,
        weights_only=True,
    )
    unet.load_state_dict(module.ema.unet.state_dict())
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler(**cfg.schedule)).save_pretrained(
        output / "pipeline"
    )
    log.info("finished: %s", output / "pipeline")


if __name__ == "__main__":
    main()
