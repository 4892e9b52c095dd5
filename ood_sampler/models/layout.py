"""Choose the files of a diffusers pipeline: whole or in shards, a variant, averages.

A pipeline is a U-Net and a scheduler, for latent diffusion also an autoencoder (`LDMPipeline`).
Nothing here imports torch, so that listing models is fast.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ood_sampler.faults import BrokenFileError

INDEX = "model_index.json"
"""File of a pipeline that names its parts."""

_STEM = "diffusion_pytorch_model"

_AVERAGED = "unet_ema/"
"""Folder of averaged weights that diffusers' training scripts leave beside the raw ones."""

_NETWORKS = (_AVERAGED, "unet/")
_SCHEDULERS = ("scheduler/", "")
_AUTOENCODER = "vqvae/"

AUTOENCODERS = ("VQModel", "AutoencoderKL")
"""Classes of diffusers that the autoencoder of latent diffusion may have."""

_VARIANT = r"(?:\.(?![\w-]*-\d+-of-\d+\.)([\w-]+))?"

_FILE = re.compile(rf"{_STEM}{_VARIANT}\.(safetensors|bin)")
_SHARDS = re.compile(
    rf"{_STEM}{_VARIANT}\.(safetensors|bin)(?:\.([\w-]+))?\.index(?:\.([\w-]+))?\.json"
)
"""An index of shards; versions of diffusers put the variant in three different places."""

_OTHER_NETWORKS = ("vae", "movq", "text_encoder", "transformer", "bert", "prior")

Read = Callable[[str], Path]
"""Gives a small file of a pipeline, fetched if need be, by its path relative to the root."""


@dataclass(frozen=True)
class NetworkFiles:
    """Paths of a network's files, relative to the root of its pipeline.

    Attributes:
        config: describes the architecture.
        weights: one file; or the index of shards, then the shards.
    """

    config: str
    weights: list[str]

    @property
    def tensors(self) -> list[str]:
        """The files that hold weights."""
        return self.weights[1:] or self.weights


@dataclass(frozen=True)
class PipelineParts:
    """Paths of the files of a pipeline, relative to its root.

    Attributes:
        unet: the network that denoises.
        scheduler: config of the noise schedule.
        autoencoder: of latent diffusion; None for a model of pixels.
    """

    unet: NetworkFiles
    scheduler: str
    autoencoder: NetworkFiles | None

    @property
    def files(self) -> list[str]:
        """All files in the order of fetching; the U-Net's weights, which mark a pipeline, last."""
        autoencoder = self.autoencoder
        inner = [] if autoencoder is None else [autoencoder.config, *autoencoder.weights]
        return [self.unet.config, self.scheduler, *inner, *self.unet.weights]


def pipeline_parts(names: Collection[str], read: Read) -> list[str] | None:
    """Files that a pipeline is loaded from (`PipelineParts.files`); None if one is missing.

    Args:
        names: its files, by their paths relative to the root.
        read: gives its index and those of shards.

    Raises:
        ValueError: an index is malformed, or several sets of weights could be meant.
    """
    files = wanted_parts(names, read).files
    return files if set(files) <= set(names) else None


def wanted_parts(names: Collection[str], read: Read) -> PipelineParts:
    """Like `pipeline_parts`, but name missing files, too, as they are usually called."""
    network, scheduler = _network(names), _scheduler(names)
    return PipelineParts(
        unet=NetworkFiles(f"{network}config.json", _weights(names, network, read)),
        scheduler=f"{scheduler}scheduler_config.json",
        autoencoder=NetworkFiles(f"{_AUTOENCODER}config.json", _weights(names, _AUTOENCODER, read))
        if _has_autoencoder(names, read)
        else None,
    )


def folder_parts(folder: Path) -> PipelineParts:
    """`wanted_parts` of a folder on disk."""
    return wanted_parts(_names(folder), lambda name: folder / name)


def parts_of(folder: Path) -> list[str] | None:
    """`pipeline_parts` of a folder; None as well where they are ambiguous."""
    try:
        return pipeline_parts(_names(folder), lambda name: folder / name)
    except ValueError:
        return None


