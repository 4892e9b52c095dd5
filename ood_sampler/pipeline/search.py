"""Choose the step and the strategy of a run on the few-shot images alone."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ood_sampler.data.domain import Part
from ood_sampler.metrics.authenticity import authenticity
from ood_sampler.metrics.judges import Described, Judge
from ood_sampler.metrics.kernel import kernel_distance
from ood_sampler.pipeline.choice import Choice, Trial
from ood_sampler.pipeline.estimate import Work
from ood_sampler.pipeline.keys import label
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.pipeline.session import StageRecord
from ood_sampler.samplers.base import Sampler
from ood_sampler.statistics.band import Point, Thresholds, ranked
from ood_sampler.statistics.intervals import difference_interval, interval
from ood_sampler.statistics.resampling import Interval
from ood_sampler.store.node import Node

log = logging.getLogger(__name__)

AUTO = "auto"
"""Value of a setting that the search chooses."""

_FEWEST = 16
"""Fewest images of the validation part for a meaningful kernel distance."""


@dataclass(frozen=True)
class Candidates:
    """Named strategies to choose from, in the place of a run's strategy."""

    samplers: Mapping[str, Sampler]

    def __post_init__(self) -> None:
        if not self.samplers:
            raise ValueError("sampler.samplers must name at least one strategy, got none")


