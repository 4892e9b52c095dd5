"""Train the embedded feature network `features32` and store it with in-domain references.

    python experiments/assets/features32.py --data cifar10

reads `cifar10/{train,test}/<class>.zip`, one image of 32x32 per file, the classes in alphabetical
order. It writes a checkpoint after each epoch, continues from it when started again, and ends by
writing the assets `features32.safetensors` and `<class>_test_features.safetensors`. The recipe
follows K. Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv 2404.00498.
"""

import argparse
import csv
import json
import math
import os
import time
from pathlib import Path

import torch
from in_domain import read_zip, store, to_float
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from ood_sampler.metrics.features import EMBEDDED, EmbeddedFeatures, FeatureNetwork
from ood_sampler.store.files import write_atomically

BATCH = 500
PEAK_RATE = 0.75
BIAS_GAIN = 64  # how much faster the offsets of the batch normalisations learn
MOMENTUM = 0.85
WEIGHT_DECAY = 1e-3
LABEL_SMOOTHING = 0.2
LOGIT_SCALE = 1 / 9
SHIFT = 3  # largest translation in pixels
CUT = 8  # side of the square that is greyed, in pixels
WARM_UP = 0.2  # part of the steps during which the learning rate rises
LOOKAHEAD = 5  # steps between two moves of the weights to their average
AVERAGE_DECAY = 0.95  # of that average, a step


