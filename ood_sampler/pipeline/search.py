"""Choose step, strategy and flow of a run on the few-shot images alone."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ood_sampler.codecs.autoencoder import AutoencoderCodec
from ood_sampler.codecs.base import Codec
from ood_sampler.codecs.diffusion import DiffusionCodec
from ood_sampler.codecs.few_shot import FewShotCodec
from ood_sampler.data.domain import Part
from ood_sampler.pipeline.choice import Choice
from ood_sampler.pipeline.correction import GaussianCorrection
from ood_sampler.pipeline.estimate import Work
from ood_sampler.pipeline.pipeline import Pipeline, check_codec
from ood_sampler.pipeline.session import StageRecord
from ood_sampler.pipeline.trials import METRICS, PartLatents, TrialJudge, Tried, joined
from ood_sampler.samplers.base import GaveUpError, Sampler
from ood_sampler.statistics.band import Thresholds
from ood_sampler.store.node import Node

log = logging.getLogger(__name__)

AUTO = "auto"
"""Value of a setting that the search chooses."""

Correction = GaussianCorrection | None
"""Correction of a flow; None is the flow of the model."""

_FEWEST = 16
"""Fewest images of the validation part for a meaningful kernel distance."""


@dataclass(frozen=True)
class Candidates:
    """Named strategies to choose from, in the place of a run's strategy."""

    samplers: Mapping[str, Sampler]

    def __post_init__(self) -> None:
        if not self.samplers:
            raise ValueError("sampler.samplers must name at least one strategy, got none")


@dataclass(frozen=True)
class Flows:
    """Named corrections to choose from, in the place of a run's; None is the model's own flow."""

    corrections: Mapping[str, Correction]

    def __post_init__(self) -> None:
        weights = [0.0 if c is None else float(c.weight) for c in self.corrections.values()]
        if not weights or len(set(weights)) < len(weights):
            raise ValueError(
                "correction.corrections must name at least one flow, each with a weight of its "
                f"own (none has 0), got {dict(zip(self.corrections, weights, strict=True))}"
            )


def asked_flows(correction: Flows | Correction) -> list[Correction]:
    """The correction of a run, or those to choose from."""
    return list(correction.corrections.values()) if isinstance(correction, Flows) else [correction]


def fitting_flows(codec: Codec, corrections: Sequence[Correction]) -> list[Correction]:
    """Corrections that a model can use, its own flow first; a single one is kept in any case."""
    if len(corrections) == 1:
        return list(corrections)
    fitting = [c for c in corrections if c is None or _can_correct(codec, c)]
    return sorted(fitting or corrections, key=lambda c: c is not None)


def _can_correct(codec: Codec, correction: GaussianCorrection) -> bool:
    while isinstance(codec, AutoencoderCodec):
        codec = codec.inside
    if not isinstance(codec, DiffusionCodec) or isinstance(codec, FewShotCodec):
        return False
    return correction.fade < codec.schedule.T - 1


