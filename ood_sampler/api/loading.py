"""Load a frozen model, and a target domain."""

import difflib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from ood_sampler.api.configuration import composed
from ood_sampler.api.surroundings import apart
from ood_sampler.codecs.base import Codec
from ood_sampler.codecs.few_shot import FewShotCodec
from ood_sampler.command.files import SHIPPED
from ood_sampler.command.values import expand_home
from ood_sampler.data.domain import TargetDomain
from ood_sampler.data.tensors import tensor_domain
from ood_sampler.faults import CommandError
from ood_sampler.models.base import Model
from ood_sampler.models.layout import parts_of
from ood_sampler.modules.trainer import make_trainer
from ood_sampler.names import data_name
from ood_sampler.pipeline.correction import GaussianCorrection
from ood_sampler.pipeline.session import Session
from ood_sampler.pipeline.settings import check_batch_size
from ood_sampler.report.progress import StageProgress

_HUB = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A frozen model, its way between images and latents, and the device that computes.

    Attributes:
        model: the frozen model; its weights are loaded when a function first needs them.
        codec: the model as a map between images and latents along the trajectories of a solver.
        session: makes trainers and progress bars.
        batch_size: images per forward pass; no result depends on it.
        correction: of the flow (`correct`); None for the flow of the model itself.
    """

    model: Model
    codec: Codec
    session: Session
    batch_size: int
    correction: GaussianCorrection | None = None

    def __repr__(self) -> str:
        size = f"{self.model.resolution}x{self.model.resolution}"
        flow = self.correction.label if self.correction else ""
        about = ", ".join(filter(None, (size, self.codec.label, flow, self.session.machine)))
        return f"<{self.model.name}: {about}>"


def load_model(source: str | os.PathLike[str], *overrides: str) -> LoadedModel:
    """Load a frozen model by its name or its path.

    Args:
        source: a model of `python -m ood_sampler.models` by name (`dog32`, `ddpm_church`, ...), a
            diffusers pipeline folder, a checkpoint file, or the `owner/name` of a pipeline on the
            hub.
        overrides: settings as on the command line, of the groups `model`, `solver` and `trainer`,
            and `batch_size`: `"solver=ddim"`, `"solver.steps=10"`, `"trainer=gpu"`. A path needs
            `"model.resolution=64"` unless the folder tells.

    Returns:
        The model. Weights that are not on this machine are fetched now, as in a run.

    Raises:
        ValueError: a name, a key or a value is not known, or the weights do not fit.
        FileNotFoundError: the weights are missing and cannot be fetched.

    Example:
        >>> import ood_sampler
        >>> ood_sampler.load_model("dog32", "solver=ddim", "solver.steps=4", "trainer=cpu")
        <dog32: 32x32, ddim (steps 4, power 2, noise_at source), cpu 32-true>
    """
    with apart():
        cfg = composed([*_model(os.fspath(source), overrides), *overrides])
        expand_home(cfg)
        model: Model = instantiate(cfg.model, _convert_="all")
        session = Session(
            root=Path(),
            trainer=instantiate(cfg.trainer),
            progress=lambda name, images: [StageProgress(name, images)],
        )
        if make_trainer(session.trainer, []).world_size > 1:
            raise ValueError(
                "trainer must be a single device, as results stay in the memory of this process: "
                "several compute in ood_sampler.run('trainer=ddp', ...)"
            )
        codec = model.codec(instantiate(cfg.solver))
        if isinstance(codec, FewShotCodec):
            raise ValueError(
                f"{model.name} is fitted to the few-shot images of a run: use "
                f"ood_sampler.run('model={source}', ...)"
            )
        codec.check([])
        # now, as Lightning tells of its trainers
        _ = session.machine
        check_batch_size(cfg.batch_size)
        size = cfg.batch_size or session.images_per_pass(model.resolution)
    return LoadedModel(model, codec, session, size)


def _model(source: str, overrides: Sequence[str]) -> list[str]:
    """The settings that choose a model."""
    names = SHIPPED.options("model")
    path = Path(source).expanduser()
    if not os.path.lexists(path):
        if source in names or any(text.startswith("--config-dir=") for text in overrides):
            return [f"model={source}"]
        if not _HUB.fullmatch(source):
            near = difflib.get_close_matches(source, names, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise CommandError(
                f"{source} is no model and no path{meant}; models are {', '.join(names)}"
            )
    given = {text.partition("=")[0] for text in overrides}
    kind = "checkpoint" if path.is_file() else "diffusers"
    found = [f"model={kind}", f"model.path={source}"]
    if "model.name" not in given:
        found.append(f"model.name={data_name(source).removesuffix(path.suffix)}")
    side = _side(path)
    if side is not None and "model.resolution" not in given:
        found.append(f"model.resolution={side}")
    return found


def _side(folder: Path) -> int | None:
    """Side of the images of a pixel diffusion pipeline, if its folder tells."""
    parts = parts_of(folder) if folder.is_dir() else None
    if not parts or any((folder / name).is_dir() for name in ("vae", "vqvae")):
        return None
    files = (folder / name for name in ("unet/config.json", "config.json"))
    file = next((file for file in files if file.is_file()), None)
    side = None if file is None else json.loads(file.read_text()).get("sample_size")
    return side if isinstance(side, int) else None


def load_domain(source: str | os.PathLike[str] | Tensor, *overrides: str) -> TargetDomain:
    """Load a target domain: few-shot images to invert, and held-out images to compare with.

    The images of a folder, an archive or a tensor are divided as those of `data=folder`: in an
    order that `data.seed` alone fixes, half of them, at most 500, are few-shot and the others held
    out; equal ones count once.

    Args:
        source: a domain of `conf/data` by name (`galaxy32`, `radiation32`, ...), a folder, zip
            archive or LMDB database of images, or images in memory: uint8 or floating-point in
            $[-1, 1]$, shape $(N, C, H, W)$ with one or three colours.
        overrides: settings of the group `data` as on the command line: `"data.few_shot=100"`,
            `"data.held_out=200"`, `"data.name=mine"`, `"data.resolution=256"`. Images are cropped
            to their central square and resized to the resolution, by default 32.

    Returns:
        The domain, with `name`, and with `few_shot` and `held_out`: sequences of float32 images
        in $[-1, 1]$, shape $(3, R, R)$.

    Raises:
        ValueError: a name, a key or a value is not known, or there are too few images.
        FileNotFoundError: a path does not exist.
        ImageError: a file cannot be read (`"data.on_error=skip"` leaves it out).

    Example:
        >>> import ood_sampler
        >>> galaxies = ood_sampler.load_domain("galaxy32", "data.few_shot=24", "data.held_out=48")
        >>> len(galaxies.few_shot), len(galaxies.held_out), tuple(galaxies.few_shot[0].shape)
        (24, 48, (3, 32, 32))
        >>> import torch
        >>> noise = torch.rand(40, 3, 64, 64) * 2 - 1
        >>> mine = ood_sampler.load_domain(noise, "data.few_shot=10", "data.name=noise")
        >>> len(mine.few_shot), len(mine.held_out), tuple(mine.few_shot[0].shape)
        (10, 30, (3, 32, 32))
    """
    with apart():
        if isinstance(source, Tensor):
            cfg = composed(["data=folder", "data.root=images", *overrides])
            keys = OmegaConf.to_container(cfg.data, resolve=True)
            known = ("few_shot", "held_out", "seed", "on_error", "name", "resolution")
            for text in overrides:
                key = text.partition("=")[0].lstrip("+~").removeprefix("data.")
                if key in keys and key not in known:  # type: ignore[operator]
                    raise ValueError(
                        f"data.{key} is of images in files, and source is a tensor: leave it out"
                    )
            return tensor_domain(images=source, **{key: keys[key] for key in known})  # type: ignore[index,call-overload]
        cfg = composed([*_data(os.fspath(source), overrides), *overrides])
        expand_home(cfg)
        domain: TargetDomain = instantiate(cfg.data)
    return domain


def _data(source: str, overrides: Sequence[str]) -> list[str]:
    """The settings that choose a domain."""
    names = SHIPPED.options("data")
    if os.path.lexists(os.path.expanduser(source)):
        return ["data=folder", f"data.root={source}"]
    if source in names or any(text.startswith("--config-dir=") for text in overrides):
        return [f"data={source}"]
    if os.sep in source:
        raise FileNotFoundError(f"{source} does not exist")
    near = difflib.get_close_matches(source, names, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise CommandError(f"{source} is no domain and no path{meant}; domains are {', '.join(names)}")


def tensor_of(images: object) -> Tensor:
    """All items of a set of images, shape $(N, 3, R, R)$."""
    if isinstance(images, Tensor):
        return images
    return torch.stack([images[index] for index in range(len(images))])  # type: ignore[index,arg-type]
