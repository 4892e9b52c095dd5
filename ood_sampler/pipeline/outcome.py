"""Results of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from ood_sampler.metrics.attribution import Attribution
from ood_sampler.metrics.judges import Described
from ood_sampler.pipeline.explored import Explored
from ood_sampler.pipeline.film import Film
from ood_sampler.pipeline.measure import Row
from ood_sampler.pipeline.session import StageRecord
from ood_sampler.store.sets import TensorSet


@dataclass(frozen=True)
class Samples:
    """Generated images.

    Attributes:
        images: the finite ones.
        numbers: their indices among all.
        described: their features and thumbnails, for metrics.
    """

    images: TensorSet
    numbers: Sequence[int]
    described: Described


@dataclass(frozen=True)
class Outcome:
    """All results of a run.

    Attributes:
        near_copies: whether each sample is a near-copy.
        attribution: the few-shot images that explain each sample best.
        explored: what is known of single samples.
        film: frames of a few inversions and decodings; None if there are none.
        numbers: indices of the samples among all drawn.
        originals: the few-shot images that were reconstructed.
        autoencoder: errors of the autoencoder alone, as `reconstruction`; empty without one.
        left_out: a sentence per item left out because the network returned NaN or infinity.
        remarks: of the strategy about its fit, a sentence each.
        weights: checksum of the frozen network in memory before and after the run.
    """

    rows: list[Row]
    reconstruction: dict[str, list[float]]
    nearest_distance: dict[str, list[float]]
    nearest_index: list[int]
    near_copies: list[bool]
    attribution: Attribution
    explored: Explored
    film: Film | None
    stages: list[StageRecord]
    images: TensorSet
    numbers: Sequence[int]
    originals: TensorSet
    reconstructions: TensorSet
    autoencoder: dict[str, list[float]]
    in_domain: TensorSet
    left_out: Sequence[str]
    remarks: Sequence[str]
    weights: tuple[str, str]
