"""Diffusers pipelines as denoisers."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.models.layout import (
    NetworkFiles,
    is_averaged,
    read_json,
    refuse_other_folders,
    scheduler_file,
    whole_parts,
)
from ood_sampler.models.process import Process, from_scheduler
from ood_sampler.models.state import (
    MALFORMED,
    State,
    load_strictly,
    unwrapped,
)
from ood_sampler.store.tensor_files import read_tensors

log = logging.getLogger(__name__)

_ANCHOR = "conv_in.weight"
"""A weight that each network has once: the text before it is a prefix of all names."""

_MOST_LAYERS = 100
"""Published networks have up to 4; more than this would be built for hours."""

_AVERAGING = frozenset(
    {
        "decay",
        "inv_gamma",
        "min_decay",
        "optimization_step",
        "power",
        "update_after_step",
        "use_ema_warmup",
    }
)
"""Fields in the config of averaged weights that do not describe their network."""

_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of attention weights before diffusers 0.15, as the first published models have them."""


class UNet(nn.Module):
    r"""Give a diffusers `UNet2DModel` the plain call $(x_t, t) \mapsto$ prediction.

    A class-conditional one also takes labels, shape $(B,)$.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    @property
    def resolution(self) -> int | None:
        """Side of its images in pixels, if its config says it."""
        size: int | list[int] | None = self.unet.config.sample_size  # type: ignore[union-attr, assignment]
        return size[0] if isinstance(size, list | tuple) else size

    @property
    def halvings(self) -> int:
        """How often it halves its images, on the way to its lowest level."""
        return len(self.unet.config.block_out_channels) - 1  # type: ignore[union-attr, arg-type]

    @property
    def channels(self) -> int:
        """Channels of its images."""
        channels: int = self.unet.config.in_channels  # type: ignore[union-attr, assignment]
        return channels

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        prediction: Tensor = self.unet(x_t, t, labels, return_dict=False)[0]
        return prediction


def make_network(
    config: Mapping[str, Any],
    state: State,
    *,
    time_proj: nn.Module | None = None,
    source: object,
) -> UNet:
    """Build a `UNet2DModel` around weights, in float32.

    Args:
        config: its keyword arguments.
        state: all of its weights.
        time_proj: takes the place of its sinusoid.
        source: where both come from, for messages.

    Raises:
        ValueError: the config makes no network for images, or the weights are not its own.
    """
    from ood_sampler.models.network import Network

    unet = build(Network, config, kind="UNet2DModel", source=source)
    channels = unet.config.in_channels
    if unet.config.out_channels not in (channels, 2 * channels):
        raise ValueError(
            f"{source} must predict {channels} channels, or {2 * channels} with a learned "
            f"variance, got {unet.config.out_channels}"
        )
    if time_proj is not None:
        unet.time_proj = time_proj
    load_strictly(unet, state, source=source)
    return UNet(unet)


def build(network: Any, config: Mapping[str, Any], *, kind: str, source: object) -> Any:  # noqa: ANN401
    """Build a network of diffusers on the meta device: its weights are replaced anyway.

    Args:
        network: its class.
        config: its keyword arguments.
        kind: name of the class, for messages.
        source: where the config comes from, for messages.

    Raises:
        ValueError: the config makes no such network.
    """
    layers = config.get("layers_per_block", 1)
    if type(layers) is not int or not 1 <= layers <= _MOST_LAYERS:
        raise ValueError(
            f"layers_per_block must be an integer in 1..{_MOST_LAYERS}, got {layers!r} in {source}"
        )
    try:
        with torch.device("meta"):
            return network.from_config(dict(config))
    except (ValueError, *MALFORMED) as error:
        raise ValueError(f"{source} must describe a {kind}, got: {error}") from error


def load_pipeline(path: str | Path, *, label: int | None = None) -> Denoiser:
    """Load a diffusers pipeline of a `UNet2DModel` in float32.

    Args:
        path: folder with `unet/` and `scheduler/`, or with their files themselves, as the first
            published models. Weights are safetensors, else `.bin`, of which tensors alone are read;
            in one file or in shards; in a variant (`fp16`) where they are in no other. Averages in
            `unet_ema/` come before the raw weights in `unet/`.
        label: the class of a class-conditional model.

    Raises:
        FileNotFoundError: a part of the pipeline is missing.
        ValueError: the weights do not open, are not those of the config or not finite; the
            pipeline has other parts or a network or scheduler that is not implemented; or `label`
            is not a class.
    """
    path = Path(path)
    refuse_other_folders(path)
    files = whole_parts(path).unet
    config_file = path / files.config
    if is_averaged(path):
        log.info(
            "%s has averaged weights in unet_ema beside raw ones: the averages are taken", path
        )
    config = {k: v for k, v in read_json(config_file).items() if k not in _AVERAGING}
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ValueError(
            f"the network must be a UNet2DModel, got {config['_class_name']} in {config_file}"
        )
    if config.get("class_embed_type") is not None:
        raise ValueError(
            f"class_embed_type must be null, got {config['class_embed_type']!r} in {config_file}"
        )
    process = _process(path)
    classes = config.get("num_class_embeds")
    if classes is not None and (type(classes) is not int or classes < 1):
        raise ValueError(
            f"num_class_embeds must be null or an integer >= 1, got {classes!r} in {config_file}"
        )
    size = config.get("sample_size")
    if isinstance(size, list) and (len(size) != 2 or size[0] != size[1]):
        raise ValueError(f"sample_size must be that of a square, got {size} in {config_file}")
    check_label(label, classes, path, required=True)
    state = read_network(path, files)
    return process.denoiser(
        make_network(config, state, source=path / files.weights[0]), label=label
    )


def read_network(folder: Path, files: NetworkFiles) -> State:
    """Read the weights of a network, of all shards, by the names that diffusers has today.

    Args:
        folder: of the pipeline.
        files: of the network.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: one does not hold a state dict, or two hold the same weight.
    """
    state: dict[str, Tensor] = {}
    for file in (folder / name for name in files.tensors):
        content = read_tensors(file)
        if not isinstance(content, Mapping):
            raise ValueError(f"{file} must hold a state dict, got {type(content).__name__}")
        for name, weight in content.items():
            if str(name) in state:
                raise ValueError(f"{file} must not hold {name}, which another shard holds, too")
            state[str(name)] = weight
    state = {_new_name(name): weight for name, weight in unwrapped(state).items()}
    prefixes = {name.removesuffix(_ANCHOR) for name in state if name.endswith(f".{_ANCHOR}")}
    if len(prefixes) == 1 and all(name.startswith(tuple(prefixes)) for name in state):
        prefix = prefixes.pop()
        state = {name.removeprefix(prefix): weight for name, weight in state.items()}
    return state


def check_label(label: object, classes: int | None, path: Path, *, required: bool) -> None:
    """Check that a label is an integer and names one of the model's classes.

    Args:
        label: the class, or None.
        classes: how many the model at `path` knows; None if it is unconditional.
        path: of the model, for messages.
        required: whether a class-conditional model needs one.

    Raises:
        ValueError: it does not.
    """
    if label is not None and (not isinstance(label, int) or isinstance(label, bool)):
        raise ValueError(f"model.label must be an integer or null, got {label!r}")
    if classes is None:
        if label is not None:
            raise ValueError(f"model.label must be null: {path} knows no classes, got {label}")
    elif label is None:
        if required:
            raise ValueError(
                f"model.label must be in 0..{classes - 1}: {path} is class-conditional, got null"
            )
    elif not 0 <= label < classes:
        raise ValueError(f"model.label must be in 0..{classes - 1}, as {path} says, got {label}")


def _new_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    parent, _, layer = module.rpartition(".")
    return f"{parent}.{_OLD_NAMES[layer]}.{kind}" if layer in _OLD_NAMES else name


def load_schedule(path: Path) -> Schedule:
    """Read the noise schedule of a diffusers pipeline folder.

    Raises:
        FileNotFoundError: there is no scheduler config.
        ValueError: the scheduler asks for what is not implemented.
    """
    return _process(path).schedule


def _process(path: Path) -> Process:
    file = scheduler_file(path)
    try:
        return from_scheduler(read_json(file))
    except KeyError as error:
        raise ValueError(
            f"{file} must be a diffusers scheduler config, but lacks {error}"
        ) from error
    except (ValueError, *MALFORMED) as error:
        raise ValueError(f"{error} (in {file})") from error
