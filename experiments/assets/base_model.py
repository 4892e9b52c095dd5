"""Ship the averaged weights of a training as a frozen model, with a card of what they can do.

    python -m ood_sampler.train name=dog32 data.root=cifar10/train/dog.zip images=448000
    python -m ood_sampler.train name=dog32 data.root=cifar10/train/dog.zip images=1000000
    python experiments/assets/base_model.py dog32 --after 448000

reads the snapshots of the training and writes the diffusers pipeline
(weights in half precision), a sheet of 64 samples, the curves and the card into the package's
assets. FID and KID are taken against the stored features of real test images, from samples in the
precision that ships.
"""

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from ood_sampler.data.sources import load_training_images
from ood_sampler.diffusion.denoiser import Denoiser, VelocityDenoiser
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers import DdimSolver
from ood_sampler.metrics.features import EmbeddedFeatures, in_domain_features
from ood_sampler.metrics.frechet import infinitesimal_jackknife
from ood_sampler.metrics.kernel import KernelEstimate, jackknife
from ood_sampler.models.pretrained import UNet, load_pipeline
from ood_sampler.models.weights import ASSETS
from ood_sampler.modules.training import DenoiserTraining
from ood_sampler.report.grid import save_grid
from ood_sampler.report.plots import bitmap, styled
from ood_sampler.store.files import write_atomically
from ood_sampler.train import newest_checkpoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOMAINS = {"dog32": "dog", "ship32": "ship"}
STEPS = 50
SNAPSHOTS = 8  # that are measured at most
SNAPSHOT_SAMPLES = 250
SNAPSHOT_STEPS = 25
REAL = 1000  # training images that are measured for comparison


@dataclass(frozen=True)
class Quality:
    """How far images are from the test images of a class."""

    fid: float
    kid: KernelEstimate

    def __str__(self) -> str:
        kid = f"{1e3 * self.kid.value:.1f} ± {1e3 * self.kid.standard_error:.1f}"
        return f"{self.fid:.1f} | {kid}"


@dataclass(frozen=True)
class Moment:
    """What a training had reached after some images.

    Attributes:
        images: seen.
        loss: mean over what was logged since the moment before.
        kid: of a few samples by the weights of then.
    """

    images: int
    loss: float
    kid: KernelEstimate


def configuration(training: Path) -> dict[str, Any]:
    """Read the resolved configuration that the training saved."""
    loaded = OmegaConf.to_container(OmegaConf.load(training / "config.yaml"))
    config: dict[str, Any] = loaded  # type: ignore[assignment]
    del config["network"]["_target_"]
    return config


def snapshots(training: Path) -> dict[int, Path]:
    """Find the files of averaged weights by images seen, the last of which ended the training."""
    paths = sorted(training.glob("weights_*.safetensors"))
    return {int(path.stem.rpartition("_")[2]): path for path in paths}


def export(weights: Path, config: dict[str, Any], out: Path) -> None:
    """Write the pipeline folder with the weights of a snapshot."""
    state = {name.removeprefix("unet."): value.half() for name, value in load_file(weights).items()}
    unet = UNet2DModel(**config["network"]).half()
    unet.load_state_dict(state)
    prediction = DenoiserTraining.prediction_type
    scheduler = DDPMScheduler(**config["schedule"], prediction_type=prediction)
    DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(out)


@torch.inference_mode()
def samples(denoiser: Denoiser, count: int, *, steps: int) -> Tensor:
    """Draw images from pure noise, seed 0, in DDIM steps with clipping."""
    solver, blocks = DdimSolver(steps=steps, power=1), []
    for start in range(0, count, 50):
        noise = SampleNoise(0, range(start, min(start + 50, count)), stream=Stream.LATENT)
        x_T = noise.normal(3, 32, 32)
        blocks.append(solver.decode(denoiser, x_T, step=999, clip_x_0=True))
    return torch.cat(blocks)


@torch.inference_mode()
def quality(images: Tensor, real: Tensor, extractor: EmbeddedFeatures) -> Quality:
    """Compare images in [-1, 1] with stored features of real ones."""
    features = torch.cat([extractor(block) for block in images.split(100)])
    distance = infinitesimal_jackknife(features, real).value
    return Quality(float(distance), jackknife(features, real))