def is_pipeline(folder: Path) -> bool:
    """Whether a folder looks like a pipeline or a part of one, complete or not."""
    signs = (INDEX, *(f"{network}config.json" for network in (*_NETWORKS, "")))
    return any((folder / sign).is_file() for sign in signs) or any(
        _candidates([file.name for file in _files(folder / network)], "")
        for network in (*_NETWORKS, "")
    )


def whole_parts(folder: Path) -> PipelineParts:
    """The files of a pipeline folder, relative to it.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: an index is malformed, or several sets of weights could be meant.
    """
    parts = folder_parts(folder)
    for part in (*parts.unet.weights, *parts.files):
        if not (folder / part).is_file():
            raise FileNotFoundError(_missing(folder, part, parts))
    return parts


def pipeline_files(folder: Path) -> list[Path]:
    """The files of a pipeline folder: of each network weights and config, and the scheduler's.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: an index is malformed, or several sets of weights could be meant.
    """
    parts = whole_parts(folder)
    files = [*parts.unet.weights, parts.unet.config, parts.scheduler]
    if parts.autoencoder is not None:
        files += [*parts.autoencoder.weights, parts.autoencoder.config]
    return [folder / file for file in files]


def scheduler_file(folder: Path) -> Path:
    """The scheduler config of a pipeline folder.

    Raises:
        FileNotFoundError: there is none.
    """
    parts = folder_parts(folder)
    if not (folder / parts.scheduler).is_file():
        raise FileNotFoundError(_missing(folder, parts.scheduler, parts))
    return folder / parts.scheduler


def is_averaged(folder: Path) -> bool:
    """Whether a pipeline's weights are averages that stand beside raw ones."""
    return folder_parts(folder).unet.config.startswith(_AVERAGED) and (folder / "unet").is_dir()


def refuse_other_networks(index: object, place: object) -> None:
    """Refuse a pipeline with other networks, such as the text encoder of text-to-image.

    Args:
        index: content of its `model_index.json`.
        place: of the pipeline, for messages.

    Raises:
        ValueError: it has, or its networks are of another kind.
    """
    if not isinstance(index, Mapping):
        raise ValueError(f"model_index.json must hold a JSON object, got {type(index).__name__}")
    parts = {
        name: part[-1]
        for name, part in index.items()
        if isinstance(part, list) and part and part[-1]
    }
    kinds = {"unet": ("UNet2DModel",), _AUTOENCODER.rstrip("/"): AUTOENCODERS}
    _refuse([name for name in parts if name not in (*kinds, "scheduler")], place)
    for name, known in kinds.items():
        if name in parts and parts[name] not in known:
            raise ValueError(
                f"the network {name} must be a {' or '.join(known)}, got {parts[name]} in {place}"
            )


def refuse_other_folders(folder: Path) -> None:
    """`refuse_other_networks` of a folder, also of one without an index.

    Raises:
        ValueError: it has other networks, or its networks are of another kind.
    """
    if (folder / INDEX).is_file():
        refuse_other_networks(read_json(folder / INDEX), folder)
    _refuse([name for name in _OTHER_NETWORKS if (folder / name / "config.json").is_file()], folder)
    for network in (*_NETWORKS, ""):
        config = folder / f"{network}config.json"
        kind = read_json(config).get("_class_name") if config.is_file() else None
        if kind not in (None, "UNet2DModel"):
            raise ValueError(f"the network must be a UNet2DModel, got {kind} in {config}")


def _refuse(others: Collection[str], place: object) -> None:
    if others:
        raise ValueError(
            f"{place} must hold a pipeline of unet, scheduler and, for latent diffusion, vqvae "
            f"alone, got {', '.join(others)}: text-to-image and other pipelines are not implemented"
        )