class Search:
    r"""Successive halving (Jamieson & Talwalkar, 2016) over steps, strategies and flows.

    The few-shot images are split. Candidates are fitted to one part and ranked by the KID of their
    samples to the other; candidates with equal KID, within errors, are ranked by near-copies and
    novelty (`ranked`), and none counts as nearer than real images. A candidate is usable if it
    keeps the target domain and makes new images: retention (1 minus the captured fraction) and
    authenticity must be at least the stated shares of the validation part's own, or miss them by no
    more than one standard error, and near-copies must not exceed those of the validation part
    beyond doubt. After each round the best usable
    candidates go on with more samples, or those that miss least if none is usable. Held-out images
    stay unused.

    The winner is then varied in one setting at a time, each of which costs no more evaluations a
    sample. The nearest variant takes its place if it is usable and nearer by more than one standard
    error of the difference.

    Args:
        steps: inversion steps that `inversion.step=auto` tries.
        validation: share of the few-shot images that candidates are compared with, in (0, 1).
        samples: per candidate in each round, increasing.
        keep: share of the candidates that go on, in (0, 1).
        retention: least share of the validation part's own retention.
        novelty: least share of the validation part's own authenticity.
        near_copies: largest excess of near-copies over the share of the validation part: an upper
            limit for the lower bound (95%) of the difference.
        etas: noise of decoding that the winner is varied in, if the solver can add it.
        temperatures: of its draws.
        shifts: of its first move of decoding, where the model has the step that they lead to.

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
        etas: Sequence[float] = (),
        temperatures: Sequence[float] = (),
        shifts: Sequence[int] = (),
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
        for name, values in (("etas", etas), ("temperatures", temperatures)):
            if not all(value > 0 for value in values):
                raise ValueError(f"search.{name} must all be > 0, got {list(values)}")
        self.steps = list(steps)
        self.validation = validation
        self.samples = list(samples)
        self.keep = keep
        self.thresholds = Thresholds(retention, novelty, near_copies)
        self.etas = list(etas)
        self.temperatures = list(temperatures)
        self.shifts = list(shifts)

    def split(self, count: int, *, seed: int) -> tuple[list[int], list[int]]:
        """Indices of the images to fit and to validate with.

        Raises:
            ValueError: there are too few images.
        """
        validating = round(self.validation * count)
        if min(validating, count - validating) < _FEWEST:
            raise ValueError(
                f"a search needs {_FEWEST} few-shot images to fit and as many to compare with, "
                f"got {count - validating} and {validating}: add images or raise data.few_shot, "
                "or set inversion.step and sampler by hand"
            )
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
        return sorted(order[validating:]), sorted(order[:validating])

    def check(
        self,
        pipeline: Pipeline,
        *,
        steps: Sequence[int],
        samplers: Sequence[Sampler],
        corrections: Sequence[Correction] = (),
    ) -> None:
        """Check, before any work, everything that would end the search.

        Raises:
            ValueError: there are too few few-shot images or samples, a step or a strategy does not
                fit, or a metric that decides is switched off.
        """
        for name in METRICS + (("captured",) if pipeline.model.has_own_domain else ()):
            if name not in pipeline.judges.headline.metrics:
                raise ValueError(
                    f"the search decides by the metric {name}: leave metrics.collection.{name} "
                    "switched on, or set inversion.step and sampler by hand"
                )
        if pipeline.codec.schedule is not None:
            last = pipeline.codec.schedule.last_invertible
            for step in steps:
                if not 0 <= step <= last:
                    raise ValueError(f"search.steps must be in 0..{last}, got {step}")
        pipeline.judges.check({"search.samples": self.samples[0]})
        for run in self._candidates(pipeline, steps, samplers, corrections):
            run.check()

    def _candidates(
        self,
        pipeline: Pipeline,
        steps: Sequence[int],
        samplers: Sequence[Sampler],
        corrections: Sequence[Correction] = (),
    ) -> list[Pipeline]:
        fit, _ = self.split(len(pipeline.domain.few_shot), seed=pipeline.settings.seed)
        return [
            _candidate(replace(pipeline, correction=flow), fit, step=step, sampler=sampler)
            for flow in corrections or [pipeline.correction]
            for step in sorted(steps)
            for sampler in samplers
        ]

    def _going_on(self, candidates: int) -> int:
        return max(1, round(self.keep * candidates))

    def work(
        self,
        pipeline: Pipeline,
        *,
        steps: Sequence[int],
        samplers: Sequence[Sampler],
        corrections: Sequence[Correction] = (),
    ) -> list[Work]:
        """Network evaluations for samples, at most, round by round."""
        candidates = len(steps) * len(samplers) * max(1, len(corrections))
        before, work = 0, []
        largest = max(pipeline.codec.decoding_evaluations(step) for step in steps)
        for number, samples in enumerate(self.samples, start=1):
            new = _computed(samples, before, pipeline)
            work.append(Work(f"search {number}", candidates * new, largest))
            before, candidates = samples, self._going_on(candidates)
        varied = [self.variants(pipeline.variant(step=step)) for step in steps]
        most = max(len(variants) for variants in varied)
        if most:
            each = max(_evaluations(run) for variants in varied for run in variants)
            work.append(Work("search, variants", most * self.samples[-1], each))
        return work

    def targets(
        self,
        pipeline: Pipeline,
        *,
        steps: Sequence[int],
        samplers: Sequence[Sampler],
        corrections: Sequence[Correction] = (),
    ) -> list[Node]:
        """Latents that the search needs, and those that the run may need after it.

        Those of the model's own domain, where a strategy asks for them, and of the few-shot images
        along the model's flow; along each corrected flow of the images to fit, and of all images at
        the noisiest step.
        """
        runs = self._candidates(pipeline, steps, samplers, corrections)
        nodes = [run.in_domain_inversion for run in runs if run.in_domain_inversion is not None]
        for flow in corrections or [pipeline.correction]:
            whole = _whole(replace(pipeline, correction=flow), steps)
            if whole.is_of_few_shot:
                (first, *_) = (run for run in runs if run.correction is flow)
                nodes.append(replace(first, also=steps).inversion)
                nodes += [replace(whole, also=()).inversion] if len(corrections) > 1 else []
            elif corrections:
                nodes.append(whole.inversion)
        return nodes

    def variants(self, run: Pipeline) -> list[Pipeline]:
        """A run with other noise of decoding, temperature or shift, one of them at a time."""
        settings = run.settings
        changes = [{"eta": eta} for eta in self.etas if eta != settings.eta]
        changes += [{"temperature": t} for t in self.temperatures if t != settings.temperature]
        changes += [{"shift": shift} for shift in self.shifts if shift != settings.shift]
        found = [run.variant(**change) for change in changes]  # type: ignore[arg-type]
        return [each for each in found if _decodes(each)]

    def choose(
        self,
        pipeline: Pipeline,
        *,
        steps: Sequence[int],
        samplers: Sequence[Sampler],
        corrections: Sequence[Correction] = (),
    ) -> Choice:
        """Choose among all combinations.

        Args:
            pipeline: the run; its step and its strategy are ignored.
            steps: to choose from.
            samplers: to choose from.
            corrections: of the flow, to choose from; none takes that of the run.

        Raises:
            ValueError: as `check`.
            GaveUpError: all candidates gave up.
        """
        self.check(pipeline, steps=steps, samplers=samplers, corrections=corrections)
        fit, validation = self.split(len(pipeline.domain.few_shot), seed=pipeline.settings.seed)
        whole = replace(_whole(pipeline.plain, steps), sampler=samplers[0])
        whole.check()
        judge = TrialJudge(
            pipeline.judges.headline,
            pipeline.few_shot.headline,
            pipeline.in_domain_features,
            fit,
            validation,
            self.thresholds,
        )
        trying = _Trying(pipeline, judge, PartLatents(whole, fit, steps))
        runs, before = self._candidates(pipeline, steps, samplers, corrections), 0
        found: list[Tried] = []
        for number, samples in enumerate(self.samples, start=1):
            tried = trying.all_of(f"search {number}", runs, samples, before)
            if trying.gave_up is not None and not (tried or found):
                raise trying.gave_up
            # where all give up with more samples, those of the round before remain
            found = tried or found
            log.info("search: %d samples each, ahead: %s", samples, found[0].trial.words)
            before, runs = samples, [each.run for each in found[: self._going_on(len(found))]]
            if len(runs) == 1:
                break
        best = found[0]
        variants = self.variants(best.run)
        if variants:
            varied = trying.all_of("search, variants", variants, before, 0)
            best = next((each for each in varied if judge.better(each, best)), best)
        return _choice(best, trying)


class _Trying:
    """Try candidates, and keep what was found and what it cost.

    Args:
        pipeline: the run, whose record gets a line for each round.
        judge: of the candidates.
        latents: gives them the latents of the images to fit.
    """

    def __init__(self, pipeline: Pipeline, judge: TrialJudge, latents: PartLatents) -> None:
        self.session = pipeline.session
        self.judge = judge
        self.latents = latents
        self.found: list[Tried] = []
        self.spent = 0
        self.gave_up: GaveUpError | None = None

    def all_of(self, name: str, runs: Sequence[Pipeline], samples: int, before: int) -> list[Tried]:
        """Try candidates with so many samples, of which some may be there; the best come first."""
        found, stages = [], list[StageRecord]()
        for run in runs:
            run = replace(
                run,
                settings=replace(run.settings, num_samples=samples),
                session=replace(run.session, stages=stages, left_out=[]),
            )
            self.latents.give(run)
            try:
                found.append(self.judge.tried(run))
            except GaveUpError as error:
                # another candidate may not
                self.gave_up = error
                self.session.left_out.append(f"{name}: {run.title} was left out: {error}")
                continue
            self.spent += _computed(samples, before, run) * _evaluations(run)
        found = [found[i] for i in self.judge.order(found)]
        self.found += found
        self.session.stages.append(joined(name, len(found) * samples, stages))
        return found


def _choice(best: Tried, trying: _Trying) -> Choice:
    trials = [each.trial for each in trying.found]
    settings = best.run.settings
    return Choice(
        settings.step,
        best.run.sampler,
        trials,
        trying.spent,
        trying.judge.remark(best.trial, trials),
        correction=best.run.correction,
        eta=settings.eta,
        temperature=settings.temperature,
        shift=settings.shift,
        inverting=trying.latents.evaluations,
    )


def _whole(pipeline: Pipeline, steps: Sequence[int]) -> Pipeline:
    """The run of all few-shot images with latents at all steps."""
    return replace(pipeline, also=steps, settings=replace(pipeline.settings, step=max(steps)))


def _evaluations(run: Pipeline) -> int:
    """Network evaluations for a sample."""
    return run.codec.decoding_evaluations(run.settings.decoding_step)


def _decodes(run: Pipeline) -> bool:
    """Whether model and solver can decode with the settings of a run."""
    try:
        check_codec(run.codec, run.settings, (), resolution=run.model.resolution)
    except ValueError:
        return False
    return True


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
