"""What a run finds out about single images, in the space of the headline judge."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ood_sampler.metrics.authenticity import authentic
from ood_sampler.metrics.capture import captured, equal_sized
from ood_sampler.metrics.feature_sets import Neighbours
from ood_sampler.metrics.judges import Judges
from ood_sampler.metrics.single import realism, several_nearest
from ood_sampler.statistics.plane import Plane, principal_plane

NEIGHBOURS = 5
"""Few-shot images named beside each sample."""

KINDS = ("samples", "few_shot", "held_out", "in_domain")
"""Sets of images in the plane of features; the last is missing where there is no own domain."""


@dataclass(frozen=True)
class Explored:
    """What is known of single samples, and where images of all sets lie.

    Attributes:
        neighbours: the nearest few-shot images of each sample and their distances, shape (N, 5).
        realism: of each sample; those of 1 and more count as precise.
        captured: whether each sample lies among the model's own domain; none if it has none.
        authentic: whether each sample is.
        plane: the images of `KINDS` in the plane of largest variance.
    """

    neighbours: Neighbours
    realism: Tensor
    captured: Tensor
    authentic: Tensor
    plane: Plane


def explored(
    judges: Judges, features: Mapping[str, Tensor], *, in_domain: Tensor | None
) -> Explored:
    """Describe single images.

    Args:
        judges: of the run.
        features: of the headline judge, by `KINDS`.
        in_domain: features that stand for the model's own domain when it captures samples; None
            if it has none.
    """
    samples, few_shot, held_out = (features[kind] for kind in KINDS[:3])
    found = torch.zeros(len(samples), dtype=torch.bool)
    if in_domain is not None:
        references = equal_sized(in_domain, held_out, seed=judges.seed)
        found = captured(samples, *references, nearest_k=judges.nearest_k)
    return Explored(
        neighbours=several_nearest(samples, few_shot, count=NEIGHBOURS),
        realism=realism(samples, held_out, nearest_k=judges.nearest_k),
        captured=found,
        authentic=authentic(samples, few_shot),
        plane=principal_plane([features[kind] for kind in KINDS if kind in features]),
    )
