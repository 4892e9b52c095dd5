"""The tables and figures of the paper: a study of each domain, and one answer over all of them.

    python -m experiments.paper frontier bandwidth --domains /my/cats birds=/my/birds.zip
    python -m experiments.paper frontier --domains galaxy32 /my/cats

Folders are added to the domains that ship; where one of these is named, or `only` stands first,
exactly what is listed is taken.
Each model with each domain is a run of its own (`python -m ood_sampler.run experiment=NAME`), which
continues where it stopped; what they found is put together in `outputs/paper/<scale>/<name>`.
"""

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.errors import HydraException
from hydra.utils import instantiate

from ood_sampler.command.files import SHIPPED
from ood_sampler.names import data_name
from ood_sampler.studies.files import read_studies, write_study
from ood_sampler.studies.page import write_study_page

FIELDS = ("galaxy32", "radiation32", "galaxyzoo", "radiation")
"""Domains that have measures of their field."""

LABELLED = ("galaxy32", "galaxyzoo", "celeba")
"""Domains that have labels; those of the last two are a CSV file of your own, `data.labels`."""

_LIMITED = {"astro": FIELDS, "attribute": LABELLED}
"""Studies of some of the domains that ship, and which."""

WITH_GAN = ("dog32",)
"""Base models that have a GAN of the same domain beside them (`study.beside`)."""

VARIANTS = {
    "reconstruction": tuple(
        f"solver={solver}"
        for solver in ("multistep", "ddim", "fixed_point", "heun", "bdia", "belm")
    )
}
"""Settings that a study is repeated with."""

TARGETS: dict[str, dict[str, tuple[str, ...]]] = {
    "embedded": {
        "dog32": ("galaxy32", "radiation32"),
        "ship32": ("galaxy32", "radiation32"),
    },
    "paper": {
        "iddpm_afhqdog": ("celeba", "church", "bedroom", "afhq_cat", "galaxyzoo", "radiation"),
        "ddpm_celebahq": ("church", "bedroom", "afhq_dog"),
        "ddpm_church": ("celeba", "bedroom", "afhq_dog"),
        "ddpm_bedroom": ("celeba", "church", "afhq_dog"),
    },
}
"""Target domains of each base model, by scale; of the paper those of Zhu et al., 2023."""

ONLY = "only"
"""Before domains: none but these."""

_SIZES: dict[str, dict[str, str]] = {
    "embedded": {},
    "paper": {
        "num_samples": "5000",
        "data.few_shot": "1000",
        "measure.in_domain": "null",
        "metrics": "inception",
    },
}


