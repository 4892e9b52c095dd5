"""Published checkpoints as denoisers: state dicts of research code, and diffusers folders."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import Tensor

from ood_sampler.diffusion.denoiser import Denoiser
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.faults import BrokenFileError
from ood_sampler.models.guided_diffusion import GuidedDiffusion
from ood_sampler.models.pesser import PesserDDPM
from ood_sampler.models.pretrained import check_label, load_pipeline, load_schedule, make_network
from ood_sampler.models.process import from_section, has_schedule
from ood_sampler.models.state import MALFORMED, State, unwrapped
from ood_sampler.store.tensor_files import read_tensors

log = logging.getLogger(__name__)

_FORMATS = (GuidedDiffusion, PesserDDPM)
_SECTIONS = ("format", "data", "model", "diffusion")
_DEEPEST = 4
"""Depth of nested containers in published files; a pickle could nest without end."""

_FEWEST_BETAS = 10
"""Shorter lists of that name are an optimizer's (0.9, 0.999)."""

_LATENT = re.compile(r"(^|\.)(first|cond)_stage_model\.")
"""Names of the encoders that latent diffusion has beside its network."""

_LIST = "shadow_params"
"""Key of averages in the order of the network's parameters."""

_LIT_EMA = "model_ema."
"""Prefix of the averages of the module `model` in the code of latent diffusion."""


def load_checkpoint(
    path: str | Path, architecture: Mapping[str, Any] | None = None, *, label: int | None = None
) -> Denoiser:
    """Load a frozen model in float32.

    A state dict may be wrapped (`{'state_dict': ...}`, `{'ema': ...}`, the list that DDIM's code
    saves), prefixed (`module.`, `model.`, ...) and in any floating precision. Where averaged
    weights (EMA) stand beside raw ones, the averaged ones are taken, also from a list without
    names (`shadow_params`).

    Args:
        path: a file of `torch.save` or safetensors holding a guided-diffusion or pesser network,
            or a folder with a diffusers pipeline.
        architecture: the fields that the weights do not show, in sections: `format`
            (guided-diffusion or pesser-ddpm), `model` (and `data` for pesser-ddpm) with the
            original names, `diffusion` with schedule and prediction type. Anything else given is
            checked against the weights. None for a folder.
        label: the class of a class-conditional model. Without one, the network of a checkpoint
            file runs without its embedding of classes; a warning says so, unless the
            architecture has `class_cond: false`.

    Raises:
        FileNotFoundError: there is no such file, or a part of the folder is missing.
        ValueError: the file does not hold such a network, or whole; a field is missing,
            contradicts the weights or cannot be expressed; or `label` is not a class.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        _check_folder(path, architecture)
        return load_pipeline(path, label=label)
    sections = _sections(architecture)
    content = read_tensors(path)
    found = _find_network(content, path)
    if sections.get("format") not in (None, found.format.name):
        raise ValueError(
            f"format must be {found.format.name}, as {path} says, got {sections['format']}"
        )
    with _whole(path):
        network = found.format.from_state(found.state, sections, source=path)
        process = from_section(sections.get("diffusion"), betas=found.betas)
    check_label(label, network.num_classes, path, required=False)
    if label is None and isinstance(network, GuidedDiffusion) and network.num_classes is not None:
        log.warning(
            "%s knows %d classes, which are ignored: set model.label to ask for one",
            path,
            network.num_classes,
        )
        network = replace(network, num_classes=None)
    with _whole(path):
        config, weights = network.unet_config(), network.convert(found.state, source=path)
    unet = make_network(config, weights, time_proj=network.time_proj(), source=path)
    return process.denoiser(unet, label=label)


def read_schedule(path: str | Path, architecture: Mapping[str, Any] | None = None) -> Schedule:
    r"""Read the noise schedule of a model without building its network.

    Args:
        path: see `load_checkpoint`.
        architecture: its section `diffusion` comes first; then a table `betas` in the file; else
            the schedule is linear from $10^{-4}$ to $0.02$ over 1000 steps.

    Raises:
        FileNotFoundError: there is no such file, or a folder without a scheduler.
        ValueError: the schedule is not one that is implemented, or the file does not open.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        _check_folder(path, architecture)
        return load_schedule(path)
    section = _sections(architecture).get("diffusion")
    if has_schedule(section):
        return from_section(section).schedule
    betas = _find_network(read_tensors(path), path).betas
    with _whole(path):
        return from_section(section, betas=betas).schedule


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turn whatever incomplete weights raise into one message that names the file."""
    try:
        yield
    except KeyError as error:
        raise BrokenFileError(
            f"{path} must hold a whole network, but it lacks {error}; fetch the file again"
        ) from error
    except MALFORMED as error:
        reason = str(error).partition("\n")[0]
        raise BrokenFileError(
            f"{path} must hold the weights of a network, got tensors whose shapes make none "
            f"({reason}); fetch the file again"
        ) from error
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{error} (for {path})") from error


def _check_folder(path: Path, architecture: Mapping[str, Any] | None) -> None:
    if architecture:
        raise ValueError(
            f"architecture must be left out for {path}: a diffusers folder holds its own; got "
            f"{', '.join(map(str, architecture))}"
        )


def _sections(architecture: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Check the names of sections; unknown ones (training, notes) are ignored."""
    architecture = {} if architecture is None else architecture
    if not isinstance(architecture, Mapping):
        raise ValueError(f"architecture must be a mapping of sections, got {architecture!r}")
    for name in architecture:
        near = get_close_matches(str(name), _SECTIONS, 1, 0.8)
        if near and name not in _SECTIONS:
            raise ValueError(f"architecture must have a section {near[0]}, got {name!r}")
    return architecture