def losses(training: Path) -> dict[int, float]:
    """Read the logged losses by images seen; of parts that were trained twice the last."""
    found = {}
    curves = training.glob("curves/version_*/metrics.csv")
    for curve in sorted(curves, key=lambda path: int(path.parent.name.removeprefix("version_"))):
        with curve.open() as file:
            for row in csv.DictReader(file):
                found[int(float(row["train/images"]))] = float(row["train/loss"])
    return dict(sorted(found.items()))


def history(
    every: dict[int, Path],
    config: dict[str, Any],
    schedule: Schedule,
    logged: dict[int, float],
    compare: Callable[[Tensor], Quality],
) -> list[Moment]:
    """Measure the averaged weights of snapshots: even parts of them, and the last one."""
    moments, before = [], 0
    unet = UNet(UNet2DModel(**config["network"])).to(memory_format=torch.channels_last)
    velocity = VelocityDenoiser(unet, schedule)
    for images, path in list(every.items())[::-1][:: -(-len(every) // SNAPSHOTS)][::-1]:
        unet.load_state_dict(load_file(path))
        kid = compare(samples(velocity, SNAPSHOT_SAMPLES, steps=SNAPSHOT_STEPS)).kid
        since = [loss for seen, loss in logged.items() if before < seen <= images]
        moments.append(Moment(images, sum(since) / len(since), kid))
        print(f"{images:,} images: loss {moments[-1].loss:.4f}, KID {kid.value:.4f}", flush=True)
        before = images
    return moments


@styled
def curves(moments: list[Moment], logged: dict[int, float]) -> "Figure":
    """Draw loss and KID against images seen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([n / 1e3 for n in logged], list(logged.values()), color="#c3cad3", linewidth=0.8)
    seen = [moment.images / 1e3 for moment in moments]
    left.plot(seen, [moment.loss for moment in moments], "o-", color="#1a5fb4", markersize=4)
    left.set(title="Loss, and its means", ylim=(0, 4 * moments[-1].loss))
    kid = [1e3 * float(moment.kid.value) for moment in moments]
    errors = [1e3 * float(moment.kid.standard_error) for moment in moments]
    right.errorbar(seen, kid, yerr=errors, fmt="o-", color="#1a5fb4", markersize=4, capsize=2.5)
    right.set(title=f"KID × 10³ of {SNAPSHOT_SAMPLES} samples")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xlabel("thousand images seen")
        axes.grid(True, axis="y")
    return figure


def card(name: str, config: dict[str, Any], facts: dict[str, Any]) -> str:
    """Describe the model in Markdown."""
    domain, module, network = DOMAINS[name], config["module"], config["network"]
    rows = "\n".join(
        f"| {moment.images:,} | {moment.loss:.4f} | "
        f"{1e3 * moment.kid.value:.1f} ± {1e3 * moment.kid.standard_error:.1f} |"
        for moment in facts["moments"]
    )
    before = f"| weights shipped before | {facts['before']} |\n" if facts["before"] else ""
    images = facts["images"]
    restarts = ""
    if facts["after"]:
        counts = " and ".join(f"{count:,}" for count in facts["after"])
        restarts = f"""
  The training went on after the {counts} images of an earlier command, with a rate that rose
  again: the same command with a higher `images`."""
    commands = "\n".join(
        f"  - `python -m ood_sampler.train name={name} data.root=cifar10/train/{domain}.zip "
        f"images={count}`"
        for count in (*facts["after"], config["images"])
    )
    after = "".join(f" {count}" for count in facts["after"])
    return f"""# {name}

A DDPM of {domain}s at 32x32 (T = 1000, linear beta 1e-4 to 0.02) that predicts
v = alpha_t eps - sigma_t x_0 (Salimans & Ho, 2022), trained from scratch. Diffusers pipeline
layout, weights in float16, computed in float32.

- **Data**: the 5,000 training images of the class {domain} of CIFAR-10 (Krizhevsky, 2009; 32x32
  JPEG re-encodings), mirrored at random. No image is shipped.
- **Network**: diffusers `UNet2DModel`, {facts["parameters"] / 1e6:.2f} M parameters, channels
  {network["block_out_channels"]}, `unet/config.json`.
- **Training**: {images:,} images seen ({images // module["batch_size"]:,} steps of
  {module["batch_size"]}), seed {config["seed"]}, AdamW at {module["learning_rate"]} with linear
  decay over the last {module["decay_share"]:.0%}, velocity loss weighted by
  min(1, {module["snr_clip"]:g} / SNR), t = T u^{module["steps_power"]:g}, EMA
  {module["ema_decay"]}, {config["trainer"]["precision"]}; `conf/train.yaml`.{restarts}
- **Commands**:
{commands}
  - `python experiments/assets/base_model.py {name}{after and " --after" + after}`
- **Hardware**: one of two shared cores of an AMD EPYC (AVX-512, bfloat16), no GPU;
  {facts["hours"]:.1f} h of training, {images / facts["hours"] / 3600:.0f} images/s on average
  beside other work.
- **Licence**: MIT for the weights; CIFAR-10 states no licence and asks for its citation.

Against the 1,000 {domain} test images, features `features32`, {facts["samples"]} samples from
pure noise, seed 0, {STEPS} DDIM steps with clipping, half-precision weights:

| | FID ↓ | KID × 10³ ↓ |
|---|---|---|
| **these weights** | {facts["quality"]} |
{before}| {REAL} real training images | {facts["real"]} |

![64 samples, seed 0](samples.png)

![loss and KID against images seen](curves.png)

KID of {SNAPSHOT_SAMPLES} samples ({SNAPSHOT_STEPS} steps) by the averaged weights on the way; mean
loss between rows:

| images seen | loss | KID × 10³ |
|---|---|---|
{rows}
"""


def main() -> None:
    """Export, sample, measure, describe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", choices=DOMAINS)
    parser.add_argument("--training", type=Path, help="default: outputs/train/NAME")
    parser.add_argument("--out", type=Path, help="default: the package's assets")
    parser.add_argument("--samples", type=int, default=1000, help="for FID and KID")
    parser.add_argument(
        "--after",
        type=int,
        nargs="*",
        default=[],
        metavar="IMAGES",
        help="images= of the commands that the last one went on from",
    )
    parser.add_argument("--before", type=Path, help="pipeline to compare with, measured alike")
    arguments = parser.parse_args()
    name: str = arguments.name
    training: Path = arguments.training or Path("outputs/train") / name
    out: Path = arguments.out or ASSETS / name
    config, every, last = configuration(training), snapshots(training), newest_checkpoint(training)
    if not every or last is None:
        raise FileNotFoundError(f"{training} holds no finished training")
    seen, weights = list(every.items())[-1]
    compare = partial(quality, real=in_domain_features(DOMAINS[name]), extractor=EmbeddedFeatures())
    before = None
    if arguments.before is not None:
        # first, as it may be the folder that is written
        other = load_pipeline(arguments.before).to(memory_format=torch.channels_last)
        before = compare(samples(other, arguments.samples, steps=STEPS))
    export(weights, config, out)
    denoiser = load_pipeline(out).to(memory_format=torch.channels_last)
    start = time.perf_counter()
    images = samples(denoiser, arguments.samples, steps=STEPS)
    print(f"{arguments.samples} samples in {time.perf_counter() - start:.0f} s", flush=True)
    save_grid(images[:64], out / "samples.png")
    pictures = load_training_images(config["data"]["root"], 32)[:REAL].float() / 127.5 - 1
    logged = losses(training)
    moments = history(every, config, denoiser.schedule, logged, compare)
    checkpoint = torch.load(last, weights_only=True, map_location="cpu")
    facts = {
        "images": seen,
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        "hours": checkpoint["callbacks"]["Timer"]["time_elapsed"]["train"] / 3600,
        "samples": arguments.samples,
        "quality": compare(images),
        "before": before,
        "real": compare(pictures),
        "moments": moments,
        "after": arguments.after,
    }
    write_atomically(out / "curves.png", bitmap(curves(moments, logged), dots_per_inch=100))
    text = card(name, config, facts)
    write_atomically(out / "CARD.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
