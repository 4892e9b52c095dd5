"""The text of `--help`, made from the comments in `conf/`: one place says what a key means."""

import re
from pathlib import Path

from ood_sampler.names import register

# whoever finds the configuration can resolve it
register()

CONF = Path(__file__).parents[1] / "conf"

GROUPS = (
    "model",
    "data",
    "solver",
    "sampler",
    "metrics",
    "logger",
    "trainer",
    "study",
    "hydra/launcher",
)

INTRODUCTION = """\
ood_sampler: new images of a domain that a frozen diffusion model has never seen.

usage: python -m ood_sampler.run [KEY=VALUE ...]
       python -m ood_sampler.run -m KEY=VALUE,VALUE ...   a sweep over all combinations
       python -m ood_sampler.train --help              train a base model of your own

examples:
  python -m ood_sampler.run
  python -m ood_sampler.run data=folder data.root=/my/pictures sampler=slerp inversion.step=700
  python -m ood_sampler.run -m inversion.step=400,500,600,700
  python -m ood_sampler.run -m solver=fixed_point inversion.step=500,700 decode.eta=0,0.1,0.3
  python -m ood_sampler.run --cfg job                     show the configuration and stop
"""

TRAINING = """\
ood_sampler.train: a denoiser for the pictures of one domain, as dog32 and ship32 are.

Stopped, or called again with a higher images=, it goes on where it was.

usage: python -m ood_sampler.train name=MINE data.root=PICTURES [KEY=VALUE ...]

examples:
  python -m ood_sampler.train name=mine data.root=/my/pictures images=200000
  python -m ood_sampler.train name=mine data.root=/my/pictures trainer.precision=32-true
  python -m ood_sampler.run model=diffusers model.name=mine model.resolution=32 \\
    model.path=outputs/train/mine/pipeline

keys:
"""

_COLUMN = 43
"""Where the words about a key begin."""

_KEY = re.compile(r"^(?P<indent> *)(?P<key>[\w.]+):(?P<value>[^#]*)(?:#(?P<words>.*))?$")
_HIDDEN = (
    "defaults",
    "hydra",
    "_target_",
    "_partial_",
    "extractor",
    "architecture",
    "layouts",
    "origin",
    "sources",
)


def help_text() -> str:
    """Explain every group, its options and every key."""
    lines = [INTRODUCTION, "keys:"]
    lines += [_line(*key) for key in keys(CONF / "run.yaml", prefix="")]
    for group in GROUPS:
        lines += ["", f"{group}=OPTION (more about each in conf/{group}/)"]
        explained: set[tuple[str, str]] = set()
        for option in sorted((CONF / group).glob("*.yaml")):
            lines.append(f"  {option.stem}: {_title(option)}")
            for key, value, words in keys(option, prefix=f"{group.replace('/', '.')}."):
                # the same key of another option may have another default
                if (key, words) not in explained:
                    explained.add((key, words))
                    lines.append(_line(key, value, words))
    lines += ["", "experiment=OPTION (an overlay over all of the above)"]
    lines += [f"  {o.stem}  {_title(o)}" for o in sorted((CONF / "experiment").glob("*.yaml"))]
    return "\n".join(lines) + "\n"


def training_help_text() -> str:
    """Explain every key of a training."""
    lines = [_line(*key) for key in keys(CONF / "train.yaml", prefix="")]
    return TRAINING + "\n".join(lines) + "\n"


def _title(file: Path) -> str:
    """The first line of comment."""
    comments = (line for line in file.read_text().splitlines() if line.startswith("#"))
    return next(line.lstrip("# ") for line in comments if not line.startswith("# @package"))


def _line(key: str, value: str, words: str) -> str:
    return f"{f'    {key}={value}':<{_COLUMN - 1}} {words}"


def keys(file: Path, *, prefix: str) -> list[tuple[str, str, str]]:
    """Name, value and comment of each key with a comment."""
    found: list[tuple[str, str, str]] = []
    parents: list[str] = []
    hidden_at: int | None = None
    for line in file.read_text().splitlines():
        match = _KEY.match(line)
        if match is None:
            continue
        depth = len(match["indent"]) // 2
        if hidden_at is not None and depth > hidden_at:
            continue
        hidden_at = depth if match["key"] in _HIDDEN else None
        if hidden_at is not None:
            continue
        parents[depth:] = [match["key"]]
        words = (match["words"] or "").strip()
        if words:
            found.append((prefix + ".".join(parents), match["value"].strip(), words))
    return found
