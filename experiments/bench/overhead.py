"""Time of inversion and decoding, as a run does them, against the bare network evaluations.

The stages' time holds everything: the trainers' start, reading, the solver, checks, checksums and
the writing of shards. (A run also looks at what is stored already, holds a lease, and reads latents
back to see that they are finite.) It is taken twice: against the same evaluations on their own, in
turn; and against the calls of the network in the very same stages, which a busy machine slows down
alike.
"""

import functools
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning

from experiments.bench.network import (
    STEP,
    best_batch,
    default_solver,
    evaluate,
    frozen_model,
    galaxies,
    network,
    some,
)
from experiments.bench.table import Ratio, in_turn, seconds
from ood_sampler.modules.inversion import Inversion
from ood_sampler.modules.prediction import compute
from ood_sampler.modules.synthesis import Synthesis
from ood_sampler.modules.trainer import hush_lightning
from ood_sampler.store.artifacts import Artifact, Items

GOAL = 1.03
IMAGES = {1: 32}
"""At a batch size, else 64. A run has hundreds: with few, the start weighs too much."""
PAIRS = {1: 5}
"""At a batch size, else three."""


def measure() -> Iterator[Ratio]:
    """Yield the ratio at batch 1 and at the best batch."""
    hush_lightning()
    solver, T = default_solver(), network().schedule.T
    calls = solver.inversion_evaluations([STEP], T=T) + solver.decoding_evaluations(STEP, T=T)
    for batch_size in (1, best_batch()):
        count = IMAGES.get(batch_size, 64)
        images = some(count)
        evaluate(images[:batch_size], batch_size, 3)
        shares: list[float] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            timed = in_turn(
                functools.partial(watched, shares, count, batch_size),
                functools.partial(evaluate, images, batch_size, calls),
                pairs=PAIRS.get(batch_size, 3),
            )
        work = f"{count} images, {calls} evaluations each, two trainers' starts; "
        yield Ratio(
            name=f"inversion + decoding / bare network, batch {batch_size}",
            measured=timed.ratio(),
            goal=GOAL,
            at_most=True,
            detail=work + timed.detail("stages", "network"),
        )
        yield Ratio(
            name=f"inversion + decoding / their own network calls, batch {batch_size}",
            measured=statistics.median(shares),
            goal=GOAL,
            at_most=True,
            detail=f"the same stages; {min(shares):.3f} to {max(shares):.3f}",
        )


def watched(shares: list[float], count: int, batch_size: int) -> None:
    """Run the stages, and note their time over that of the network in them."""
    with clock() as network_calls:
        whole = seconds(lambda: stages(count, batch_size))
    shares.append(whole / sum(network_calls))


@contextmanager
def clock() -> Iterator[list[float]]:
    """Time every call of the network; on a CPU a call returns when it is done."""
    module: Any = network()
    started, taken = [0.0], list[float]()

    def start(*_: object) -> None:
        started[0] = time.perf_counter()

    def stop(*_: object) -> None:
        taken.append(time.perf_counter() - started[0])

    hooks = (
        module.network.register_forward_pre_hook(start),
        module.network.register_forward_hook(stop),
    )
    try:
        yield taken
    finally:
        for hook in hooks:
            hook.remove()


def stages(count: int, batch_size: int) -> None:
    """Invert and decode `count` images as a run does."""
    codec, few_shot = frozen_model().codec(default_solver()), galaxies()
    trainer = functools.partial(lightning.Trainer, accelerator="cpu", devices=1)
    with tempfile.TemporaryDirectory() as folder:
        latents = Artifact(Path(folder), "inversion", {}, count, tuple(few_shot[0].shape))
        images = Artifact(Path(folder), "images", {}, count, latents.shape)
        compute(
            Inversion(codec, at=[STEP], names=[str(i) for i in range(count)]),
            few_shot,
            {str(STEP): latents},
            trainer=trainer,
            batch_size=batch_size,
        )
        compute(
            Synthesis(codec, level=STEP, eta=0.0, clip_x_0=False, seed=0),
            Items(latents.open()),
            {"images": images},
            trainer=trainer,
            batch_size=batch_size,
        )
