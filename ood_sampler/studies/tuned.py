"""Runs of a copy of the model, fine-tuned on the few-shot images."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ood_sampler.codecs.diffusion import DiffusionCodec
from ood_sampler.models.finetuned import FineTunedModel
from ood_sampler.models.frozen import FrozenModel
from ood_sampler.modules.adapters import AdapterTuning, check_installed, tune_adapter
from ood_sampler.modules.finetuning import FineTuning, Tuned, fine_tune
from ood_sampler.pipeline.keys import reader
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.store.files import digest
from ood_sampler.store.versions import code_version


def fine_tuned(pipeline: Pipeline, settings: FineTuning) -> tuple[Pipeline, Tuned]:
    """The same run with a copy of its model, fine-tuned on the few-shot images.

    Images of the copy are those of its own `in_domain()`; its artifacts are named by its weights.
    """
    few_shot = pipeline.domain.few_shot
    denoiser = codec_of(pipeline).model.denoiser
    images = torch.stack([few_shot[index] for index in range(len(few_shot))])
    how: dict[str, Any] = {
        "seed": pipeline.settings.seed,
        "trainer": pipeline.session.trainer,
        "folder": tuning_folder(pipeline, settings),
    }
    if isinstance(settings, AdapterTuning):
        tuned = tune_adapter(denoiser, images, settings, **how)
    else:
        tuned = fine_tune(denoiser, images, settings, **how)
    return with_weights(pipeline, tuned), tuned


def with_weights(pipeline: Pipeline, tuned: Tuned) -> Pipeline:
    """The same run with the weights of the copy."""
    frozen = pipeline.model
    if not isinstance(frozen, FrozenModel):
        raise ValueError(f"study=preservation needs the weights of a file, got {frozen.name}")
    model = FineTunedModel(frozen, tuned.weights)
    return replace(pipeline, model=model, codec=model.codec(codec_of(pipeline).solver))


def codec_of(pipeline: Pipeline) -> DiffusionCodec:
    """The codec of the run, which must be a diffusion model of pixels to be fine-tuned here.

    Raises:
        ValueError: the model is of another kind.
    """
    if not isinstance(pipeline.codec, DiffusionCodec):
        raise ValueError(
            "study=preservation fine-tunes a diffusion model of pixels, got "
            f"{pipeline.model.name}: choose such a model"
        )
    return pipeline.codec


def tuning_folder(pipeline: Pipeline, settings: FineTuning) -> Path:
    """Folder of the network that was fine-tuned on the few-shot images."""
    few_shot = pipeline.domain.few_shot
    adapts = isinstance(settings, AdapterTuning)
    key = {
        "model": pipeline.model.digest,
        "images": few_shot.digest,
        "reader": reader(few_shot),
        "settings": asdict(settings),
        "seed": pipeline.settings.seed,
        "machine": pipeline.session.machine,
        "code": code_version(tune_adapter if adapts else fine_tune, *pipeline.model.makers),
    }
    if adapts:
        key["peft"] = adapter_version()
    return pipeline.session.root / f"fine-tuning-{digest(key)[:16]}"


def adapter_version() -> str:
    """Major and minor version of the package that makes adapters.

    Raises:
        ValueError: it is not installed.
    """
    check_installed()
    return ".".join(version("peft").split(".")[:2])


@contextmanager
def anew(pipeline: Pipeline) -> Iterator[Pipeline]:
    """The same run with an empty store: what the model in memory makes now."""
    root = pipeline.session.root
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root, prefix="after-") as folder:
        yield replace(pipeline, session=replace(pipeline.session, root=Path(folder)))
