"""The pages on configuration, written from `conf/` and the structured configs before each build."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from sphinx.application import Sphinx

from ood_sampler.command.help import (
    Option,
    groups_of,
    keys_of_run,
    keys_of_training,
    options_of,
)
from ood_sampler.command.types import declared
from ood_sampler.config import CONF, Run, Training

FOLDER = "docs/reference/options"
"""Where the pages go; git ignores it."""

_ORDER = ("model", "data", "sampler", "solver", "correction", "metrics", "study", "experiment")
"""Groups in the order of the pages; others follow."""

_TITLES = {
    "model": "The frozen model",
    "data": "The target domain: few-shot and held-out images",
    "sampler": "The strategy that draws new latents",
    "solver": "How the ODE is solved, in both directions",
    "correction": "A correction of the model's flow",
    "metrics": "The judges",
    "study": "A study, in the place of a run",
    "experiment": "Presets: settings of several groups at once",
    "logger": "Experiment tracking",
    "trainer": "Devices, precision, processes",
    "recipe": "What `python -m ood_sampler.train` trains",
    "hydra/launcher": "What starts the runs of a sweep",
    "metrics/pictures": "Further metrics of pixels",
}

_RECIPES = "recipe"
"""The group of `python -m ood_sampler.train`."""

Keys = Sequence[tuple[str, str, str]]


def groups() -> list[str]:
    """All groups of `conf/`, nested ones too."""
    nested = {file.parent.relative_to(CONF).as_posix() for file in CONF.glob("*/*/*.yaml")}
    every = dict.fromkeys([*_ORDER, *groups_of(), *sorted(nested), _RECIPES])
    return [group for group in every if (CONF / group).is_dir()]


def table(keys: Keys, tree: object, root: type | None = None, *, prefix: str = "") -> str:
    """A table of keys: name and default, what values they take, what they mean."""
    rows = ["| key | default | takes | meaning |", "|---|---|---|---|"]
    for key, value, meaning in keys:
        known = declared(tree, key, root)
        takes = "" if known.is_open else str(known)
        default = f"`{value}`" if value else ""
        rows.append(
            " | ".join(["", f"`{prefix}{key}`", default, takes, _cell(meaning), ""]).strip()
        )
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;").replace("$", "\\$")


def group_page(group: str) -> str:
    """The page of a group."""
    name = group.replace("/", ".")
    program = "train" if group == _RECIPES else "run"
    topic = "" if group == _RECIPES else f" {group.partition('/')[0]}"
    parts = [f"# `{group}`\n\n{_TITLES.get(group, 'Further options')}.\n"]
    choice = f"+{group}" if group == "metrics/pictures" else group
    parts.append(
        f"Choose one with `{choice}=OPTION`; set its keys with `{name}.KEY=VALUE`. "
        f"`python -m ood_sampler.{program} --help{topic}` tells the same.\n"
        if group != "hydra/launcher"
        else f"Choose one with `{group}=OPTION`, together with `-m`.\n"
    )
    options = options_of(group)
    for option in options:
        parts.extend(_option(group, option, options))
    return "\n".join(parts)


def _option(group: str, option: Option, options: Sequence[Option]) -> Iterator[str]:
    yield f"## `{option.name}`\n"
    yield "\\\n".join(_cell(line) for line in option.comment.splitlines()) + "\n"
    file = CONF / group / f"{option.name}.yaml"
    if group == "experiment":
        yield f"```yaml\n{_body(file)}\n```\n"
        return
    if option.target:
        yield f"Builds {{py:obj}}`{option.target}`.\n"
    if option.keys:
        prefix = "" if group == "metrics/pictures" else f"{group.replace('/', '.')}."
        yield table(option.keys, _tree(file, options), prefix=prefix)


def _tree(file: Path, options: Sequence[Option]) -> Any:  # noqa: ANN401 what OmegaConf returns
    """The keys of an option with those that it starts from."""
    tree = OmegaConf.load(file)
    for start in tree.get("defaults", []):
        if start in [option.name for option in options]:
            before = OmegaConf.create(_tree(file.with_stem(start), options))
            tree = OmegaConf.merge(before, tree)
    return OmegaConf.to_container(tree)


def _body(file: Path) -> str:
    """A file without the comment at its top."""
    lines = file.read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def pages() -> Iterator[tuple[str, str]]:
    """File names and text of all pages."""
    yield (
        "a_run",
        "# Keys of a run\n\nThese belong to no group. Set them with `KEY=VALUE`.\n\n"
        + table(keys_of_run(), _plain("run"), Run),
    )
    for group in groups():
        yield group.replace("/", "_"), group_page(group)
    yield (
        "training",
        "# Keys of a training\n\nOf `python -m ood_sampler.train`.\n\n"
        + table(keys_of_training(), _plain("train"), Training),
    )


def _plain(name: str) -> Any:  # noqa: ANN401 what OmegaConf returns
    return OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))


def write(app: Sphinx) -> None:
    """Write what has changed, and remove pages of groups that are gone."""
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    written = {f"{name}.md": text for name, text in pages()}
    for file in folder.glob("*.md"):
        if file.name not in written:
            file.unlink()
    for name, text in written.items():
        file = folder / name
        if not file.exists() or file.read_text() != text:
            file.write_text(text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages before Sphinx looks for them."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
