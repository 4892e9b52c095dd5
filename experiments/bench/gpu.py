"""What a GPU does with the full AFHQ-Dog architecture at 256x256, with random weights.

Images a second for each precision, eager and compiled, against the peak of a large matrix product.
"""

import argparse
import datetime
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ood_sampler.diffusion.denoiser import EpsilonDenoiser
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers import MultistepSolver
from ood_sampler.models.guided_diffusion import GuidedDiffusion
from ood_sampler.models.pretrained import UNet
from ood_sampler.modules.compilation import CompiledNetwork, Mode

MODEL = Path(__file__).parents[2] / "conf" / "model" / "iddpm_afhqdog.yaml"
TINY = {
    "num_channels": 32,
    "channel_mult": [1, 1],
    "image_size": 16,
    "attention_resolutions": [8],
    "num_head_channels": 32,
}
SOLVER, STEP = MultistepSolver(steps=33, power=2), 500
"""What an image costs by default: so many evaluations to be inverted, and to be decoded."""

PRECISIONS = {"cuda": ("float32", "tf32", "bf16-mixed"), "cpu": ("float32", "bf16-mixed")}
COMPILED: dict[str, Mode] = {"compiled": "default", "CUDA graphs": "reduce-overhead"}
BATCHES = [4**power for power in range(6)]
REPEATS, SECONDS = 3, 0.5
"""Of a timing, and how long each one takes at least."""


@dataclass(frozen=True)
class Size:
    """How much is measured: the real thing, or a smoke test."""

    model: dict[str, Any]
    batches: Sequence[int]
    matrix: int
    seconds: float


def full() -> Size:
    """The published architecture."""
    config: Any = OmegaConf.create({"model": OmegaConf.load(MODEL)})
    model: Any = OmegaConf.to_container(config.model.architecture.model, resolve=True)
    return Size(model, BATCHES, matrix=8192, seconds=SECONDS)


def tiny() -> Size:
    """A network of the same kind that takes milliseconds."""
    return Size(full().model | TINY, (1, 4), matrix=64, seconds=0.0)


