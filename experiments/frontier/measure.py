"""Every setting on one domain, a row each, continued where it was interrupted.

    python -m experiments.frontier.measure --model dog32 --domain cat=cifar10/test/cat.zip

Rows go to `<output>/rows/<model>_<domain>_<few-shot>_<seed>.json`; `--only` takes settings by parts
of their keys, `--samples` more samples of the same settings.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.frontier.settings import PIXELS, Setting, settings, without_network
from ood_sampler.config import CONF
from ood_sampler.modules.trainer import hush_lightning
from ood_sampler.names import register
from ood_sampler.pipeline.measure import Row
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.pipeline.session import Session
from ood_sampler.pipeline.settings import Settings
from ood_sampler.samplers.base import GaveUpError, Sampler
from ood_sampler.store.files import load_json, save_json

STEPS = (300, 500, 700, 999)
"""Inversion steps that one inversion keeps latents of."""


def composed(overrides: Iterable[str]) -> DictConfig:
    """Compose the configuration of a run."""
    import ood_sampler.command  # noqa: F401  (registers the structured configurations)

    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("run", overrides=["hydra.run.dir=.", *overrides], return_hydra_config=False)


def pipeline_of(cfg: DictConfig, root: Path) -> Pipeline:
    """The run that a configuration describes."""
    model = instantiate(cfg.model, _convert_="all")
    return Pipeline(
        model=model,
        codec=model.codec(instantiate(cfg.solver)),
        domain=instantiate(cfg.data),
        sampler=instantiate(cfg.sampler),
        judges=instantiate(cfg.metrics),
        settings=Settings(
            step=cfg.inversion.step,
            eta=0.0,
            clip_x_0=False,
            num_samples=cfg.num_samples,
            seed=cfg.seed,
            batch_size=None,
            in_domain=128,
            round_trip=64,
        ),
        session=Session(root / "artifacts", instantiate(cfg.trainer)),
        also=STEPS,
        correction=instantiate(cfg.correction),
    )


def data_of(domain: str, few_shot: int, seed: int) -> tuple[str, list[str]]:
    """Name of a domain, and the overrides that describe it: a shipped one, or NAME=PATH."""
    name, _, path = domain.partition("=")
    size = [f"data.few_shot={few_shot}", f"data.held_out={'null' if path else 800}"]
    if not path:
        return name, [f"data={name}", *size]
    place = [f"data.root={Path(path).resolve()}", f"data.name={name}", f"data.seed={seed}"]
    return name, ["data=folder", *place, *size]


class Rows:
    """Rows of one domain in a file, each measured once.

    Args:
        file: JSON by the keys of settings.
        count: samples of each.
    """

    def __init__(self, file: Path, count: int) -> None:
        self.file = file
        self.count = count
        self.found: dict[str, Any] = load_json(file) or {}

    def holds(self, key: str) -> bool:
        """Whether a setting is measured with so many samples."""
        return bool(self.found.get(key, {}).get("images", 0) >= self.count)

    def keep(self, key: str, make: Callable[[], Row]) -> None:
        """Measure a setting, unless the file holds it; keep why a strategy gave up."""
        if self.holds(key):
            return
        try:
            row = make()
        except GaveUpError as error:
            found = {"images": self.count, "gave_up": str(error)}
        else:
            found = {"images": row.samples, **row.figures}
        # another process may have added rows of the same domain meanwhile
        self.found = {**self.found, **(load_json(self.file) or {}), key: found}
        save_json(self.file, self.found)
        print(self.file.stem, key, flush=True)


def rows_of(
    wanted: Sequence[Setting], shared: Sequence[str], root: Path, file: Path, *, pixels: bool
) -> None:
    """Measure what the file does not hold."""
    made: dict[tuple[str | None, bool], Pipeline] = {}
    count = next(int(text.split("=")[1]) for text in shared if text.startswith("num_samples="))
    rows = Rows(file, count)

    def pipeline(model: str | None, corrected: bool) -> Pipeline:
        if (model, corrected) not in made:
            flow = ["correction=gaussian"] if corrected else []
            base = [text for text in shared if model is None or not text.startswith("model=")]
            own = [] if model is None else [f"model={model}"]
            made[model, corrected] = pipeline_of(composed([*base, *own, *flow]), root)
        return made[model, corrected]

    plain = pipeline(None, False)
    if pixels:
        rows.keep("real", lambda: plain.measure.real())
        for name, overrides in PIXELS.items():
            mixed = plain.in_pixels(sampler_of(overrides))
            rows.keep(f"pixels/{name}", mixed.sample_row)
    for setting in wanted:
        if rows.holds(setting.key):
            continue
        run = pipeline(setting.model, setting.corrected)
        run = run.variant(sampler=sampler_of(setting.sampler), step=setting.step)
        rows.keep(setting.key, run.sample_row)


def sampler_of(overrides: Sequence[str]) -> Sampler:
    """The strategy that some overrides describe."""
    sampler: Sampler = instantiate(composed(overrides).sampler)
    return sampler


def main() -> None:
    """Measure one domain."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="dog32")
    parser.add_argument("--domain", required=True, help="a shipped one, or NAME=PATH")
    parser.add_argument("--few-shot", type=int, default=200)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the draws")
    parser.add_argument("--only", nargs="+", default=[], help="settings with these in their keys")
    parser.add_argument("--networks", choices=("with", "without"), default="with")
    parser.add_argument("--output", type=Path, default=Path("outputs/frontier"))
    arguments = parser.parse_args()
    hush_lightning()
    if "_" in arguments.domain.partition("=")[0]:
        parser.error("--domain: a name without _, which separates the parts of a file's name")
    name, data = data_of(arguments.domain, arguments.few_shot, arguments.seed)
    shared = [
        f"model={arguments.model}",
        *data,
        f"seed={arguments.seed}",
        f"num_samples={arguments.samples}",
        "trainer=cpu",
    ]
    every = settings() if arguments.networks == "with" else without_network()
    wanted = [s for s in every if not arguments.only or any(o in s.key for o in arguments.only)]
    parts = (arguments.model, name, str(arguments.few_shot), str(arguments.seed))
    file = arguments.output / "rows" / f"{'_'.join(parts)}.json"
    rows_of(wanted, shared, arguments.output, file, pixels=arguments.networks == "with")


if __name__ == "__main__":
    main()