def read_classes(folder: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Return images, labels and class names of a folder with one zip file for each class."""
    paths = sorted(folder.glob("*.zip"))
    if not paths:
        raise FileNotFoundError(f"no <class>.zip in {folder}; give its parent as --data")
    classes = [read_zip(path) for path in paths]
    labels = torch.cat([torch.full((len(c),), i) for i, c in enumerate(classes)])
    return torch.cat(classes), labels, [path.stem for path in paths]


def whiten(stem: nn.Conv2d, images: Tensor) -> None:
    """Set the stem to plus and minus the whitened principal components of its patches."""
    size = stem.kernel_size[0]
    patches = (
        functional.unfold(to_float(images), size, stride=size)
        .transpose(1, 2)
        .flatten(0, 1)
        .double()
    )
    mean = patches.mean(0)
    variances, directions = torch.linalg.eigh(torch.cov((patches - mean).T))
    # Without the constant the components with the least variance would be noise of the JPEG.
    rows = directions.T / (variances + 1e-3).sqrt().unsqueeze(1)
    weight = torch.cat((rows, -rows))
    with torch.no_grad():
        stem.weight.copy_(weight.view_as(stem.weight))
        if stem.bias is not None:
            stem.bias.copy_(-weight @ mean)
    stem.weight.requires_grad_(False)


def mirrored(count: int, epoch: int, *, seed: int) -> Tensor:
    """Tell which of the images an epoch mirrors: a random half, the other half the next time."""
    generator = torch.Generator().manual_seed(1_000_003 * seed - 1)
    return (torch.rand(count, generator=generator) < 0.5) ^ bool(epoch % 2)


def augment(images: Tensor, mirror: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror images, translate each by at most `SHIFT` pixels and grey a square of side `CUT`."""
    count, _, height, width = images.shape
    images = torch.where(mirror.view(-1, 1, 1, 1), images.flip(3), images)
    padded = functional.pad(images, (SHIFT, SHIFT, SHIFT, SHIFT), mode="reflect")
    shift = torch.randint(2 * SHIFT + 1, (2, count), generator=generator)
    rows = (shift[0].unsqueeze(1) + torch.arange(height)).view(count, 1, height, 1)
    columns = (shift[1].unsqueeze(1) + torch.arange(width)).view(count, 1, 1, width)
    batch = torch.arange(count).view(-1, 1, 1, 1)
    moved = padded[batch, torch.arange(3).view(1, 3, 1, 1), rows, columns]
    corner = torch.randint(height - CUT + 1, (2, count), generator=generator)
    inside = [
        (torch.arange(side) >= start.unsqueeze(1)) & (torch.arange(side) < start.unsqueeze(1) + CUT)
        for start, side in zip(corner, (height, width), strict=True)
    ]
    return moved.masked_fill((inside[0].unsqueeze(2) & inside[1].unsqueeze(1)).unsqueeze(1), 0.0)


def learning_rate(progress: float) -> float:
    """Return the share of the peak rate after the part `progress` of all steps: up, then down."""
    if progress < WARM_UP:
        return 0.2 + 0.8 * progress / WARM_UP
    return (1 - progress) / (1 - WARM_UP)


def initialise(network: FeatureNetwork, images: Tensor) -> None:
    """Let every convolution begin by handing on what it sees; normalised channels keep scale 1."""
    stem = network.stem[0]
    if not isinstance(stem, nn.Conv2d):
        raise TypeError(f"the stem must begin with a convolution, got {type(stem).__name__}")
    for layer in network.blocks.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.dirac_(layer.weight.data[: layer.in_channels])
        elif isinstance(layer, nn.BatchNorm2d):
            layer.weight.requires_grad_(False)
    whiten(stem, images)


def make_optimizer(network: nn.Module) -> torch.optim.SGD:
    """Return SGD with weight decay on the matrices, and fast offsets without."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    matrices = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY}
    offsets = {"params": [p for p in parameters if p.ndim == 1], "peak": BIAS_GAIN * PEAK_RATE}
    return torch.optim.SGD(
        [{"peak": PEAK_RATE} | matrices, offsets], lr=PEAK_RATE, momentum=MOMENTUM, nesterov=True
    )


class Average:
    """A slow average of weights that the weights are set to every few steps (lookahead)."""

    def __init__(self, network: nn.Module) -> None:
        self.weights = [p for p in network.parameters() if p.requires_grad]
        self.slow = [p.detach().clone() for p in self.weights]

    @torch.no_grad()
    def update(self, progress: float) -> None:
        """Move the average to the weights, less towards the end, and the weights to it."""
        decay = AVERAGE_DECAY**LOOKAHEAD * progress**3
        torch._foreach_lerp_(self.slow, [p.detach() for p in self.weights], 1 - decay)
        torch._foreach_copy_([p.detach() for p in self.weights], self.slow)


def train_epoch(
    network: FeatureNetwork,
    optimizer: torch.optim.SGD,
    average: Average,
    images: Tensor,
    labels: Tensor,
    *,
    epoch: int,
    epochs: int,
    seed: int,
) -> float:
    """Run one epoch and return its mean loss; `seed` and `epoch` alone determine its draws."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    order = torch.randperm(len(images), generator=generator)
    mirror = mirrored(len(images), epoch, seed=seed)
    batches = torch.split(order, BATCH)
    network.train()
    total = 0.0
    for step, batch in enumerate(batches):
        progress = (epoch + step / len(batches)) / epochs
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate(progress)
        pixels = augment(to_float(images[batch]), mirror[batch], generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(pixels.contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(
            LOGIT_SCALE * logits.float(), labels[batch], label_smoothing=LABEL_SMOOTHING
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        if (epoch * len(batches) + step + 1) % LOOKAHEAD == 0:
            average.update(progress)
        total += loss.item() / len(batches)
    return total


@torch.no_grad()
def class_accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the accuracy of each class in evaluation mode, float32, without augmentation."""
    network.eval()
    predicted = torch.cat(
        [network(to_float(batch)).argmax(1) for batch in torch.split(images, BATCH)]
    )
    hits = (predicted == labels).double()
    return torch.stack([hits[labels == label].mean() for label in range(int(labels.max()) + 1)])


def save_checkpoint(state: dict[str, object], path: Path) -> None:
    """Write a checkpoint so that a stop in the middle leaves the one before."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def train(data: Path, out: Path, *, epochs: int, seed: int) -> FeatureNetwork:
    """Train from the last checkpoint in `out`, or from the beginning."""
    images, labels, _ = read_classes(data / "train")
    test_images, test_labels, classes = read_classes(data / "test")
    torch.manual_seed(seed)
    network = FeatureNetwork(len(classes)).to(memory_format=torch.channels_last)
    initialise(network, images[::10])
    optimizer = make_optimizer(network)
    average = Average(network)

    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        average.slow = state["average"]
        first = state["epoch"]
    for epoch in range(first, epochs):
        start = time.monotonic()
        loss = train_epoch(
            network, optimizer, average, images, labels, epoch=epoch, epochs=epochs, seed=seed
        )
        seconds = time.monotonic() - start
        accuracy = math.nan
        if (epoch + 1) % 4 == 0 or epoch + 1 == epochs:
            accuracy = float(class_accuracy(network, test_images, test_labels).mean())
        save_checkpoint(
            {
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average.slow,
                "epoch": epoch + 1,
            },
            checkpoint,
        )
        log = out / "log.csv"
        new = not log.exists()
        with log.open("a", newline="") as file:
            if new:
                csv.writer(file).writerow(("epoch", "loss", "test accuracy", "images/s"))
            row = (epoch + 1, f"{loss:.4f}", f"{accuracy:.4f}", f"{len(images) / seconds:.0f}")
            csv.writer(file).writerow(row)
        print(
            f"epoch {epoch + 1}/{epochs} loss {loss:.4f} accuracy {accuracy:.4f} "
            f"{len(images) / seconds:.0f} images/s",
            flush=True,
        )
    return network


def export(network: FeatureNetwork, data: Path, out: Path) -> None:
    """Store the weights in float16 and in-domain references made with them."""
    weights = {
        name: (weight.half() if weight.is_floating_point() else weight).contiguous()
        for name, weight in network.state_dict().items()
    }
    EMBEDDED.mkdir(parents=True, exist_ok=True)
    write_atomically(EMBEDDED / "features32.safetensors", save(weights))

    extractor = EmbeddedFeatures()
    images, labels, classes = read_classes(data / "test")
    classify = nn.Sequential(extractor, extractor.network.head)
    accuracy = class_accuracy(classify, images, labels)
    report = {"total": float(accuracy.mean())} | dict(zip(classes, accuracy.tolist(), strict=True))
    (out / "accuracy.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))

    store(extractor, data, EMBEDDED, dtype=torch.float32)


def main() -> None:
    """Train, then store the assets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--out", type=Path, default=Path("outputs/features32"))
    parser.add_argument("--epochs", type=int, default=26)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    network = train(arguments.data, arguments.out, epochs=arguments.epochs, seed=arguments.seed)
    export(network, arguments.data, arguments.out)


if __name__ == "__main__":
    main()