def read_shards(index: Path) -> list[str]:
    """Files that an index of shards names, each once.

    Raises:
        FileNotFoundError: there is no such index.
        ValueError: it is malformed, or names a file that is not beside it.
    """
    weights = read_json(index).get("weight_map")
    files = list(weights.values()) if isinstance(weights, Mapping) else []
    if not files or not all(isinstance(file, str) for file in files):
        raise ValueError(
            f"{index} must map weights to files in weight_map, but does not; fetch the file again"
        )
    for file in files:
        if Path(file).name != file or file in ("", "..") or "\\" in file:
            raise ValueError(
                f"{index} must name files beside it, got {file!r}: nothing elsewhere is read"
            )
    return sorted(set(files))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        BrokenFileError: it is no JSON.
        ValueError: it is no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BrokenFileError(f"{path} must be JSON, got: {error}; fetch the file again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _network(names: Collection[str]) -> str:
    """Folder of the U-Net; the first published models have all files at the root."""
    for network in _NETWORKS:
        if _candidates(names, network):
            return network
    if _candidates(names, "") or "unet/config.json" not in names:
        return ""
    return "unet/"


def _scheduler(names: Collection[str]) -> str:
    there = [place for place in _SCHEDULERS if f"{place}scheduler_config.json" in names]
    if there:
        return there[0]
    return "scheduler/" if any(f"{network}config.json" in names for network in _NETWORKS) else ""


def _weights(names: Collection[str], network: str, read: Read) -> list[str]:
    """Plain weights before variants, safetensors before pickles, shards before a single file.

    The last as in diffusers: a single file beside whole shards is older than they.
    """
    candidates = _candidates(names, network)
    if not candidates:
        return [f"{network}{_STEM}.safetensors"]
    variant = _chosen_variant(sorted({variant for variant, _, _, _ in candidates}), network)
    found = []
    for _, _, single, file in sorted(one for one in candidates if one[0] == variant):
        shards = [] if single else read_shards(read(file))
        parts = [file, *(f"{network}{shard}" for shard in shards)]
        if set(parts) <= set(names):
            return parts
        found.append(parts)
    return found[0]


def _candidates(names: Collection[str], network: str) -> list[tuple[str, bool, bool, str]]:
    """Variant, whether it is a pickle, whether it is a single file, and path of all weights."""
    candidates = []
    for name in names:
        file = name.removeprefix(network)
        if "/" in file or not name.startswith(network):
            continue
        if found := _FILE.fullmatch(file):
            candidates.append((found[1] or "", found[2] == "bin", True, name))
        elif found := _SHARDS.fullmatch(file):
            variant = found[1] or found[3] or found[4] or ""
            candidates.append((variant, found[2] == "bin", False, name))
    return candidates


def _chosen_variant(variants: list[str], network: str) -> str:
    if len(variants) > 1 and variants[0]:
        raise ValueError(
            f"the pipeline must hold {network}{_STEM}.safetensors or one variant of it, got "
            f"{', '.join(variants)}: give the one you mean that name"
        )
    return variants[0]


def _has_autoencoder(names: Collection[str], read: Read) -> bool:
    """Whether a pipeline is one of latent diffusion, by its index or by its files."""
    if f"{_AUTOENCODER}config.json" in names or _candidates(names, _AUTOENCODER):
        return True
    part = read_json(read(INDEX)).get(_AUTOENCODER.rstrip("/")) if INDEX in names else None
    return isinstance(part, list) and bool(part) and bool(part[-1])


def _names(folder: Path) -> set[str]:
    """Files of a pipeline folder, by their paths relative to it."""
    places = ("", *_NETWORKS, *_SCHEDULERS[:1], _AUTOENCODER)
    return {f"{place}{file.name}" for place in places for file in _files(folder / place)}


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []


def _missing(folder: Path, part: str, parts: PipelineParts) -> str:
    autoencoder = parts.autoencoder
    for network in (parts.unet, autoencoder):
        if network is not None and part in network.weights[1:]:
            return (
                f"{folder / part} is missing: {folder / network.weights[0]} names it among the "
                f"{len(network.tensors)} shards of the weights; fetch it, too"
            )
    place = ""
    if autoencoder is not None and part in (autoencoder.config, *autoencoder.weights):
        place = f" of latent diffusion, with the autoencoder in {_AUTOENCODER}"
    return (
        f"{folder / part} is missing: model.path must name a whole diffusers pipeline folder"
        f"{place}, with config.json, {_STEM}.safetensors (or .bin, a variant as .fp16.safetensors, "
        "or shards with their index) and scheduler_config.json"
    )