_INTERRUPTED = 130
"""Exit code of a run that was interrupted."""


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
        folder: of its results, below that of the study.
        overrides: of the configuration.
    """

    folder: str
    overrides: tuple[str, ...]


def runs(
    study: str, scale: str, domains: Sequence[str], models: Sequence[str] = ()
) -> Iterator[Run]:
    """All runs of a study.

    Args:
        study: its name.
        scale: `embedded` or `paper`.
        domains: folders or archives of images, each as PATH or NAME=PATH, beside those that a
            model has; with one of these by its name, or after `only`, no others than listed.
        models: base models; none takes all of the scale.

    Raises:
        FileNotFoundError: a folder is not there.
        ValueError: two domains have one name, or a model is not of the scale.
    """
    targets = TARGETS[scale]
    unknown = [model for model in models if model not in targets]
    if unknown:
        raise ValueError(f"MODELS must be some of {' '.join(targets)}, got {unknown[0]}")
    sizes = _SIZES[scale]
    size = tuple(f"{key}={value}" for key, value in sizes.items())
    shipped = _shipped(scale)
    named = [text for text in domains if text in shipped]
    exactly = bool(named) or ONLY in domains
    paths = [] if study == "astro" else folders_of(domains, scale)
    folders = [_folder(text, sizes, shipped) for text in paths]
    chosen_models = [m for m in models or targets if study != "inversion" or m in WITH_GAN]
    for model in chosen_models:
        kept = [name for name in targets[model] if not exactly or name in named]
        chosen = [(name, (f"data={name}", *size)) for name in kept]
        if study in _LIMITED:
            chosen = [(name, given) for name, given in chosen if name in _LIMITED[study]]
        chosen += folders
        twice = [name for name, count in Counter(name for name, _ in chosen).items() if count > 1]
        if twice:
            raise ValueError(
                f"two domains are called {twice[0]}: name one of them, as in DOMAINS=name=/its/path"
            )
        for name, overrides in chosen:
            for variant in VARIANTS.get(study, ("",)):
                extra = (variant,) if variant else ()
                parts = (model, name, variant.partition("=")[2])
                yield Run(
                    "_".join(part for part in parts if part),
                    (f"experiment={study}", f"model={model}", *overrides, *extra),
                )


def folders_of(domains: Sequence[str], scale: str) -> list[str]:
    """Those of the domains that do not ship."""
    return [text for text in domains if text not in (*_shipped(scale), ONLY)]


def _shipped(scale: str) -> set[str]:
    return {name for names in TARGETS[scale].values() for name in names}


def _folder(
    text: str, sizes: Mapping[str, str], shipped: Collection[str]
) -> tuple[str, tuple[str, ...]]:
    named = re.fullmatch(r"([\w-]+)=(.+)", text)
    root = Path(named[2] if named else text).resolve()
    if not root.exists():
        raise FileNotFoundError(
            f"{root} does not exist: DOMAINS takes folders or archives, and of the domains of this "
            f"scale {', '.join(sorted(shipped))}"
        )
    name = named[1] if named else data_name(text)
    # how many images a folder of one's own has is not known
    size = (f"{key}={value}" for key, value in sizes.items() if key != "data.few_shot")
    data = ("data=folder", f"data.name={_quoted(name)}", f"data.root={_quoted(str(root))}")
    return name, (*data, *size)


def _quoted(text: str) -> str:
    """As a string of Hydra's, whatever it holds."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def make(
    study: str, scale: str, every: Sequence[Run], output: Path, settings: Sequence[str]
) -> list[str]:
    """Run a study on every model and domain and put the answers together.

    Returns:
        The conclusion over all domains.

    Raises:
        HydraException: the settings do not fit the configuration.
        RuntimeError: a run failed.
    """
    folder = output / "paper" / scale / study
    cfg = SHIPPED.compose([*every[0].overrides, *settings])
    for run in every:
        command = [
            sys.executable,
            "-m",
            "ood_sampler.run",
            *run.overrides,
            f"output={_quoted(str(output))}",
            f"hydra.run.dir={_quoted(str(folder / run.folder))}",
            *settings,
        ]
        print(" ".join(command[1:]), file=sys.stderr, flush=True)
        ended = subprocess.run(command, check=False).returncode  # noqa: S603 our own command
        if ended == _INTERRUPTED:
            raise KeyboardInterrupt
        if ended:
            raise RuntimeError(f"{study} of {run.folder} failed, see above")
    if any(text == "dry_run=true" for text in settings):
        return []
    asked = instantiate(cfg.study)
    folders = [folder / run.folder for run in every]
    measured, protocol = read_studies(study, folders, joins=asked.joins)
    conclusion = write_study(folder, asked, measured, protocol)
    write_study_page(folder, asked, measured, conclusion, protocol)
    return conclusion


_DOMAINS = (
    "folders, as PATH or NAME=PATH, beside the domains that ship; with names of these among them, "
    f"or {ONLY} before them, exactly the listed ones"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is asked for; 1 if something failed."""
    names = SHIPPED.options("study")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("studies", nargs="+", choices=names, metavar="STUDY", help=", ".join(names))
    parser.add_argument("--domains", nargs="*", default=[], help=_DOMAINS)
    parser.add_argument("--models", nargs="*", default=[], help="base models of the scale; all")
    parser.add_argument("--scale", choices=("embedded", "paper"), default="embedded")
    parser.add_argument("--output", type=Path, default=Path("outputs"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="for every run")
    given = parser.parse_args(arguments)
    failed = False
    for study in given.studies:
        apart = study == "astro" and folders_of(given.domains, given.scale)
        if apart:
            print(
                "astro leaves folders out, as it measures physical fields; for galaxies of yours: "
                "python -m ood_sampler.run experiment=astro data=folder data.root=IMAGES",
                file=sys.stderr,
            )
        try:
            every = list(runs(study, given.scale, given.domains, given.models))
            if apart and not every:
                continue
            if not every:
                raise ValueError(
                    f"{study} has no domain with these models: leave out MODELS or DOMAINS"
                )
            conclusion = make(study, given.scale, every, given.output, given.set)
        except (FileNotFoundError, RuntimeError, ValueError, HydraException) as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            failed = True
            continue
        print("\n".join(conclusion))
        print(f"{study}: {given.output / 'paper' / given.scale / study}")
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted: finished runs are kept, the same command continues", file=sys.stderr)
        sys.exit(_INTERRUPTED)
