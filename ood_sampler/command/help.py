"""The text of `--help`: values from `conf/`, meaning from where a key is declared.

That is a structured config (`ood_sampler.config`) or the docstring of a `_target_`. Words beside a
key in the file of an option come first: they tell of this option alone.
"""

import difflib
import re
import textwrap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from omegaconf import OmegaConf

from ood_sampler.command.types import declared
from ood_sampler.config import CONF, Run, Training
from ood_sampler.faults import CommandError

GROUPS = (
    "model",
    "data",
    "solver",
    "correction",
    "sampler",
    "metrics",
    "logger",
    "trainer",
    "study",
    "hydra/launcher",
)

INTRODUCTION = """\
ood_sampler: new images of a domain that a frozen diffusion model has never seen.

usage: python -m ood_sampler.run [KEY=VALUE ...]          installed, ood-sampler run does the same
       python -m ood_sampler.run -m KEY=VALUE,VALUE ...   a sweep over all combinations
       python -m ood_sampler.run --help GROUP             its options and keys; or a KEY, or all
       python -m ood_sampler.train --help                 train a base model of your own
       python -m ood_sampler.models                       list the models and their weights

examples:
  python -m ood_sampler.run data=folder data.root=/my/images sampler=slerp inversion.step=700
  python -m ood_sampler.run -m solver=fixed_point inversion.step=500,700 decode.eta=0,0.1,0.3
  python -m ood_sampler.run dry_run=true                  what it costs
  python -m ood_sampler.run --cfg job                     show the configuration and stop
"""

TRAINING = """\
ood_sampler.train: a denoiser for the images of one domain, as dog32 and ship32 are, or a GAN.

Stopped, or called again with a higher images=, it goes on where it was.

usage: python -m ood_sampler.train name=MINE data.root=IMAGES [KEY=VALUE ...]

examples:
  python -m ood_sampler.train name=mine data.root=/my/images images=200000
  python -m ood_sampler.train name=mine data.root=/my/images trainer.precision=32-true
  python -m ood_sampler.run model=diffusers model.name=mine model.resolution=32 \\
    model.path=outputs/train/mine/pipeline

keys:
"""

RECIPE = "recipe"
"""The one group of a training; no run has it."""

_COLUMN = 43
"""Where the words about a key begin."""

_WIDTH = 100

_MOST_USED = ("num_samples", "batch_size", "dry_run", "inversion.step", "decode.eta", "output")

_KEY = re.compile(r"^(?P<indent> *)(?P<key>[\w.]+):(?P<value>[^#]*)(?:#(?P<words>.*))?$")
_MACHINERY = ("defaults", "hydra", "_target_", "_partial_", "_convert_")
_HIDDEN = (*_MACHINERY, "architecture", "layouts", "origin", "sources")


@dataclass(frozen=True)
class Option:
    """An option of a group, as its file tells of it.

    Attributes:
        name: of the option.
        comment: at the top of its file.
        target: class or function that it builds, empty if it starts from another option.
        keys: name, value and meaning of each, also of those that `--help` leaves out.
    """

    name: str
    comment: str
    target: str
    keys: Sequence[tuple[str, str, str]]


def options_of(group: str, folders: Sequence[Path] = (CONF,)) -> list[Option]:
    """Read all options of a group."""
    files = _options(group, folders)
    found = []
    for file in files:
        keys = [] if group == "experiment" else _keys(file, others=files, hidden=_MACHINERY)
        target = OmegaConf.select(OmegaConf.load(file), "_target_", default="")
        found.append(Option(file.stem, _comment(file), str(target), keys))
    return found


def keys_of_run() -> list[tuple[str, str, str]]:
    """Name, value and meaning of the keys of a run that belong to no group."""
    return _keys(CONF / "run.yaml", root=Run)


def keys_of_training() -> list[tuple[str, str, str]]:
    """Name, value and meaning of the keys of a training."""
    return _keys(CONF / "train.yaml", root=Training)


def help_text(topics: Sequence[str] = (), folders: Sequence[Path] = (CONF,)) -> str:
    """What `--help` says.

    Args:
        topics: groups, options as GROUP=OPTION, keys, or `all`; none gives the overview.
        folders: those with files of configuration, the one with the defaults first.

    Raises:
        CommandError: a topic is not known.
    """
    groups = groups_of(folders)
    if not topics:
        return _overview(groups, folders)
    if "all" in topics:
        parts = [INTRODUCTION, _block("keys:", _keys(folders[0] / "run.yaml", root=Run))]
        return "\n".join([*parts, *(_group(group, folders) for group in groups)])
    return "\n".join(_topic(topic, groups, folders) for topic in topics)


def groups_of(folders: Sequence[Path] = (CONF,)) -> list[str]:
    """List the groups of a run, those of a user's own last."""
    shipped = [*GROUPS, "experiment"]
    files = sorted(file for folder in folders for file in folder.glob("*/*.yaml"))
    found = dict.fromkeys([*shipped, *(file.parent.name for file in files)])
    return [group for group in found if group != RECIPE]


def training_help_text(topics: Sequence[str] = ()) -> str:
    """Explain every key of a training.

    Args:
        topics: settings of the command; recipe=NAME chooses whose keys are explained.
    """
    files = {file.stem: file for file in _options(RECIPE, [CONF])}
    asked = [topic.partition("=")[2] for topic in topics if topic.startswith(f"{RECIPE}=")]
    chosen = next((name for name in asked if name in files), "diffusion")
    others = [name for name in files if name != chosen]
    shown = [
        *_keys(CONF / "train.yaml", root=Training),
        (RECIPE, chosen, f"{_title(files[chosen])} Or {', '.join(others)}: --help recipe=…"),
        *(key for key in _keys(files[chosen], root=Training) if key[0] != RECIPE),
    ]
    return TRAINING + _lines(shown)


