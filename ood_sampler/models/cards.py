"""Cards: what a model is, its data, licence, size, checksums and measured quality.

Nothing here needs torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ood_sampler.config import CONF
from ood_sampler.models.layout import parts_of
from ood_sampler.models.sources import CheckpointFile, sha256_of
from ood_sampler.models.weights import ASSETS, WeightFiles, Weights

_CARD = "CARD.md"

_UNMEASURED = (
    "What its samples are worth was not measured here. A check of the weights: "
    "python -m ood_sampler.models verify {name}\n"
)


def shipped() -> list[str]:
    """Names of what ships with a card: models, domains and judges."""
    return sorted(file.parent.name for file in ASSETS.glob(f"*/{_CARD}"))


def pushable() -> list[str]:
    """Names of the models that ship as pipelines, which a hub takes."""
    return [name for name in shipped() if parts_of(ASSETS / name)]


def shipped_card(name: str) -> str:
    """The card of something that ships with the package.

    Raises:
        FileNotFoundError: it was removed.
    """
    return (ASSETS / name / _CARD).read_text(encoding="utf-8")


def model_card(name: str, fields: Mapping[str, Any]) -> str:
    """Describe a model of `conf/model`.

    Args:
        name: of its file.
        fields: arguments of `FrozenModel`.

    Raises:
        ValueError: a file is not what it was at first use.
    """
    files = WeightFiles(name=fields["name"], path=fields["path"], sources=fields.get("sources", []))
    found = files.find()
    about, licence = comment(name)
    side = fields["resolution"]
    lines = {
        "model": fields["name"],
        "what": about,
        "licence": licence,
        "images": f"{fields['channels']}x{side}x{side}",
        "weights": _place(files, found),
        "checksums": _checksums(files, found),
        "use": f"python -m ood_sampler.run model={name}",
    }
    told = "".join(f"{key:<12}{value}\n" for key, value in lines.items() if value)
    if name in shipped() and fields["path"] == name:
        return f"{told}\n{shipped_card(name)}"
    return f"{told}\n{_UNMEASURED.format(name=name)}"


def asset_card(name: str) -> str:
    """Describe a domain or a judge that ships with the package."""
    sizes = sorted((ASSETS / name).glob("*.safetensors"))
    lines = [
        f"{sha256_of(file)}  {file.name}, {file.stat().st_size / 1e6:.1f} MB" for file in sizes
    ]
    return f"{'SHA-256':<12}{_indented(lines)}\n\n{shipped_card(name)}"


def comment(name: str) -> tuple[str, str]:
    """What the file of a model says about it at its head, and about its licence."""
    text = (CONF / "model" / f"{name}.yaml").read_text(encoding="utf-8")
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    about, _, licence = " ".join(lines).partition("Licence")
    return about.strip(), licence.partition(":")[2].strip()


def trained_card(name: str, folder: Path) -> str:
    """Describe a base that `python -m ood_sampler.train` left.

    Args:
        name: of the model.
        folder: its pipeline; the settings of the training are beside it.
    """
    file = folder.parent / "config.yaml"
    text = f"# {name}\n\nA diffusion model in diffusers' layout, for use with `ood_sampler`.\n"
    if not file.is_file():
        return text
    cfg = OmegaConf.load(file)
    settings = {
        "images seen in training": cfg.images,
        "side of images": f"{cfg.data.resolution} pixels",
        "steps of the chain": f"{cfg.schedule.num_train_timesteps}, {cfg.schedule.beta_schedule}",
        "seed": cfg.seed,
    }
    # not data.root: a path of the owner's machine
    rows = [f"| {key} | {value} |" for key, value in settings.items()]
    head = f"{text}\nTrained by `python -m ood_sampler.train`.\n"
    return "\n".join([head, "| | |", "|---|---|", *rows]) + "\n"


def _place(files: WeightFiles, found: Weights | None) -> str:
    if found is not None:
        return f"{found.path}"
    sources = " or ".join(
        f"{source.address}" + ("" if source.megabytes is None else f", {source.megabytes:.0f} MB")
        for source in files.sources
    )
    return f"not here; from {sources}" if sources else "yours: set name, path and resolution"


def _checksums(files: WeightFiles, found: Weights | None) -> str:
    if found is not None:
        known = found.checksums
        size = sum((found.path / part).stat().st_size for part in known) / 1e6
        lines = [f"SHA-256 {sha256}  {part}".rstrip() for part, sha256 in known.items()]
        return _indented([*lines, f"{size:.1f} MB in all"])
    published = [s for s in files.sources if isinstance(s, CheckpointFile) and s.md5]
    return _indented([f"MD5 {source.md5}  {source.file}" for source in published])


def _indented(lines: list[str]) -> str:
    return f"\n{'':<12}".join(lines)
