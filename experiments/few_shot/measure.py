"""Sampling from 5, 10 and 20 images: strategies, a GAN, fine-tuning; a row each, resumable.

    python -m experiments.few_shot.measure --domain cat=cifar10/test/cat.zip --few-shot 10

Rows go to `<output>/rows/dog32_<domain>_<few-shot>_<seed>.json`. Samples of a fine-tuned copy of
the model, and of one with a low-rank adapter, come from pure noise.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from experiments.frontier.measure import Rows, composed, data_of, pipeline_of, sampler_of
from experiments.frontier.settings import PIXELS, STRATEGIES
from ood_sampler.metrics.opinions import together
from ood_sampler.modules.adapters import AdapterTuning
from ood_sampler.modules.finetuning import FineTuning
from ood_sampler.modules.trainer import hush_lightning
from ood_sampler.pipeline.measure import Row
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.studies.tuned import fine_tuned

LATENTS: dict[str, tuple[int, ...]] = {
    "cog 3": (500, 999),
    "cog 5": (999,),
    "slerp": (500,),
    "white .4": (999,),
    "hypersphere": (500, 999),
}
"""Steps of each strategy of the frozen model."""

CODES = {
    "gaussian": ("sampler=gaussian",),
    "cog 3": ("sampler=cog",),
    "hypersphere": ("sampler=hypersphere",),
}
"""Strategies on codes w of the GAN."""

MIXED = ("cog 2", "cog 3", "cog 5", "slerp", "bands", "circle")
"""Controls: mixtures of the images themselves."""

TUNING: dict[str, Any] = {
    "steps": 300,
    "learning_rate": 2e-4,
    "batch_size": 16,
    "validate_every": 25,
    "patience": 6,
    "validation_share": 0.1,
    "ema_decay": 0.99,
}
"""Of both fine-tunings: as `conf/study/preservation.yaml`, shorter, for few images."""


@dataclass(frozen=True)
class ToTheEnd(FineTuning):
    """Train on all images and look at no others: the weights of least training loss are kept.

    With ten images one alone is left to say when to stop, and it may say at once.
    """

    on_all: bool = True

    def split(self, count: int, *, seed: int) -> tuple[list[int], list[int]]:
        """All images, twice."""
        return list(range(count)), list(range(count))


TUNINGS = {
    "vanilla": FineTuning(**TUNING),
    "adapter": AdapterTuning(**TUNING, rank=8, alpha=8.0),
    "vanilla, to the end": ToTheEnd(**TUNING),
}
"""Fine-tunings: all weights, and a low-rank adapter, stopped early; all weights, not stopped."""


def sampled(run: Pipeline) -> Row:
    """The row of a strategy, checked first as a run would."""
    run.check()
    return run.sample_row()


def tuned(frozen: Pipeline, settings: FineTuning) -> Row:
    """The row of a fine-tuned copy, with what became of the model's own domain."""
    run, training = fine_tuned(frozen, settings)
    run = replace(run, settings=replace(run.settings, in_domain=frozen.settings.num_samples))
    images = run.own.described
    row = frozen.measure.row("fine-tuned", "strategy", images)
    own = frozen.in_domain_references({})
    strayed = {}
    for judge in frozen.judges:
        new = images.features[judge.name]
        found = judge.figures({"generated": new, "held_out": own[judge.name]}, only=("kid",))
        strayed[judge.name] = {f"own_{key}": float(value) for key, value in found.items()}
    further = {**together(strayed), "kept_at": training.best.step}
    return replace(row, figures={**row.figures, **further})


def measure(domain: str, arguments: argparse.Namespace) -> None:
    """Measure all settings of one domain and number of images."""
    name, data = data_of(domain, arguments.few_shot, arguments.seed)
    root: Path = arguments.output
    rows = Rows(
        root / "rows" / f"dog32_{name}_{arguments.few_shot}_{arguments.seed}.json",
        arguments.samples,
    )
    # must be below the number of few-shot images
    nearest = f"metrics.nearest_k={min(5, arguments.few_shot - 2)}"
    count = f"num_samples={arguments.samples}"
    numbers = [f"seed={arguments.seed}", count, nearest, "trainer=cpu"]
    frozen = pipeline_of(composed(["model=dog32", *data, *numbers]), root)
    rows.keep("real", lambda: frozen.measure.real())
    rows.keep("own", lambda: frozen.references()[1])
    for part in arguments.parts:
        for key, make in PARTS[part](frozen, [*data, *numbers]):
            rows.keep(f"{part}/{key}", make)


Made = Iterator[tuple[str, Callable[[], Row]]]


def pixels(frozen: Pipeline, shared: Sequence[str]) -> Made:
    """Mixtures of the images themselves."""
    for name in MIXED:
        run = frozen.in_pixels(sampler_of(PIXELS[name]))
        yield name, partial(sampled, run)


def latents(frozen: Pipeline, shared: Sequence[str]) -> Made:
    """Strategies of the frozen model."""
    for name, steps in LATENTS.items():
        for step in steps:
            run = frozen.variant(sampler=sampler_of(STRATEGIES[name]), step=step)
            yield f"{name}/{step}", partial(sampled, run)


def codes(frozen: Pipeline, shared: Sequence[str]) -> Made:
    """Strategies on codes w of the GAN."""
    cfg = composed(["model=dog32_gan", "model.space=w", *shared])
    gan = pipeline_of(cfg, frozen.session.root.parent)
    for name, overrides in CODES.items():
        yield name, partial(sampled, gan.variant(sampler=sampler_of(overrides)))


def tunings(frozen: Pipeline, shared: Sequence[str]) -> Made:
    """Copies of the model, trained on the few-shot images."""
    for kind, settings in TUNINGS.items():
        yield kind, partial(tuned, frozen, settings)


PARTS = {"pixels": pixels, "latents": latents, "codes": codes, "tuned": tunings}
"""What is measured, in this order."""


def main() -> None:
    """Measure one domain."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--domain", required=True, help="a shipped one, or NAME=PATH")
    parser.add_argument("--few-shot", type=int, default=10)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the draws")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, default=Path("outputs/few_shot"))
    arguments = parser.parse_args()
    hush_lightning()
    measure(arguments.domain, arguments)


if __name__ == "__main__":
    main()