def random_network(model: dict[str, Any]) -> UNet:
    """Build an architecture, given in the names of its format, with random weights."""
    side: int = model["image_size"]
    architecture = GuidedDiffusion(
        num_channels=model["num_channels"],
        num_res_blocks=model["num_res_blocks"],
        channel_mult=tuple(model["channel_mult"]),
        attention_factors=tuple(side // each for each in model["attention_resolutions"]),
        num_head_channels=model["num_head_channels"],
        out_channels=6 if model["learn_sigma"] else 3,
        resblock_updown=model["resblock_updown"],
        use_scale_shift_norm=model["use_scale_shift_norm"],
        image_size=side,
    )
    torch.manual_seed(0)
    return UNet(UNet2DModel.from_config(architecture.unet_config()))


@dataclass(frozen=True)
class Bench:
    """One network on one device.

    Attributes:
        network: on the device.
        device: `cuda` or `cpu`.
        size: how much is measured.
    """

    network: nn.Module
    device: str
    size: Size

    @cached_property
    def denoiser(self) -> EpsilonDenoiser:
        """The network as solvers ask it."""
        return EpsilonDenoiser(self.network, Schedule.linear())

    def images(self, batch_size: int) -> Tensor:
        """Noise of the network's size."""
        side = self.size.model["image_size"]
        return torch.randn(batch_size, 3, side, side, device=self.device)

    def evaluate(self, x_t: Tensor) -> Tensor:
        """Ask the network once."""
        t = torch.full((), STEP, dtype=torch.long, device=x_t.device)
        return self.denoiser.eps(x_t, t)

    def flops(self) -> int:
        """Floating-point operations of one evaluation of one image."""
        with FlopCounterMode(display=False) as counter:
            self.evaluate(self.images(1))
        return int(counter.get_total_flops())

    def rate(self, batch_size: int) -> float:
        """Evaluations of an image a second."""
        x_t = self.images(batch_size)
        return batch_size / self.seconds(lambda: self.evaluate(x_t))

    def peak(self, precision: str) -> float:
        """Operations a second of a large matrix product, as the precision computes it."""
        n = self.size.matrix
        dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
        a, b = torch.randn(2, n, n, device=self.device, dtype=dtype)
        return 2 * n**3 / self.seconds(lambda: a @ b)

    def seconds(self, work: Callable[[], object]) -> float:
        """Median seconds of a call, with the device's work done."""

        def timed(calls: int) -> float:
            self.wait()
            start = time.perf_counter()
            for _ in range(calls):
                work()
            self.wait()
            return (time.perf_counter() - start) / calls

        # choosing kernels, compiling and recording graphs takes a few calls
        for _ in range(3):
            once = timed(1)
        calls = max(1, round(self.size.seconds / once))
        return statistics.median(timed(calls) for _ in range(REPEATS))

    def wait(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def precision(self, name: str) -> AbstractContextManager[object]:
        """Compute in a precision, as Lightning and `TF32` do."""
        allowed = "tf32" if name == "tf32" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = allowed
        torch.backends.cudnn.conv.fp32_precision = allowed  # type: ignore[attr-defined]
        return torch.autocast(self.device, torch.bfloat16, enabled=name == "bf16-mixed")

    def rows(self) -> Iterator[str]:
        """Eager at every batch that fits, then in other ways at 1 and at the best batch."""
        flops = self.flops()
        for precision in PRECISIONS[self.device]:
            with self.precision(precision):
                peak = self.peak(precision)
                best = 1, 0.0
                for batch_size, rate in self.fitting(self.size.batches):
                    yield self.row(precision, "eager", batch_size, rate, flops, peak)
                    best = max(best, (batch_size, rate), key=lambda pair: pair[1])
                sizes = sorted({1, best[0]})
                self.network.to(memory_format=torch.channels_last)
                for size, rate in self.fitting(sizes):
                    yield self.row(precision, "channels_last", size, rate, flops, peak)
                self.network.to(memory_format=torch.contiguous_format)
                for name, mode in COMPILED.items() if self.device == "cuda" else ():
                    for size, rate in self.compiled(mode).fitting(sizes):
                        yield self.row(precision, name, size, rate, flops, peak)

    def fitting(self, sizes: Sequence[int]) -> Iterator[tuple[int, float]]:
        """Batch sizes and rates, up to the memory of the device."""
        for batch_size in sizes:
            try:
                yield batch_size, self.rate(batch_size)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                return

    def compiled(self, mode: Mode) -> "Bench":
        """The same with its network compiled."""
        torch.compiler.reset()
        return Bench(CompiledNetwork(self.network, mode), self.device, self.size)

    def row(
        self, precision: str, way: str, batch_size: int, rate: float, flops: int, peak: float
    ) -> str:
        """One line of the table."""
        T = self.denoiser.schedule.T
        cost = SOLVER.inversion_evaluations([STEP], T=T) + SOLVER.decoding_evaluations(STEP, T=T)
        cells = (
            precision,
            way,
            str(batch_size),
            f"{rate:.4g}",
            f"{rate / cost:.3g}",
            f"{rate * flops / 1e12:.3g}",
            f"{peak / 1e12:.3g}",
            f"{rate * flops / peak:.1%}",
        )
        return f"| {' | '.join(cells)} |"


HEADER = (
    "precision",
    "network",
    "batch",
    "evaluations/s",
    "images/s",
    "TFLOP/s",
    "peak",
    "share",
)


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, or that there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.gpu", description=__doc__)
    parser.add_argument("--device", choices=tuple(PRECISIONS), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small network, as a smoke test")
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("No GPU here, so its table is not measured.")
        return
    size = tiny() if arguments.tiny else full()
    bench = Bench(random_network(size.model).to(arguments.device), arguments.device, size)
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    parameters = sum(weight.numel() for weight in bench.network.parameters())
    side = size.model["image_size"]
    print(
        f"Measured on {datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}, {name}, torch "
        f"{torch.__version__}: {parameters / 1e6:.1f} M parameters, {side}x{side}, "
        f"{bench.flops() / 1e9:.4g} GFLOP an evaluation. Images/s are inverted to t = {STEP} and "
        "decoded by the default solver; the peak is that of a matrix product in the same "
        "precision, in TFLOP/s.\n"
    )
    print(f"| {' | '.join(HEADER)} |")
    print("|---" * len(HEADER) + "|")
    for row in bench.rows():
        print(row, flush=True)


if __name__ == "__main__":
    main()
