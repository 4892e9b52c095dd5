"""`python -m ood_sampler.models`: list models, show their cards, check and push them."""

import difflib
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError  # type: ignore[import-untyped]

from ood_sampler.config import CONF
from ood_sampler.faults import FAULTS, CommandError
from ood_sampler.models.cards import asset_card, comment, model_card, pushable, shipped
from ood_sampler.models.generator_files import GeneratorFiles
from ood_sampler.models.layout import parts_of
from ood_sampler.models.weights import WeightFiles, Weights, cache_folder

if TYPE_CHECKING:
    from torch import nn

    from ood_sampler.models.frozen import FrozenModel
    from ood_sampler.models.verification import Verification

HELP = """\
The frozen models of conf/model and their weights.

usage: python -m ood_sampler.models                               list them
       python -m ood_sampler.models verify NAME [KEY=VALUE ...]   load one and check it
       python -m ood_sampler.models card NAME [KEY=VALUE ...]     show its card
       python -m ood_sampler.models push SOURCE OWNER/NAME        push it to the Hugging Face hub
                                         [private=true] [licence=mit]

KEY=VALUE sets a key of conf/model/NAME.yaml, with or without "model." before it. Missing, broken
or untrained weights end with exit code 1.

examples:
  python -m ood_sampler.models verify ddpm_cifar10
  python -m ood_sampler.models verify iddpm_afhqdog path=/my/afhqdog_p2.pt
  python -m ood_sampler.models card dog32
  python -m ood_sampler.models push outputs/train/mine/pipeline me/mine private=true

push takes a base that ships with the package by name, the pipeline folder of one of yours, or the
folder of a run, whose samples become a data set. HF_TOKEN or `hf auth login` gives the token.

Weights are looked for at path, else in the cache folder and, for hub models, in the Hugging Face
cache; missing ones are fetched. OOD_SAMPLER_CACHE names the cache folder, HF_HUB_OFFLINE=1 forbids
the network. The SHA-256 of a file is recorded beside it at first use and compared afterwards.
"""

_GAN = "ood_sampler.models.gan.GanModel"
"""Target of the models that are generators."""

_TEXTS = ("name", "path")

_PICTURES = 2
_STEPS = 24
_POWER = 2
"""Grid of plain DDIM steps: few, as a large network is slow on a CPU."""

_MEANING = """\
The estimate tells trained weights that fit the architecture and the schedule (well below 1) from
others (1 and more). The round trip shows that inversion and decoding undo each other on this grid,
by plain DDIM, the least exact solver; weights that estimate no noise at all would pass as well.
Neither tells how good the model's samples are.
"""


