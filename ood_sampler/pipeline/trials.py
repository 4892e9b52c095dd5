"""Trials of a search: latents of the images to fit, and the comparison with the validation part."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor

from ood_sampler.metrics.authenticity import authenticity
from ood_sampler.metrics.comparison import kernel_difference
from ood_sampler.metrics.judges import Judge
from ood_sampler.metrics.kernel import KernelEstimate, kernel_distance
from ood_sampler.pipeline.choice import Trial
from ood_sampler.pipeline.keys import label
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.pipeline.session import StageRecord
from ood_sampler.statistics.band import Point, Thresholds, ranked
from ood_sampler.statistics.intervals import difference_interval, interval
from ood_sampler.statistics.resampling import Interval

METRICS = ("kid", "authenticity", "near_copies")
"""Metrics that decide, beside the captured fraction where a model has a domain of its own."""


@dataclass(frozen=True)
class Tried:
    """A candidate that was tried.

    Attributes:
        trial: its result.
        run: the candidate.
        features: of its samples, as the judge that decides sees them.
    """

    trial: Trial
    run: Pipeline
    features: Tensor


def _in_doubt(point: Point, count: int) -> Point:
    r"""A point whose retention and novelty are $\sqrt{p (1 - p) / n}$ higher, one standard error.

    Few samples miss a threshold by chance; only what misses it beyond that is discarded.
    """

    def higher(share: float) -> float:
        return min(1.0, share + math.sqrt(max(share * (1 - share), 0.0) / count))

    return replace(point, retention=higher(point.retention), novelty=higher(point.novelty))


@dataclass(frozen=True)
class TrialJudge:
    """Compare candidates with the validation part; held-out images stay unused.

    Attributes:
        headline: the judge that decides.
        few_shot: features of all few-shot images, shape $(N, D)$.
        in_domain: features of the model's own domain, by judge; empty if it has none.
        fit: indices of the few-shot images that candidates are fitted to.
        validation: indices of those that they are compared with.
        thresholds: conditions for a usable candidate, as shares of what real images reach.
    """

    headline: Judge
    few_shot: Tensor
    in_domain: Mapping[str, Tensor]
    fit: Sequence[int]
    validation: Sequence[int]
    thresholds: Thresholds

    def tried(self, run: Pipeline) -> Tried:
        """Make the samples of a candidate and compare them."""
        features = run.sampled().described.headline
        settings = run.settings
        point = self.point(settings.step, features)
        trial = Trial(
            settings.step,
            label(run.sampler),
            len(features),
            point,
            self.relative.passed(_in_doubt(point, len(features))),
            run.correction_weight,
            settings.eta,
            settings.temperature,
            settings.shift,
        )
        return Tried(trial, run, features)

    def point(self, step: int, features: Tensor) -> Point:
        judge = self.headline
        fit, validating = self._few_shot(self.fit), self._few_shot(self.validation)
        sets = {
            "generated": features,
            "new": features,
            "few_shot": fit,
            "held_out": validating,
        }
        asked = list(METRICS)
        if self.in_domain:
            sets["in_domain"] = self.in_domain[judge.name]
            asked.append("captured")
        found = judge.figures(sets, only=asked)
        copies = interval(found, "near_copies")
        return Point(
            step=step,
            # without a domain of its own a model captures nothing
            retention=1 - float(found.get("captured", 0)),
            novelty=float(found["authenticity"]),
            distance=float(found["kid"]),
            error=float(found["kid_standard_error"]),
            near_copies=copies.value,
            excess=difference_interval(copies, self._usual_copies).low,
        )

    def _few_shot(self, part: Sequence[int]) -> Tensor:
        return self.few_shot[part]

    @cached_property
    def _usual_copies(self) -> Interval:
        """Share of near-copies in the validation part, whose images are new."""
        validating = self._few_shot(self.validation)
        sets = {"new": validating, "few_shot": self._few_shot(self.fit), "held_out": validating}
        judge = self.headline
        return interval(judge.figures(sets, only=("near_copies",)), "near_copies")

    @cached_property
    def floor(self) -> float:
        """Distance of real images to the validation part."""
        return float(kernel_distance(self._few_shot(self.fit), self._few_shot(self.validation)))

    @cached_property
    def relative(self) -> Thresholds:
        """Thresholds scaled by what real images, new to the fit part, reach."""
        # retention of the fit part, as an image of the validation part is its own neighbour
        kept = self.point(0, self._few_shot(self.fit)).retention
        new = float(authenticity(self._few_shot(self.validation), self._few_shot(self.fit)))
        return self.thresholds.relative_to(retention=kept, novelty=new)

    def order(self, found: Sequence[Tried]) -> list[int]:
        """Indices of candidates: usable ones as `ranked`, then the others, by how much they miss.

        All are compared with the same validation part, whose chance cancels in the errors of their
        differences.
        """
        usable = [i for i, each in enumerate(found) if each.trial.usable]
        others = [i for i, each in enumerate(found) if not each.trial.usable]

        def error(i: int, j: int) -> float:
            first, second = (found[usable[k]] for k in (i, j))
            return float(self._difference(first, second).standard_error)

        best = ranked([found[i].trial.point for i in usable], floor=self.floor, error=error)
        others.sort(key=lambda i: self.relative.lack(found[i].trial.point))
        return [usable[i] for i in best] + others

    def _difference(self, first: Tried, second: Tried) -> KernelEstimate:
        """How much farther one candidate is from the validation part than another."""
        return kernel_difference(first.features, second.features, self._few_shot(self.validation))

    def better(self, variant: Tried, best: Tried) -> bool:
        """Whether a variant of the best candidate is usable and nearer beyond the error.

        If the best one is not usable, whether the variant lacks less.
        """
        if not best.trial.usable:
            lacks = [self.relative.lack(each.trial.point) for each in (variant, best)]
            return lacks[0] < lacks[1]
        if not variant.trial.usable or best.trial.point.distance <= self.floor:
            return False
        found = self._difference(variant, best)
        return float(found.value) < -float(found.standard_error)

    def remark(self, best: Trial, trials: Sequence[Trial]) -> str:
        """The choice in a sentence."""
        tried = len({trial.setting for trial in trials})
        usable = "" if best.usable else ", though no candidate was usable"
        return (
            f"chosen of {tried} combinations on {len(self.validation)} of the few-shot images, "
            f"not on the held-out ones: {best.words}{usable} (asked: retention of "
            f"{self.relative.retention:.2f}, novelty of {self.relative.novelty:.2f}, near-copies "
            f"not shown to exceed those of real images by more than "
            f"{self.relative.near_copies:g}; KID of real images {1e3 * self.floor:.1f}e-3)"
        )


@dataclass
class PartLatents:
    """Latents of the images to fit, inverted once for each flow.

    Along the flow of the model they are those of the whole set, which the run needs anyway. A
    corrected flow depends on the images, so that those to fit are inverted along one of their own.

    Attributes:
        whole: the run of all few-shot images along the flow of the model.
        fit: indices of the images to fit.
        steps: of the latents.
        evaluations: of the network, for latents that only the search needs.
    """

    whole: Pipeline
    fit: Sequence[int]
    steps: Sequence[int]
    evaluations: int = 0
    _inverted: set[float] = field(default_factory=set)

    def give(self, run: Pipeline) -> None:
        """Make the latents of a candidate."""
        weight = run.correction_weight
        if weight not in self._inverted:
            self._inverted.add(weight)
            self._invert(run)
        if not run.is_of_few_shot:
            self._copy(run)

    def _invert(self, run: Pipeline) -> None:
        session = self.whole.session
        if not run.is_of_few_shot:
            session.obtain(self.whole.inversion)
            return
        node = replace(run, also=self.steps).inversion
        each, stages = node.cost(node.outputs), list[StageRecord]()
        self.evaluations += len(self.fit) * each
        replace(session, stages=stages).obtain(node)
        session.stages.append(joined("search, invert", node.count, stages, evaluations=each))

    def _copy(self, part: Pipeline) -> None:
        """Copy latents from the run of the whole set to that of a part."""
        step = str(part.settings.step)
        latents = self.whole.inversion.outputs[step].open()
        copy = part.inversion.outputs[step]
        for shard in copy.missing():
            first = shard * copy.shard
            copy.write(shard, latents.take(self.fit[first : first + copy.expected(shard)]))


def joined(
    name: str, images: int, stages: Sequence[StageRecord], *, evaluations: int = 0
) -> StageRecord:
    """Join stages to one; 0 evaluations where they differ from image to image."""
    seconds = sum(stage.seconds for stage in stages)
    return StageRecord(name, images, evaluations, seconds, all(s.cached for s in stages))
