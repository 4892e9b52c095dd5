"""Time the network on this machine."""

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ood_sampler.codecs.base import Codec
from ood_sampler.modules.prediction import Batch, CodecStage
from ood_sampler.modules.trainer import TrainerFactory, make_trainer

_WARM_UP, _TIMED = 1, 2
"""Numbers of calls; the first of a process also chooses kernels and allocates memory."""


class Timing(CodecStage):
    """Time single evaluations of a batch.

    Args:
        codec: the frozen model.
    """

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec)
        self.seconds: list[float] = []

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        _, z = batch
        start = time.perf_counter()
        self.codec.probe(z).sum().item()  # `item` waits for the device
        self.seconds.append(time.perf_counter() - start)
        return {}


class _TimedInversion(CodecStage):
    """Time the inversion of each batch to one level."""

    def __init__(self, codec: Codec, level: int) -> None:
        super().__init__(codec)
        self.level = level
        self.seconds: list[float] = []

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        _, images = batch
        start = time.perf_counter()
        self.codec.encode(images, [self.level])[self.level].sum().item()
        self.seconds.append(time.perf_counter() - start)
        return {}


def seconds_per_inversion(
    codec: Codec, level: int, images: Tensor, *, trainer: TrainerFactory
) -> float:
    """Seconds per image of an inversion to one level, the less of two, on one device.

    Args:
        codec: the frozen model.
        level: of the latents.
        images: a batch.
        trainer: makes the Lightning trainer from its keyword arguments.
    """

    def one_device(**settings: object) -> object:
        return trainer(**settings, devices=1, strategy="auto")

    stage = _TimedInversion(codec, level)
    batches: list[Batch] = [([], images)] * 2
    loader: DataLoader[Batch] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    make_trainer(one_device, []).predict(  # type: ignore[arg-type]
        stage, loader, return_predictions=False
    )
    return min(stage.seconds) / len(images)


class _Noise(Dataset[Batch]):
    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = shape

    def __len__(self) -> int:
        return _WARM_UP + _TIMED

    def __getitem__(self, index: int) -> tuple[list[int], Tensor]:
        generator = torch.Generator().manual_seed(index)
        return [], torch.randn(*self.shape, generator=generator)


def seconds_per_evaluation(
    codec: Codec, level: int, batch_size: int, *, trainer: TrainerFactory
) -> float:
    """Seconds per image and network evaluation, from two timed batches.

    They run in the trainer's precision, on its devices: several GPUs share the work, several
    processes on one CPU share its cores.

    Args:
        codec: the frozen model.
        level: of the latents.
        batch_size: images per forward pass.
        trainer: makes the Lightning trainer from its keyword arguments.
    """
    made = make_trainer(trainer, [])
    devices = made.world_size if made.strategy.root_device.type == "cuda" else 1

    def one_device(**settings: object) -> object:
        return trainer(**settings, devices=1, strategy="auto")

    stage = Timing(codec)
    make_trainer(one_device, []).predict(  # type: ignore[arg-type]
        stage,
        DataLoader(_Noise((batch_size, *codec.shape(level))), batch_size=None),
        return_predictions=False,
    )
    return statistics.mean(stage.seconds[_WARM_UP:]) / batch_size / devices
