"""Metrics on stored features against the packages that define them."""

import contextlib
import io
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator

from cleanfid.fid import fid_from_feats
from prdc import compute_prdc
from torch import Tensor

from experiments.bench.prdc_memory import NEAREST_K, VECTORS, features
from experiments.bench.table import Ratio, in_turn
from ood_sampler.metrics.features import EmbeddedFeatures, InceptionFeatures
from ood_sampler.metrics.frechet import infinitesimal_jackknife
from ood_sampler.metrics.prdc import precision_recall_density_coverage

GIGABYTES = 1.0
"""Of a process that computes PRDC, all of it."""


def measure() -> Iterator[Ratio]:
    """Yield the memory and time of PRDC, and the time of FID in both feature spaces."""
    yield prdc_memory()
    yield prdc_time()
    yield frechet_time(EmbeddedFeatures.width, pairs=9)
    yield frechet_time(InceptionFeatures.width, pairs=2)


def prdc_memory() -> Ratio:
    """Peak memory of a process of its own."""
    told = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "experiments.bench.prdc_memory", str(EmbeddedFeatures.width)],
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = json.loads(told.stdout)
    return Ratio(
        name="peak memory of PRDC, GB",
        measured=after,
        goal=GIGABYTES,
        at_most=True,
        detail=f"the whole process; {before:.2f} GB before, with libraries and both sets of "
        f"{VECTORS} x {EmbeddedFeatures.width}",
    )


def prdc_time() -> Ratio:
    """Time against the package `prdc`."""
    real, generated = features(EmbeddedFeatures.width)

    def theirs() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            compute_prdc(real.numpy(), generated.numpy(), nearest_k=NEAREST_K)

    timed = in_turn(
        lambda: precision_recall_density_coverage(real, generated, nearest_k=NEAREST_K),
        theirs,
        pairs=3,
    )
    return Ratio(
        name="time of PRDC ours / prdc",
        measured=timed.ratio(),
        goal=1.0,
        at_most=True,
        detail=f"{VECTORS} against {VECTORS} of width {EmbeddedFeatures.width}, k = {NEAREST_K}; "
        + timed.detail("ours", "prdc"),
    )


def frechet_time(width: int, *, pairs: int) -> Ratio:
    """Time against clean-fid, from features to the distance."""
    real, generated = features(width)
    with warnings.catch_warnings():
        # clean-fid asks SciPy for a matrix root in a way that will go
        warnings.simplefilter("ignore", DeprecationWarning)
        timed = in_turn(
            lambda: frechet(real, generated),
            lambda: fid_from_feats(real.numpy(), generated.numpy()),
            pairs=pairs,
        )
    return Ratio(
        name=f"time of FID ours / clean-fid, width {width}",
        measured=timed.ratio(),
        goal=1.0,
        at_most=True,
        detail=f"{VECTORS} against {VECTORS}; " + timed.detail("ours", "clean-fid"),
    )


def frechet(real: Tensor, generated: Tensor) -> float:
    """FID as a run computes it."""
    return float(infinitesimal_jackknife(generated, real).value)