@dataclass(frozen=True)
class _Found:
    """A network in a file.

    Attributes:
        place: where it was found: the keys to its container, and the prefix of its names.
        format: the class of its architecture.
        state: its state dict, without the prefix.
        betas: the table beside it, or None.
        names: of all tensors in the container.
    """

    place: str
    format: type[GuidedDiffusion | PesserDDPM]
    state: State
    betas: object
    names: tuple[str, ...]

    @property
    def is_average(self) -> bool:
        """Whether the place says so (`ema`; `shadow`, as many helpers call it)."""
        return not {"ema", "shadow"}.isdisjoint(re.split(r"[^a-z]", self.place.lower()))


def _find_network(content: object, path: Path) -> _Found:
    networks = list(_networks(content))
    if not networks:
        names = list(content)[:3] if isinstance(content, Mapping) else [type(content).__name__]
        raise ValueError(
            f"{path} must hold a state dict of guided-diffusion or pesser-ddpm, got "
            f"{', '.join(map(str, names)) or 'nothing'}; a diffusers network is loaded by its "
            "folder, which has its config.json"
        )
    if any(_LATENT.search(name) for network in networks for name in network.names):
        raise ValueError(
            f"{path} must hold a network of images, got one beside first_stage_model or "
            "cond_stage_model: models of latents or of text are not implemented in this format; "
            "latent diffusion loads from a diffusers folder (LDMPipeline)"
        )
    best = [network for network in networks if network.is_average] or networks
    if len(best) > 1:
        raise ValueError(
            f"{path} must hold one network, got several, at "
            f"{', '.join(repr(network.place) for network in best)}; save the one you mean alone"
        )
    if best[0].is_average:
        return best[0]
    for average in _lists(content):
        state = _named(average, best[0].state)
        if state is not None:
            return replace(best[0], place=f"{_LIST}.", state=state)
        _warn_of_averages(path, _LIST)
    if any(name.startswith(_LIT_EMA) for name in best[0].names):
        _warn_of_averages(path, _LIT_EMA)
    return best[0]


def _warn_of_averages(path: Path, place: str) -> None:
    log.warning(
        "%s has averaged weights at %s that are not understood: the raw ones are taken", path, place
    )


def _lists(content: object, depth: int = 0) -> Iterator[list[object]]:
    """Find averages without names, as score-based code and others save them."""
    if isinstance(content, Mapping) and depth <= _DEEPEST:
        for key, value in content.items():
            if key == _LIST and isinstance(value, list) and value:
                yield value
            yield from _lists(value, depth + 1)


def _named(averages: list[object], state: State) -> State | None:
    """Name averages after the weights, whose order they share; None if they do not fit."""
    shapes = [average.shape if isinstance(average, Tensor) else None for average in averages]
    if shapes != [weight.shape for weight in state.values()]:
        return None
    return dict(zip(state, averages, strict=True))  # type: ignore[arg-type]


def _networks(
    content: object, place: str = "", betas: object = None, depth: int = 0
) -> Iterator[_Found]:
    """Find the networks in nested containers, with the nearest table of betas around them."""
    if depth > _DEEPEST:
        return
    if isinstance(content, list | tuple):
        # DDIM's code saves [model, optimizer, epoch, step] and, if it has one, the average
        names = ["ema" if i else "model" for i in range(len(content))]
        for name, item in zip(names, content, strict=True):
            yield from _networks(item, f"{place}{name}.", betas, depth + 1)
    if not isinstance(content, Mapping):
        return
    betas = content["betas"] if _is_table(content.get("betas")) else betas
    tensors = unwrapped(
        {str(k): value for k, value in content.items() if isinstance(value, Tensor)}
    )
    for architecture in _FORMATS:
        for name in [key for key in tensors if key.endswith(architecture.anchor)]:
            prefix = name.removesuffix(architecture.anchor)
            state = {
                key.removeprefix(prefix): value
                for key, value in tensors.items()
                if key.startswith(prefix) and key != "betas"
            }
            yield _Found(f"{place}{prefix}", architecture, state, betas, tuple(tensors))
            average = _lit_ema(state, prefix, tensors)
            if average is not None:
                yield _Found(f"{place}{_LIT_EMA}", architecture, average, betas, tuple(tensors))
    for key, value in content.items():
        yield from _networks(value, f"{place}{key}.", betas, depth + 1)


def _is_table(betas: object) -> bool:
    shape = betas.shape if isinstance(betas, Tensor) else None
    if shape is not None:
        return len(shape) == 1 and shape[0] >= _FEWEST_BETAS
    return isinstance(betas, list | tuple) and len(betas) >= _FEWEST_BETAS


def _lit_ema(state: State, prefix: str, tensors: State) -> State | None:
    """Find the averages of a network, named as its weights without dots; None if incomplete."""
    if not prefix.startswith("model."):
        return None
    inner = prefix.removeprefix("model.")
    names = {name: _LIT_EMA + f"{inner}{name}".replace(".", "") for name in state}
    if not all(average in tensors for average in names.values()):
        return None
    return {name: tensors[average] for name, average in names.items()}