class Search:
    r"""Successive halving (Jamieson & Talwalkar, 2016) over steps and strategies.

    The few-shot images are split. Candidates are fitted to one part and ranked by the KID of their
    samples to the other; candidates with equal KID, within errors, are ranked by near-copies and
    novelty (`ranked`), and none counts as nearer than real images. A candidate is usable if it
    keeps the target domain and makes new images: retention (1 minus the captured fraction) and
    authenticity must be at least the stated shares of the validation part's own, and near-copies
    must not exceed those of the validation part beyond doubt. After each round the best usable
    candidates go on with more samples, or those that miss least if none is usable. Held-out images
    stay unused.

    Args:
        steps: inversion steps that `inversion.step=auto` tries.
        validation: share of the few-shot images that candidates are compared with, in (0, 1).
        samples: per candidate in each round, increasing.
        keep: share of the candidates that go on, in (0, 1).
        retention: least share of the validation part's own retention.
        novelty: least share of the validation part's own authenticity.
        near_copies: largest excess of near-copies over the share of the validation part: an upper
            limit for the lower bound (95%) of the difference.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        *,
        steps: Sequence[int],
        validation: float,
        samples: Sequence[int],
        keep: float,
        retention: float,
        novelty: float,
        near_copies: float,
    ) -> None:
        for name, share in (("validation", validation), ("keep", keep)):
            if not 0 < share < 1:
                raise ValueError(f"search.{name} must be in (0, 1), got {share}")
        if isinstance(steps, str) or not steps:
            raise ValueError(f"search.steps must be a list of steps, got {steps!r}")
        if not samples or list(samples) != sorted(set(samples)) or samples[0] < _FEWEST:
            raise ValueError(
                f"search.samples must increase from {_FEWEST} or more, got {list(samples)}"
            )
        self.steps = list(steps)
        self.validation = validation
        self.samples = list(samples)
        self.keep = keep
        self.thresholds = Thresholds(retention, novelty, near_copies)

    def split(self, count: int, *, seed: int) -> tuple[list[int], list[int]]:
        """Indices of the images to fit and to validate with.

        Raises:
            ValueError: there are too few images.
        """
        validating = round(self.validation * count)
        if min(validating, count - validating) < _FEWEST:
            raise ValueError(
                f"a search needs {_FEWEST} few-shot pictures to fit and as many to compare with, "
                f"got {count - validating} and {validating}: add pictures or raise data.few_shot, "
                "or set inversion.step and sampler by hand"
            )
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
        return sorted(order[validating:]), sorted(order[:validating])

    def check(
        self, pipeline: Pipeline, *, steps: Sequence[int], samplers: Sequence[Sampler]
    ) -> None:
        """Check, before any work, everything that would end the search.

        Raises:
            ValueError: there are too few few-shot images or samples, or a step or a strategy
                does not fit.
        """
        if pipeline.codec.schedule is not None:
            last = pipeline.codec.schedule.last_invertible
            for step in steps:
                if not 0 <= step <= last:
                    raise ValueError(f"search.steps must be in 0..{last}, got {step}")
        pipeline.judges.check({"search.samples": self.samples[0]})
        for run in self._candidates(pipeline, steps, samplers):
            run.check()

    def _candidates(
        self, pipeline: Pipeline, steps: Sequence[int], samplers: Sequence[Sampler]
    ) -> list[Pipeline]:
        fit, _ = self.split(len(pipeline.domain.few_shot), seed=pipeline.settings.seed)
        return [
            _candidate(pipeline, fit, step=step, sampler=sampler)
            for step in sorted(steps)
            for sampler in samplers
        ]

    def work(
        self, pipeline: Pipeline, *, steps: Sequence[int], samplers: Sequence[Sampler]
    ) -> list[Work]:
        """Network evaluations, at most, round by round."""
        candidates, before, work = len(steps) * len(samplers), 0, []
        largest = max(pipeline.codec.decoding_evaluations(step) for step in steps)
        for number, samples in enumerate(self.samples, start=1):
            new = _computed(samples, before, pipeline)
            work.append(Work(f"search {number}", candidates * new, largest))
            before, candidates = samples, max(1, round(self.keep * candidates))
        return work

    def targets(
        self, pipeline: Pipeline, *, steps: Sequence[int], samplers: Sequence[Sampler]
    ) -> list[Node]:
        """Latents of the model's own domain that candidates need, and of the images to fit.

        The images to fit have separate latents if these depend on the set.
        """
        runs = self._candidates(pipeline, steps, samplers)
        own = [run.in_domain_inversion for run in runs if run.in_domain_inversion is not None]
        return [*own, replace(runs[0], also=steps).inversion] if pipeline.is_of_few_shot else own

    def choose(
        self, pipeline: Pipeline, *, steps: Sequence[int], samplers: Sequence[Sampler]
    ) -> Choice:
        """Choose among all combinations.

        Args:
            pipeline: the run; its step and its strategy are ignored.
            steps: to choose from.
            samplers: to choose from.

        Raises:
            ValueError: as `check`.
        """
        self.check(pipeline, steps=steps, samplers=samplers)
        fit, validation = self.split(len(pipeline.domain.few_shot), seed=pipeline.settings.seed)
        runs = self._candidates(pipeline, steps, samplers)
        settings = replace(pipeline.settings, step=max(steps))
        inverted = replace(pipeline, also=steps, sampler=samplers[0], settings=settings)
        inverted.check()
        pipeline.session.obtain(inverted.inversion)
        if pipeline.is_of_few_shot:
            pipeline.session.obtain(replace(runs[0], also=steps).inversion)
        judge = _Judge(
            pipeline.judges.headline,
            pipeline.few_shot.headline,
            pipeline.in_domain_features,
            fit,
            validation,
            self.thresholds,
        )
        trials: list[Trial] = []
        spent, before = 0, 0
        for number, samples in enumerate(self.samples, start=1):
            found, stages = [], list[StageRecord]()
            for run in runs:
                run = replace(
                    run,
                    settings=replace(run.settings, num_samples=samples),
                    session=replace(run.session, stages=stages, left_out=[]),
                )
                if not pipeline.is_of_few_shot:
                    _copy_latents(inverted, run, fit)
                found.append((judge.trial(run, run.sampled().described), run))
                new = _computed(samples, before, run)
                spent += new * run.codec.decoding_evaluations(run.settings.step)
            found = [found[i] for i in judge.order([trial for trial, _ in found])]
            trials += [trial for trial, _ in found]
            before = samples
            pipeline.session.stages.append(_round(f"search {number}", len(found) * samples, stages))
            runs = [run for _, run in found[: max(1, round(self.keep * len(found)))]]
            log.info("search: %d samples each, ahead: %s", samples, _words(found[0][0]))
            if len(runs) == 1:
                break
        best = found[0][0]
        return Choice(best.step, runs[0].sampler, trials, spent, judge.remark(best, trials))


@dataclass(frozen=True)
class _Judge:
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

    def trial(self, run: Pipeline, samples: Described) -> Trial:
        point = self.point(run.settings.step, samples.headline)
        usable = self.relative.passed(point)
        return Trial(run.settings.step, label(run.sampler), len(samples), point, usable)

    def point(self, step: int, features: Tensor) -> Point:
        judge = self.headline
        fit, validating = self._few_shot(self.fit), self._few_shot(self.validation)
        sets = {
            "generated": features,
            "new": features,
            "few_shot": fit,
            "held_out": validating,
        }
        asked = ["kid", "authenticity", "near_copies"]
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

    def order(self, trials: Sequence[Trial]) -> list[int]:
        """Indices of trials: usable ones as `ranked`, then the others, by how much they miss."""
        usable = [i for i, trial in enumerate(trials) if trial.usable]
        others = [i for i, trial in enumerate(trials) if not trial.usable]
        best = ranked([trials[i].point for i in usable], floor=self.floor)
        others.sort(key=lambda i: self.relative.lack(trials[i].point))
        return [usable[i] for i in best] + others

    def remark(self, best: Trial, trials: Sequence[Trial]) -> str:
        """The choice in a sentence."""
        tried = len({(trial.step, trial.sampler) for trial in trials})
        usable = "" if best.usable else ", though no candidate was usable"
        return (
            f"chosen of {tried} combinations on {len(self.validation)} of the few-shot pictures, "
            f"not on the held-out ones: {_words(best)}{usable} (asked: retention of "
            f"{self.relative.retention:.2f}, novelty of {self.relative.novelty:.2f}, near-copies "
            f"not shown to exceed those of real pictures by more than "
            f"{self.relative.near_copies:g}; KID of real pictures {1e3 * self.floor:.1f}e-3)"
        )


def _words(trial: Trial) -> str:
    return (
        f"step {trial.step}, {trial.sampler}, KID {1e3 * trial.point.distance:.1f}e-3 ± "
        f"{1e3 * trial.point.error:.1f}e-3, retention {trial.point.retention:.2f}, novelty "
        f"{trial.point.novelty:.2f}, near-copies {trial.point.near_copies:.2f}"
    )


def _round(name: str, images: int, stages: Sequence[StageRecord]) -> StageRecord:
    """Join the stages of all candidates, whose evaluations per image differ between steps."""
    seconds = sum(stage.seconds for stage in stages)
    return StageRecord(name, images, 0, seconds, all(stage.cached for stage in stages))


def _computed(samples: int, before: int, run: Pipeline) -> int:
    """Samples to compute for so many: a shard that is not full is computed anew."""
    shard: int = run.samples.output.shard
    return samples - before // shard * shard


def _candidate(pipeline: Pipeline, fit: Sequence[int], *, step: int, sampler: Sampler) -> Pipeline:
    """The run of a candidate on the images to fit."""
    session, progress = pipeline.session, pipeline.session.progress
    return replace(
        pipeline.variant(step=step, sampler=sampler),
        domain=replace(pipeline.domain, few_shot=Part(pipeline.domain.few_shot, fit)),
        session=replace(session, progress=lambda name, images: progress(f"search, {name}", images)),
    )


def _copy_latents(whole: Pipeline, part: Pipeline, fit: Sequence[int]) -> None:
    """Copy latents from the run of the whole set to that of a part."""
    step = str(part.settings.step)
    latents = whole.inversion.outputs[step].open()
    copy = part.inversion.outputs[step]
    for shard in copy.missing():
        first = shard * copy.shard
        copy.write(shard, latents.take(fit[first : first + copy.expected(shard)]))
