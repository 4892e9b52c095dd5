"""Samples of a model compared with its own domain and with the target, judge by judge."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ood_sampler.metrics.comparison import kernel_difference
from ood_sampler.metrics.judges import Described, Judge
from ood_sampler.metrics.opinions import together
from ood_sampler.pipeline.keys import selected
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.statistics.intervals import normal_interval
from ood_sampler.store.artifacts import Artifact, Items
from ood_sampler.studies.rows import bounds


def of_another_seed(pipeline: Pipeline) -> Pipeline:
    """The same run with other noise."""
    return replace(pipeline, settings=replace(pipeline.settings, seed=pipeline.settings.seed + 1))


def _own_features(pipeline: Pipeline, judge: Judge) -> Path | None:
    """Stored features of real images of the model's own domain."""
    return pipeline.model.in_domain_file(judge.extractor.name)


def needs_own_samples(pipeline: Pipeline) -> bool:
    """Whether samples of another seed stand for the model's own domain before a judge."""
    return any(_own_features(pipeline, judge) is None for judge in pipeline.judges)


@dataclass(frozen=True)
class Original:
    """What sets of samples are compared with, as each judge sees it.

    Attributes:
        pipeline: whose judges they are.
        own: features of the model's own domain by judge, shape (M, D).
        reference: what those of the headline are of.
        few_shot: the few-shot images.
        held_out: the held-out images.
    """

    pipeline: Pipeline
    own: Mapping[str, Tensor]
    reference: str
    few_shot: Described
    held_out: Described

    @classmethod
    def of(cls, pipeline: Pipeline) -> "Original":
        """Stored features of the model's own domain, or samples of another seed."""
        made = dict[str, Tensor]()
        if needs_own_samples(pipeline):
            other = of_another_seed(pipeline)
            images = from_noise(other)
            made |= features(other, "in-domain sample of another seed", images).features
        headline = _own_features(pipeline, pipeline.judges.headline)
        return cls(
            pipeline=pipeline,
            own=pipeline.in_domain_references(made),
            reference="samples of another seed" if headline is None else "real images",
            few_shot=pipeline.few_shot,
            held_out=pipeline.held_out,
        )

    def row(self, method: str, noise: Described, samples: Described) -> dict[str, Any]:
        """Columns about samples from noise and those made for the target."""
        return {
            "method": method,
            "samples": len(noise),
            "reference": self.reference,
            **self._of_all(lambda judge: self._figures(judge, noise, samples)),
        }

    def differences(self, strayed: Described, own: Described, made: Described) -> dict[str, Any]:
        """Difference of KIDs, in-domain and to the target, of a fine-tuned model and the frozen."""

        def found(judge: Judge) -> dict[str, float]:
            tuned, frozen, new = (each.features[judge.name] for each in (strayed, own, made))
            held_out = self.held_out.features[judge.name]
            damage = normal_interval(*kernel_difference(tuned, frozen, self.own[judge.name]))
            cost = normal_interval(*kernel_difference(tuned, new, held_out))
            return {**bounds("damage", damage), **bounds("cost", cost)}

        return self._of_all(found)

    def _of_all(self, figures: Callable[[Judge], Mapping[str, Any]]) -> dict[str, Any]:
        return together({judge.name: figures(judge) for judge in self.pipeline.judges})

    def _figures(self, judge: Judge, noise: Described, samples: Described) -> dict[str, Any]:
        name = judge.name
        new = samples.features[name]
        sets = {
            "generated": new,
            "new": new,
            "few_shot": self.few_shot.features[name],
            "held_out": self.held_out.features[name],
        }
        own = {"generated": noise.features[name], "held_out": self.own[name]}
        in_domain = judge.figures(own, only=("fid", "kid"))
        target = judge.figures(sets, only=("fid", "kid", "prdc", "authenticity", "near_copies"))
        found = {f"in_domain_{key}": value for key, value in in_domain.items()} | target
        return {key: value for key, value in found.items() if not isinstance(value, Tensor)}


def from_noise(run: Pipeline) -> Artifact:
    """Samples of the model of a run from pure noise."""
    run.session.obtain(run.in_domain)
    images: Artifact = run.in_domain.output
    return images


def features(pipeline: Pipeline, what: str, images: Artifact) -> Described:
    """Finite images as the judges see them."""
    kept = pipeline.finite(images.open(), what)
    return pipeline.describe(what, Items(selected(images.open(), kept)), images.digest, kept)


def identical(images: Artifact, others: Artifact) -> float:
    """Share of the items that are equal in all bits."""
    pairs = zip(images.open().blocks(), others.open().blocks(), strict=True)
    equal = [(a == b).flatten(1).all(1) for a, b in pairs]
    return float(torch.cat(equal).double().mean())