def main() -> None:
    """Answer a command; exit with 2 for a mistake in it, with 1 for a fault or wrong weights."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("ood_sampler").setLevel(logging.INFO)
    try:
        if not answer(sys.argv[1:]):
            sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: what was fetched is kept, the same command continues\n")
        sys.exit(130)
    except CommandError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except FAULTS as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(1)


def answer(arguments: Sequence[str]) -> bool:
    """Write the answer to a command.

    Returns:
        False if weights were checked and are not trained.

    Raises:
        CommandError: there is no such command, model or key.
    """
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(HELP)
    elif not arguments:
        for name in _names():
            sys.stdout.write(entry(name))
        sys.stdout.write(f"cache folder: {cache_folder()}\n")
    elif arguments[0] not in _COMMANDS:
        nearest = _nearest(arguments[0], list(_COMMANDS))
        raise CommandError(f"{arguments[0]} is not known{nearest}; --help tells more")
    elif len(arguments) == 1:
        known = pushable() if arguments[0] == "push" else _names()
        raise CommandError(f"{arguments[0]} needs the name of a model: {', '.join(known)}")
    else:
        return _COMMANDS[arguments[0]](arguments[1], arguments[2:])
    return True


def _card(name: str, overrides: Sequence[str]) -> bool:
    is_of_weights = name in _names() and "path" in list(_config(name).model)
    if name in shipped() and overrides and not (is_of_weights and not _is_gan(_config(name))):
        raise CommandError(f"the card of {name} takes no settings, got {overrides[0]}")
    if name not in _names() and name in shipped():
        sys.stdout.write(asset_card(name))
    elif name in _names() and "path" not in list(_config(name).model):
        # without weights
        sys.stdout.write(f"{name}: {comment(name)[0]}\n")
    elif name in _names() and _is_gan(_config(name)):
        sys.stdout.write(asset_card(name))
    else:
        sys.stdout.write(model_card(name, model_fields(name, overrides)))
    return True


def _push(source: str, arguments: Sequence[str]) -> bool:
    from ood_sampler.models.hub import push, upload_of

    if not arguments:
        raise CommandError(f"push needs a repository: push {source} OWNER/NAME")
    repository, *settings = arguments
    given = {key: value for key, _, value in (text.partition("=") for text in settings)}
    for key in given:
        if key not in ("private", "licence"):
            raise CommandError(f"{key} is not known{_nearest(key, ['private', 'licence'])}")
    if given.get("private", "false") not in ("true", "false"):
        raise CommandError(f"private must be true or false, got {given['private']}")
    upload = upload_of(source, licence=given.get("licence"))
    address = push(upload, repository, private=given.get("private") == "true")
    sys.stdout.write(f"pushed {len(upload.files)} files to {address}\n")
    return True


def entry(name: str) -> str:
    """Describe a model: size of its images and its weights, where these are, sources."""
    config = _config(name)
    if OmegaConf.is_missing(config.model, "path"):
        return f"{name:<20} {'any':<9} {'':>8}  yours    set name, path and resolution\n"
    fields = _fields(config)
    if "path" not in fields:
        return f"{name:<20} {'any':<9} {'':>8}  none     fitted to the few-shot images of a run\n"
    if _is_gan(config):
        return _generator_entry(name, fields)
    files = WeightFiles(name=fields["name"], path=fields["path"], sources=fields.get("sources", []))
    found = files.find()
    size = f"{fields['resolution']}x{fields['resolution']}"
    where = f"missing  {files.folder}" if found is None else f"present  {found.path}"
    sources = [source.address for source in files.sources] or ["shipped with the package"]
    first = f"{name:<20} {size:<9} {_megabytes(files, found):>5.0f} MB  {where}"
    return "\n".join([first, *(f"{'':<41}{source}" for source in sources)]) + "\n"


def _generator_entry(name: str, fields: Mapping[str, Any]) -> str:
    files = GeneratorFiles(fields["name"], fields["path"])
    size = f"{fields['resolution']}x{fields['resolution']}"
    megabytes = files.megabytes if files.are_here else math.nan
    where = f"{'present' if files.are_here else 'missing'}  {files.folder}"
    first = f"{name:<20} {size:<9} {megabytes:>5.0f} MB  {where}"
    return f"{first}\n{'':<41}shipped with the package\n"


_KINDS: Mapping[type | None, str] = {int: "a whole number", float: "a number"}
"""What the place of a usual value takes."""


def model_fields(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Read the constructor's arguments of a model from its configuration and `KEY=VALUE`s.

    Raises:
        CommandError: the model or a key is not known, or a key that must be set is not.
    """
    if name not in _names():
        raise CommandError(
            f"{name} is not known{_nearest(name, _names())}; there are: {', '.join(_names())}"
        )
    config = _config(name)
    if "path" not in list(config.model):
        raise CommandError(f"{name} has no weights to verify: a run fits it to its few-shot images")
    known = sorted(_keys(config.model))
    for override in overrides:
        key, equals, _ = override.removeprefix("model.").partition("=")
        if not equals:
            raise CommandError(f"{override} must be of the form KEY=VALUE")
        if key not in known:
            raise CommandError(f"{key} is not known{_nearest(key, known)}")
        if key in _TEXTS:
            # taken literally: YAML would misread some paths
            text = override.partition("=")[2]
            value = None if text == "null" else text.replace("${", r"\${")
            OmegaConf.update(config, f"model.{key}", value)
            continue
        try:
            config.merge_with_dotlist([f"model.{override.removeprefix('model.')}"])
        except YAMLError as error:
            raise CommandError(f"{override} must be KEY=VALUE with a value in YAML") from error
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        key = missing[0].removeprefix("model.")
        raise CommandError(f"{key} must be set: add {key}=…")
    fields, usual = _fields(config), _config(name).model
    for override in overrides:
        key = override.removeprefix("model.").partition("=")[0]
        kind = None if OmegaConf.is_missing(usual, key) else type(usual.get(key))
        if kind in _KINDS and type(fields[key]) not in (kind, int):
            raise CommandError(f"{key} must be {_KINDS[kind]}, got {fields[key]!r}")
    return fields


