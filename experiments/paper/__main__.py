"""The tables and figures of the paper: a study of each domain, and one answer over all of them.

    python -m experiments.paper frontier bandwidth --domains /my/cats birds=/my/birds.zip

Each domain is a run of its own (`python -m ood_sampler.run experiment=NAME`), which continues where
it stopped; what they found is put together in `outputs/paper/<scale>/<name>`.
"""

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from ood_sampler.help import CONF
from ood_sampler.studies.files import read_studies, write_study

EMBEDDED = ("galaxy32", "radiation32")
FIELDS = ("galaxy32", "radiation32", "galaxyzoo", "radiation")
"""Domains that have measures of their field."""

VARIANTS = {
    "reconstruction": tuple(
        f"solver={solver}"
        for solver in ("multistep", "ddim", "fixed_point", "heun", "bdia", "belm")
    )
}
"""Settings that a study is repeated with."""

PAPER = {
    "iddpm_afhqdog": ("celeba", "church", "bedroom", "afhq_cat", "galaxyzoo", "radiation"),
    "ddpm_celebahq": ("church", "bedroom", "afhq_dog"),
    "ddpm_church": ("celeba", "bedroom", "afhq_dog"),
    "ddpm_bedroom": ("celeba", "church", "afhq_dog"),
}
"""Target domains of each base model in the paper (Zhu et al., 2023)."""

PAPER_SETTINGS = ("num_samples=5000", "data.few_shot=1000", "metrics=inception")


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
        folder: of its results, below that of the study.
        overrides: of the configuration.
    """

    folder: str
    overrides: tuple[str, ...]


def runs(study: str, scale: str, domains: Sequence[str]) -> Iterator[Run]:
    """All runs of a study.

    Args:
        study: its name.
        scale: `embedded` or `paper`.
        domains: folders or archives of pictures, each as PATH or NAME=PATH.

    Raises:
        FileNotFoundError: one is not there.
        ValueError: two have one name.
    """
    chosen: list[tuple[str, tuple[str, ...]]] = []
    if scale == "paper":
        for model, targets in PAPER.items():
            for data in targets:
                chosen.append(
                    (f"{model}_{data}", (f"model={model}", f"data={data}", *PAPER_SETTINGS))
                )
    else:
        chosen += [(name, (f"data={name}",)) for name in EMBEDDED]
    if study == "astro":
        chosen = [(name, given) for name, given in chosen if name.endswith(FIELDS)]
    else:
        chosen += [_folder(text, scale) for text in domains]
    twice = [name for name, count in Counter(name for name, _ in chosen).items() if count > 1]
    if twice:
        raise ValueError(
            f"two domains are called {twice[0]}: name one of them, as in DOMAINS=name=/its/path"
        )
    for name, overrides in chosen:
        for variant in VARIANTS.get(study, ("",)):
            extra = (variant,) if variant else ()
            folder = f"{name}_{variant.partition('=')[2]}" if variant else name
            yield Run(folder, (f"experiment={study}", *overrides, *extra))


def _folder(text: str, scale: str) -> tuple[str, tuple[str, ...]]:
    named = re.fullmatch(r"([\w-]+)=(.+)", text)
    root = Path(named[2] if named else text).resolve()
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist: DOMAINS takes folders or archives")
    name = named[1] if named else root.stem
    size = PAPER_SETTINGS[:1] + PAPER_SETTINGS[2:] if scale == "paper" else ()
    model = ("model=iddpm_afhqdog",) if scale == "paper" else ()
    return name, (
        *model,
        "data=folder",
        f"data.name={_quoted(name)}",
        f"data.root={_quoted(str(root))}",
        *size,
    )


def _quoted(text: str) -> str:
    """As a string of Hydra's, whatever it holds."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def make(
    study: str, scale: str, domains: Sequence[str], output: Path, settings: Sequence[str]
) -> list[str]:
    """Run a study on every domain and put the answers together.

    Returns:
        The conclusion over all domains.

    Raises:
        RuntimeError: a run failed.
    """
    folder = output / "paper" / scale / study
    every = list(runs(study, scale, domains))
    for run in every:
        command = [
            sys.executable,
            "-m",
            "ood_sampler.run",
            *run.overrides,
            f"output={output}",
            f"hydra.run.dir={folder / run.folder}",
            *settings,
        ]
        print(" ".join(command[1:]), file=sys.stderr, flush=True)
        if subprocess.run(command, check=False).returncode:  # noqa: S603 our own command
            raise RuntimeError(f"{study} of {run.folder} failed, see above")
    if any(text == "dry_run=true" for text in settings):
        return []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run", [f"experiment={study}", *settings])
    measured, protocol = read_studies(study, [folder / run.folder for run in every])
    return write_study(folder, instantiate(cfg.study), measured, protocol)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is asked for; 1 if something failed."""
    names = sorted(file.stem for file in (CONF / "study").glob("*.yaml"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("studies", nargs="+", choices=names, metavar="STUDY", help=", ".join(names))
    parser.add_argument("--domains", nargs="*", default=[], help="folders, as PATH or NAME=PATH")
    parser.add_argument("--scale", choices=("embedded", "paper"), default="embedded")
    parser.add_argument("--output", type=Path, default=Path("outputs"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="for every run")
    given = parser.parse_args(arguments)
    failed = False
    for study in given.studies:
        try:
            conclusion = make(study, given.scale, given.domains, given.output, given.set)
        except (FileNotFoundError, RuntimeError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        print("\n".join(conclusion))
        print(f"{study}: {given.output / 'paper' / given.scale / study}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
