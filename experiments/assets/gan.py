"""Ship the averaged generator of a training as a frozen GAN, with a card of what it can do.

    python -m ood_sampler.train recipe=gan name=dog32_gan data.root=cifar10/train/dog.zip
    python experiments/assets/gan.py --training outputs/train/dog32_gan

reads the newest snapshot, also of a training that still runs, and writes weights in half precision,
a sheet of 64 samples and the card into the package's assets. FID and KID are taken against the
stored features of real test images of dogs, beside those of `dog32` and of real images.
"""

import argparse
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from base_model import configuration, samples, snapshots
from safetensors.torch import load_file
from torch import Tensor

from ood_sampler.data.sources import load_training_images
from ood_sampler.metrics.features import EmbeddedFeatures, FeatureExtractor, read_reference
from ood_sampler.metrics.frechet import infinitesimal_jackknife
from ood_sampler.metrics.imagenet import ImageNetFeatures
from ood_sampler.metrics.kernel import jackknife
from ood_sampler.models.gan import load_generator, save_generator
from ood_sampler.models.pretrained import load_pipeline
from ood_sampler.models.style_generator import StyleGenerator
from ood_sampler.models.weights import ASSETS
from ood_sampler.report.grid import save_grid
from ood_sampler.store.files import write_atomically

NAME = "dog32_gan"
BESIDE = "dog32"
STEPS = 25  # of dog32's samples
MOMENTS = 8  # snapshots that are measured, at most
MOMENT_SAMPLES = 250


@torch.inference_mode()
def generated(generator: StyleGenerator, count: int) -> Tensor:
    """Draw images from the prior, seed 0."""
    z = torch.randn(count, generator.width, generator=torch.Generator().manual_seed(0))
    return torch.cat([generator(block).clamp(-1, 1) for block in z.split(100)])


@torch.inference_mode()
def scores(images: Tensor, judge: FeatureExtractor) -> str:
    """FID and KID to the test images of dogs, as two cells of a table."""
    features = torch.cat([judge(block) for block in images.split(50)])
    file = ASSETS / judge.name / "dog_test_features.safetensors"
    real = read_reference(file, judge)
    kid = jackknife(features, real)
    distance = float(infinitesimal_jackknife(features, real).value)
    return f"{distance:.1f} | {1e3 * kid.value:.1f} ± {1e3 * kid.standard_error:.1f}"


def build(config: Mapping[str, Any], weights: Path) -> StyleGenerator:
    """Build the averaged generator of a snapshot."""
    generator = StyleGenerator(**config["network"])
    generator.load_state_dict(load_file(weights))
    return generator.requires_grad_(False).eval()


def history(every: Mapping[int, Path], config: Mapping[str, Any], judge: FeatureExtractor) -> str:
    """Rows of FID and KID of a few samples on the way."""
    chosen = list(every.items())[::-1][:: -(-len(every) // MOMENTS)][::-1]
    return "\n".join(
        f"| {seen:,} | {scores(generated(build(config, path), MOMENT_SAMPLES), judge)} |"
        for seen, path in chosen
    )


def card(config: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Describe the model in Markdown."""
    module, network = config["module"], config["network"]
    augmentation = module["augmentation"]
    unfinished = (
        f"\n  An early stop: the training was to see {config['images']:,}."
        if facts["seen"] < config["images"]
        else ""
    )
    header = "".join(f" FID, {judge} ↓ | KID × 10³, {judge} ↓ |" for judge in facts["judges"])
    rows = "\n".join(f"| {name} | {' | '.join(row)} |" for name, row in facts["rows"].items())
    return f"""# {NAME}

A style-based GAN of dogs at 32x32 (Karras et al., 2020), trained from scratch: the partner of
`{BESIDE}` in studies of inversion. Weights in float16, computed in float32.

- **Data**: the 5,000 training images of the class dog of CIFAR-10 (Krizhevsky, 2009; 32x32 JPEG
  re-encodings), mirrored at random, as for `{BESIDE}`. No image is shipped.
- **Generator**: `StyleGenerator`, {facts["parameters"] / 1e6:.2f} M parameters, channels
  {list(network["channels"])}, codes of {network["width"]}, {network["mapping"]} mapping layers, no
  noise inputs; `config.json`.
- **Training**: {facts["seen"]:,} images seen ({facts["seen"] // module["batch_size"]:,} steps of
  {module["batch_size"]}).{unfinished}
  Seed {config["seed"]}; residual discriminator with channels
  {list(module["discriminator"]["channels"])}; non-saturating loss; R1 (Mescheder et al., 2018)
  times {module["penalty"]} / 2, every {module["penalty_every"]} steps; Adam at
  {module["learning_rate"]}; differentiable augmentation (Zhao et al., 2020) with colour
  {augmentation["colour"]}, shift {augmentation["shift"]}, cutout {augmentation["cutout"]}; EMA
  {module["ema_decay"]}; precision {config["trainer"]["precision"]}; `conf/recipe/gan.yaml`.
- **Commands**:
  - `python -m ood_sampler.train recipe=gan name={NAME} data.root=cifar10/train/dog.zip
    images={config["images"]} trainer.precision={config["trainer"]["precision"]}`
  - `python experiments/assets/gan.py --training outputs/train/{NAME}`
- **Hardware**: a share of one CPU core ({platform.machine()}), no GPU.
- **Licence**: MIT for the weights; CIFAR-10 states no licence and asks for its citation.

Against the 1,000 dog test images, {facts["samples"]} images of each set; `{BESIDE}` from pure
noise in {STEPS} DDIM steps with clipping:

| |{header}
|---|{"---|---|" * len(facts["judges"])}
{rows}

![64 samples](samples.png)

{MOMENT_SAMPLES} samples on the way, features32:

| images seen | FID ↓ | KID × 10³ ↓ |
|---|---|---|
{facts["history"]}
"""


def main() -> None:
    """Export, sample, measure, describe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--training", type=Path, default=Path("outputs/train") / NAME)
    parser.add_argument("--out", type=Path, default=ASSETS / NAME)
    parser.add_argument("--samples", type=int, default=500, help="of each set, for FID and KID")
    arguments = parser.parse_args()
    training, out, count = arguments.training, arguments.out, arguments.samples
    config, every = configuration(training), snapshots(training)
    if not every:
        raise FileNotFoundError(f"{training} holds no snapshot yet")
    seen, weights = list(every.items())[-1]
    save_generator(build(config, weights), out, torch.float16)
    generator = load_generator(out)
    images = generated(generator, count)
    save_grid(images[:64], out / "samples.png")
    real = load_training_images(config["data"]["root"], config["data"]["resolution"])[:count]
    denoiser = load_pipeline(ASSETS / BESIDE).to(memory_format=torch.channels_last)
    sets = {
        f"**{NAME}**": images,
        BESIDE: samples(denoiser, count, steps=STEPS),
        "real training images": real.float() / 127.5 - 1,
    }
    judges: list[FeatureExtractor] = [ImageNetFeatures(), EmbeddedFeatures()]
    facts = {
        "seen": seen,
        "parameters": sum(p.numel() for p in generator.parameters()),
        "samples": count,
        "judges": [judge.name for judge in judges],
        "rows": {
            name: [scores(pictures, judge) for judge in judges] for name, pictures in sets.items()
        },
        "history": history(every, config, judges[1]),
    }
    text = card(config, facts)
    write_atomically(out / "CARD.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