def _verify(name: str, overrides: Sequence[str]) -> bool:
    # first, as a mistake in the command needs nothing heavy
    fields = model_fields(name, overrides)
    if _is_gan(_config(name)):
        return _verify_gan(fields)
    from ood_sampler.diffusion.solvers import DdimSolver
    from ood_sampler.models.frozen import FrozenModel
    from ood_sampler.models.verification import TRAINED, smooth_pictures, verify

    model = FrozenModel(**fields)
    denoiser = model.denoiser
    sys.stdout.write(_identity(model))
    sys.stdout.flush()
    pictures = smooth_pictures(_PICTURES, channels=model.channels, resolution=model.resolution)
    solver = DdimSolver(steps=_STEPS, power=_POWER)
    found = verify(denoiser, pictures, solver=solver, autoencoder=model.autoencoder)
    sys.stdout.write(_figures(found))
    if not found.is_trained:
        sys.stdout.flush()
        sys.stderr.write(
            f"error: the weights of model {model.name} in {model.weights.path} are not what "
            f"trained ones are: their relative error is {found.error:.3f}, that of trained weights "
            f"below {TRAINED}; check architecture, schedule and prediction type, or fetch them "
            "again\n"
        )
    return found.is_trained


def _verify_gan(fields: Mapping[str, Any]) -> bool:
    from ood_sampler.models.gan import GanModel
    from ood_sampler.models.gan_verification import report

    text, fault = report(GanModel(**fields))
    sys.stdout.write(text)
    if fault:
        sys.stdout.flush()
        sys.stderr.write(fault)
    return not fault


def _identity(model: "FrozenModel") -> str:
    weights = model.weights
    latents = "" if model.autoencoder is None else f", latents {_size(model.latent_shape)}"
    networks = (model.denoiser, model.autoencoder)
    parameters = [_millions(network) for network in networks if network is not None]
    schedule = model.schedule
    checksums = [f"{sha256}  {part}".rstrip() for part, sha256 in weights.checksums.items()]
    kept = "" if weights.record is None else f"recorded in {weights.record}"
    lines = {
        "model": model.name,
        "weights": str(weights.path),
        "SHA-256": f"\n{'':<12}".join([*checksums, *([kept] if kept else [])]),
        "images": f"{_size((model.channels, model.resolution, model.resolution))}{latents}",
        "parameters": " and, of the autoencoder, ".join(parameters),
        "schedule": f"{schedule.T} steps, the last leaves "
        f"{float(schedule.alpha_bars[-1].sqrt()):.2g} of the image",
    }
    return "".join(f"{key:<12}{value}\n" for key, value in lines.items())


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _millions(network: "nn.Module") -> str:
    return f"{sum(parameter.numel() for parameter in network.parameters()) / 1e6:.2f} M"


def _figures(found: "Verification") -> str:
    from ood_sampler.models.verification import psnr

    rmse = found.autoencoder_rmse
    autoencoder = (
        ""
        if rmse is None
        else f"{'autoencoder':<12}RMSE {rmse:.4f}, PSNR {psnr(rmse):.1f} dB: there and back alone\n"
    )
    return (
        f"{'estimate':<12}of images in as much noise (step {found.noisy_step}) with a relative "
        f"error of {found.error:.3f}: {_verdict(found)}\n"
        f"{'round trip':<12}RMSE {found.rmse:.4f}, PSNR {found.psnr:.1f} dB: {found.images} "
        f"smooth synthetic images to step {found.step} and back, {found.evaluations} evaluations "
        f"each, {found.seconds:.1f} s\n{autoencoder}\n{_MEANING}"
    )


def _verdict(found: "Verification") -> str:
    if found.is_trained:
        return "trained weights"
    return "NOT what trained weights that fit this configuration do"


def _megabytes(files: WeightFiles, found: Weights | None) -> float:
    """Size of the weights found on disk, else of those to fetch; NaN where not known."""
    if found is not None:
        parts = parts_of(found.path) or [""]
        return sum((found.path / part).stat().st_size for part in parts) / 1e6
    known = (source.megabytes for source in files.sources if source.megabytes is not None)
    return next(known, math.nan)


def _names() -> list[str]:
    return sorted(file.stem for file in (CONF / "model").glob("*.yaml"))


def _config(name: str) -> DictConfig:
    """Load a configuration below the key `model`, so that interpolations resolve as in runs."""
    return OmegaConf.create({"model": OmegaConf.load(CONF / "model" / f"{name}.yaml")})


def _fields(config: DictConfig) -> dict[str, Any]:
    fields: dict[str, Any] = OmegaConf.to_container(config.model, resolve=True)  # type: ignore[assignment]
    del fields["_target_"]
    return fields


def _is_gan(config: DictConfig) -> bool:
    """Whether a model is a generator."""
    return str(config.model._target_) == _GAN


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in config:
        path = f"{prefix}{key!s}"
        yield path
        value = config._get_node(key)
        if isinstance(value, DictConfig):
            yield from _keys(value, f"{path}.")


_COMMANDS = {"verify": _verify, "card": _card, "push": _push}
"""Each with the name of a model and further arguments."""


def _nearest(word: str, words: Sequence[str]) -> str:
    found = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


if __name__ == "__main__":
    main()