def _overview(groups: Sequence[str], folders: Sequence[Path]) -> str:
    lines = [INTRODUCTION, "groups, as GROUP=OPTION:"]
    for group in groups:
        options = ", ".join(file.stem for file in _options(group, folders))
        lines.append(_wrapped(f"  {group:<15} {options}", indent=18))
    lines += ["", "keys that are set most often:"]
    every = _keys(folders[0] / "run.yaml", root=Run)
    lines += [
        _wrapped(_line(key, value, re.split(r"[:;(]", words)[0].rstrip()))
        for key, value, words in every
        if key in _MOST_USED
    ]
    return "\n".join(lines) + "\n"


def _topic(topic: str, groups: Sequence[str], folders: Sequence[Path]) -> str:
    name, _, option = topic.strip().rstrip("=").partition("=")
    if name in groups:
        return _group(name, folders, only=option)
    every = [*_keys(folders[0] / "run.yaml", root=Run)]
    for group in groups:
        every += [key for file in _options(group, folders) for key in _option_keys(group, file)]
    found = [key for key in every if key[0] == name or key[0].startswith(f"{name}.")]
    if not found:
        known = [*groups, *(key for key, _, _ in every)]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        raise CommandError(
            f"there is no help for {name}{f'; did you mean {close[0]}?' if close else ''}; --help "
            f"takes a key, all, or one of {', '.join(groups)}"
        )
    return _lines(list(dict.fromkeys(found)))


def _group(group: str, folders: Sequence[Path], *, only: str = "") -> str:
    """The options of a group, each with those of its keys that were not explained before."""
    options = [file for file in _options(group, folders) if only in ("", file.stem)]
    if not options:
        names = ", ".join(file.stem for file in _options(group, folders))
        raise CommandError(f"there is no help for {group}={only}; the options are {names}")
    places = dict.fromkeys(str(file.parent) for file in options)
    text = [f"{group}=OPTION (more about each in {' and '.join(places)})\n"]
    explained: set[tuple[str, str]] = set()
    for file in options:
        # the same key of another option may have another default
        every = _option_keys(group, file, others=_options(group, folders) if only else ())
        fresh = [key for key in every if (key[0], key[2]) not in explained]
        explained |= {(key, words) for key, _, words in fresh}
        text.append(_block(f"  {file.stem}: {_title(file)}", fresh))
    return "".join(text)


def _options(group: str, folders: Sequence[Path]) -> list[Path]:
    """The files of a group's options, by name."""
    files = {file.stem: file for folder in reversed(folders) for file in (folder / group).glob("*")}
    return [file for _, file in sorted(files.items()) if file.suffix == ".yaml"]


def _option_keys(
    group: str, file: Path, *, others: Sequence[Path] = ()
) -> list[tuple[str, str, str]]:
    prefix = f"{group.replace('/', '.')}."
    # an experiment sets keys of other groups
    return [] if group == "experiment" else _keys(file, prefix=prefix, others=others)


def _block(title: str, found: Sequence[tuple[str, str, str]]) -> str:
    return f"{_wrapped(title, indent=4)}\n{_lines(found)}"


def _lines(found: Sequence[tuple[str, str, str]]) -> str:
    return "".join(f"{_wrapped(_line(*key))}\n" for key in found)


def _wrapped(line: str, *, indent: int = _COLUMN) -> str:
    return textwrap.fill(
        line,
        _WIDTH,
        subsequent_indent=" " * indent,
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _title(file: Path) -> str:
    """The first line of comment."""
    return _comment(file).partition("\n")[0]


def _comment(file: Path) -> str:
    """The lines of comment at the top."""
    lines = file.read_text().splitlines()
    top = takewhile(lambda line: line.startswith("#"), lines)
    return "\n".join(line.lstrip("# ") for line in top if not line.startswith("# @package"))


def _line(key: str, value: str, words: str) -> str:
    return f"{f'    {key}={value}':<{_COLUMN - 1}} {words}"


def _keys(
    file: Path,
    *,
    prefix: str = "",
    root: type | None = None,
    others: Sequence[Path] = (),
    hidden: Collection[str] = _HIDDEN,
) -> list[tuple[str, str, str]]:
    """Name, value and meaning of each key of a file that has one.

    Args:
        file: the file.
        prefix: before each name.
        root: structured config of its keys.
        others: files whose keys it may start from, by its defaults.
        hidden: keys that are left out, with what is below them.
    """
    tree = OmegaConf.to_container(OmegaConf.load(file))
    starts = tree.get("defaults", []) if isinstance(tree, dict) else []
    found: dict[str, tuple[str, str]] = {}
    for other in others:
        if other.stem in starts:
            inherited = _keys(other, others=others, hidden=hidden)
            found |= {key: (value, words) for key, value, words in inherited}
    for key, value, comment in _written(file, hidden):
        before = found.get(key, ("", ""))[1]
        # one that refers to another key is explained there
        meaning = "" if value.startswith("${") else declared(tree, key, root).meaning
        found[key] = (value, comment or before or meaning)
    return [(prefix + key, value, words) for key, (value, words) in found.items() if words]


def _written(file: Path, hidden: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Name, value and comment of each key, as a file has them."""
    parents: list[str] = []
    hidden_at: int | None = None
    for line in file.read_text().splitlines():
        match = _KEY.match(line)
        if match is None:
            continue
        depth = len(match["indent"]) // 2
        if hidden_at is not None and depth > hidden_at:
            continue
        hidden_at = depth if match["key"] in hidden else None
        if hidden_at is None:
            parents[depth:] = [match["key"]]
            yield ".".join(parents), match["value"].strip(), (match["words"] or "").strip()
