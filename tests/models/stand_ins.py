"""Tiny models with random weights in the layouts that published ones have."""

from pathlib import Path

import torch

from ood_sampler.models.layout import folder_parts


def tiny_ldm(folder: Path, *, seed: int = 0, kl: bool = False) -> Path:
    """Make latent diffusion of 3x32x32 images, with latents of 3x8x8, as `LDMPipeline` saves it.

    The schedule is that of `CompVis/ldm-celebahq-256`.

    Args:
        folder: of the pipeline.
        seed: of the weights.
        kl: whether the autoencoder is an `AutoencoderKL` and not a `VQModel`.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, LDMPipeline, UNet2DModel, VQModel

    torch.manual_seed(seed)
    sizes = {
        "block_out_channels": (8, 8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "latent_channels": 3,
        "norm_num_groups": 4,
        "sample_size": 32,
        "scaling_factor": 0.5,
    }
    autoencoder = AutoencoderKL(**sizes) if kl else VQModel(**sizes, num_vq_embeddings=64)
    if not kl:  # as far apart as encoded images are, so that quantisation does not merge them
        torch.nn.init.normal_(autoencoder.quantize.embedding.weight)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    )
    scheduler = DDIMScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False
    )
    LDMPipeline(vqvae=autoencoder, unet=unet, scheduler=scheduler).save_pretrained(folder)
    return folder


def weights_file(folder: Path) -> Path:
    """Where a pipeline folder keeps its U-Net's weights: the file, or the index of its shards."""
    return folder / folder_parts(folder).unet.weights[0]
