"""What becomes of the model's own domain: frozen weights against fine-tuned ones."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ood_sampler.models.frozen import checksum
from ood_sampler.modules.adapters import AdapterTuning, check_installed
from ood_sampler.modules.finetuning import FineTuning, Tuned, finished
from ood_sampler.pipeline.estimate import Work
from ood_sampler.pipeline.keys import label
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Column, Row
from ood_sampler.statistics.decision import TOO_FEW, decide, order
from ood_sampler.statistics.intervals import interval
from ood_sampler.store.node import Node
from ood_sampler.studies.base import Measured, Study
from ood_sampler.studies.original import (
    Original,
    features,
    from_noise,
    identical,
    needs_own_samples,
    of_another_seed,
)
from ood_sampler.studies.rows import RunRows, by_run, too_few
from ood_sampler.studies.sweep import decoding
from ood_sampler.studies.tuned import anew, codec_of, fine_tuned, tuning_folder, with_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEFORE = "frozen, before"
AFTER = "frozen, after"
TUNED = "fine-tuned"
ADAPTED = "adapter"

_SHOWN = 5
"""Images of each method in the figure."""

STRIPS = (
    "frozen, from noise",
    "frozen, for the target",
    "fine-tuned, same noise",
    "adapter, same noise",
)
"""Rows of images, from top to bottom."""

_BACKWARD = 3
"""Cost of a training step per image, in network evaluations."""

_DIGITS = 12
"""Digits of a checksum that are shown."""

_COPIES = {TUNED: "fine-tuned model", ADAPTED: "model with an adapter"}
"""What makes the samples of each method that trains."""


class PreservationStudy(Study):
    """Does the model still make its own domain, and are its weights what they were?

    Three methods: the frozen model before anything was done; the same model, in the same process,
    after inverting, sampling the target domain and fine-tuning a copy, its samples decoded anew
    in every run, whatever is stored; and the copy. Each makes samples from the same pure noise,
    which are compared with the model's own domain. For the target domain, the frozen model after is
    judged by the samples of the run's strategy, the others by those from noise. With an adapter, a
    second copy, in which a low-rank update of each layer is trained, is a fourth method.

    The copy is trained on the error of what its network predicts: the noise, as in the paper, or
    the velocity or the image (`ood_sampler.modules.finetuning.DenoiserFineTuning`).

    Args:
        fine_tuning: how the copy is trained.
        adapter: how the adapter of a second copy is trained; None leaves it out.
    """

    adapter: AdapterTuning | None = None
    name = "preservation"
    title = "The original domain, before and after"
    needs = ("fid", "kid", "prdc", "authenticity", "near_copies")
    joins = None
    headings = (
        Column("method", "method"),
        Column("samples", "images", digits=0, meaning="Number of images of each set."),
        Column("reference", "own domain", meaning="What stands for the model's own domain."),
        Column(
            "in_domain_fid",
            "own FID",
            meaning="FID of samples from pure noise against the model's own domain (lower is "
            "better; biased upward for small sets, equally for all rows), with the 95% interval of "
            "its jackknife error.",
        ),
        Column(
            "in_domain_kid",
            "own KID × 10³",
            digits=2,
            scale=1e3,
            meaning="KID of the same samples, with the 95% interval of its jackknife error.",
        ),
        Column(
            "weights",
            "weights (SHA-256)",
            meaning="Begin of the SHA-256 over all parameters and buffers in memory.",
        ),
        Column(
            "identical",
            "identical",
            meaning="Share of the samples from noise that are bit for bit those of the frozen "
            "model before.",
        ),
        Column(
            "damage",
            "damage, KID × 10³",
            digits=2,
            scale=1e3,
            meaning="Own KID of the fine-tuned model less that of the frozen one (bootstrap "
            "interval).",
        ),
        Column("made_by", "target images by", meaning="What made the images for the target."),
        Column("fid", "target FID", meaning="FID against the held-out images."),
        Column(
            "kid",
            "target KID × 10³",
            digits=2,
            scale=1e3,
            meaning="KID against the held-out images, with its 95% interval.",
        ),
        Column(
            "cost",
            "less frozen, KID × 10³",
            digits=2,
            scale=1e3,
            meaning="Target KID of the fine-tuned model less that of the frozen one's strategy "
            "(bootstrap interval): above 0 where the frozen model is better.",
        ),
        Column("precision", "precision", digits=3),
        Column("recall", "recall", digits=3),
        Column(
            "authenticity",
            "authenticity",
            digits=3,
            meaning="Share of images farther from their nearest few-shot image than that is "
            "from its own nearest: 0 for copies (Alaa et al., 2022).",
        ),
        Column(
            "near_copies",
            "near-copies",
            digits=3,
            meaning="Share of images nearer to a few-shot image than 99% of held-out ones are.",
        ),
        Column(
            "best_step",
            "step kept",
            digits=0,
            meaning="Step of the fine-tuning at which the held-out loss was lowest.",
        ),
        Column("last_step", "steps trained", digits=0),
        Column(
            "stopped",
            "stopped early",
            meaning="Whether the held-out loss ended the training, and not the limit of its steps.",
        ),
        Column(
            "held_out_loss",
            "held-out loss",
            digits=4,
            meaning="Mean square error of what the network predicts (noise, velocity or image) "
            "on the held-out part of the few-shot images, with the same noise for all rows.",
        ),
    )

    def __init__(self, *, fine_tuning: FineTuning, adapter: AdapterTuning | None = None) -> None:
        self.fine_tuning = fine_tuning
        # as before there were adapters, so that runs without one keep their identity
        if adapter is not None:
            self.adapter = adapter

    @property
    def _tunings(self) -> dict[str, FineTuning]:
        """Settings of each copy, by its method."""
        adapted = {} if self.adapter is None else {ADAPTED: self.adapter}
        return {TUNED: self.fine_tuning, **adapted}

    def check(self, pipeline: Pipeline) -> None:
        super().check(pipeline)
        codec_of(pipeline)
        if self.adapter is not None:
            check_installed()
        few_shot = len(pipeline.domain.few_shot)
        for settings in self._tunings.values():
            settings.split(few_shot, seed=pipeline.settings.seed)

    def targets(self, pipeline: Pipeline) -> list[Node]:
        nodes = decoding(pipeline, [pipeline])
        if needs_own_samples(pipeline):
            nodes.append(replace(of_another_seed(pipeline).in_domain, of="another seed"))
        for method, settings in self._tunings.items():
            tuned = finished(tuning_folder(pipeline, settings))
            if tuned is not None:
                nodes.append(replace(with_weights(pipeline, tuned).in_domain, of=method))
        return nodes

    def unstored(self, pipeline: Pipeline) -> list[Work]:
        count = pipeline.settings.in_domain_count
        each = pipeline.in_domain.evaluations_each()
        work = [Work("in-domain after", count, each)]
        for method, settings in self._tunings.items():
            if finished(tuning_folder(pipeline, settings)) is None:
                name = "fine-tune" if method == TUNED else f"fine-tune, {method}"
                work += [
                    Work(name, settings.steps * settings.batch_size, _BACKWARD),
                    Work(f"in-domain, {method}", count, each),
                ]
        return work

    def measure(self, pipeline: Pipeline) -> Measured:
        original = Original.of(pipeline)
        weights = checksum(codec_of(pipeline).model.denoiser)
        before = from_noise(pipeline)
        made = pipeline.sampled().described
        copies = {
            method: fine_tuned(pipeline, settings) for method, settings in self._tunings.items()
        }
        damaged = {method: from_noise(other) for method, (other, _) in copies.items()}
        with anew(pipeline) as fresh:
            after = from_noise(fresh)
            same = identical(before, after)
            still = features(fresh, "sample from noise", after)
        own = features(pipeline, "sample from noise", before)
        frozen = {
            "weights": weights,
            "identical": None,
            "made_by": "pure noise",
            "held_out_loss": copies[TUNED][1].curve[0].validation,
        }
        rows = [
            {**original.row(BEFORE, own, own), **frozen},
            {
                **original.row(AFTER, still, made),
                **frozen,
                "weights": checksum(codec_of(pipeline).model.denoiser),
                "identical": same,
                "made_by": f"{label(pipeline.sampler)} at t = {pipeline.settings.step}",
            },
        ]
        for method, (other, tuned) in copies.items():
            strayed = features(other, f"sample of the {_COPIES[method]}", damaged[method])
            rows.append(
                {
                    **original.row(method, strayed, strayed),
                    **frozen,
                    "weights": checksum(codec_of(other).model.denoiser),
                    "identical": identical(before, damaged[method]),
                    **_training(tuned, self._tunings[method]),
                    **original.differences(strayed, own, made),
                    "curve": [list(look) for look in tuned.curve],
                    "fine_tuning": asdict(self._tunings[method]),
                }
            )
        about = self.about(pipeline)
        rows = [
            {**about, **row, "weights": row["weights"][:_DIGITS], "sha256": row["weights"]}
            for row in rows
        ]
        first = range(min(_SHOWN, pipeline.settings.num_samples))
        shown = (before, pipeline.samples.output, *damaged.values())
        images = zip(STRIPS, shown, strict=False)
        prefix = strips_of({row["method"]: row for row in rows})
        return Measured(
            rows, {f"{prefix}/{name}": made.open().take(first) for name, made in images}
        )

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        groups = runs_of(rows)
        sentences = [said for name, group in groups.items() for said in _told(name, group)]
        if len(groups) > 1:
            damages, costs = (
                [order(interval(group[TUNED], key)) for group in groups.values()]
                for key in ("damage", "cost")
            )
            domains = {(row["model"], row["domain"]) for row in rows}
            compared = f"{len(groups)} {'domains' if len(domains) == len(groups) else 'runs'}"
            sentences.append(
                f"Of {compared}, fine-tuning damages the original one beyond the errors "
                f"in {damages.count('higher')} and makes the target better than the frozen model "
                f"does in {costs.count('lower')}; it improves the original one in "
                f"{damages.count('lower')} and makes the target worse in {costs.count('higher')}; "
                f"{TOO_FEW} of the original one in {damages.count('unclear')}, of the target in "
                f"{costs.count('unclear')}."
            )
        return sentences

    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        from ood_sampler.studies.figures.preservation import draw

        return draw(rows, pictures)


def _training(tuned: Tuned, settings: FineTuning) -> dict[str, Any]:
    """Columns about the training of a copy."""
    return {
        "held_out_loss": tuned.best.validation,
        "best_step": tuned.best.step,
        "last_step": tuned.curve[-1].step,
        "stopped": settings.is_over(tuned.curve),
    }


def _told(name: str, group: RunRows) -> list[str]:
    """What became of the frozen model, of the original domain and of the target."""
    before = group[BEFORE]
    about = f"{before['model']} for {name}"
    told = [f"{about}: {_preserved(before, group[AFTER])}"]
    for method in (TUNED, ADAPTED):
        told += _of_copy(about, method, group) if method in group else []
    return told


def _of_copy(about: str, method: str, group: RunRows) -> list[str]:
    """What a copy makes of the original domain, and of the target."""
    before, after, tuned = group[BEFORE], group[AFTER], group[method]
    how = "fine-tuning"
    if method == ADAPTED:
        settings = tuned["fine_tuning"]
        how = f"an adapter of rank {settings['rank']}, alpha {settings['alpha']:g},"
    return [
        f"{about}: {how} (held-out loss {before['held_out_loss']:.4f} to "
        f"{tuned['held_out_loss']:.4f}, kept at step {tuned['best_step']} of "
        f"{tuned['last_step']}{_ended(tuned)}) takes the FID of the original domain from "
        f"{before['in_domain_fid']:.3g} to {tuned['in_domain_fid']:.3g}; "
        f"{_verdict(tuned, 'damage')}.",
        f"{about}: on the target, {how} has FID {tuned['fid']:.3g}, precision "
        f"{tuned['precision']:.2f}, recall {tuned['recall']:.2f} and authenticity "
        f"{tuned['authenticity']:.2f}, {after['made_by']} by the frozen model FID "
        f"{after['fid']:.3g}, {after['precision']:.2f}, {after['recall']:.2f} and "
        f"{after['authenticity']:.2f}; {_verdict(tuned, 'cost')}.",
    ]


def _ended(tuned: Row) -> str:
    """More of the training might help a copy that the limit of its steps stopped at its best."""
    if tuned["stopped"]:
        return ""
    improving = tuned["best_step"] == tuned["last_step"]
    return ", the limit: it was still improving" if improving else ", the limit"


def _verdict(row: Row, key: str) -> str:
    value, low, high = (1e3 * row[f"{key}{bound}"] for bound in ("", "_low", "_high"))
    verdict: str = order(interval(row, key))
    if verdict == "unclear":
        decision = decide(interval(row, key), most=0)
        verdict = f"within error, {too_few(decision.factor, row, count='samples')}"
    return f"KID × 10³ differs by {value:+.3g} ({low:+.3g} to {high:+.3g}: {verdict})"


def _preserved(before: Row, after: Row) -> str:
    same = before["sha256"] == after["sha256"]
    weights = (
        f"the frozen weights are unchanged (SHA-256 {before['weights']}…)"
        if same
        else f"the weights CHANGED from {before['weights']}… to {after['weights']}…"
    )
    count = round(after["identical"] * before["samples"])
    return (
        f"{weights} after inverting, sampling and fine-tuning a copy, and {count} of "
        f"{before['samples']} samples from noise are bit for bit those of before; FID of the "
        f"original domain {before['in_domain_fid']:.3g} before and {after['in_domain_fid']:.3g} "
        f"after (against {before['reference']})."
    )


def runs_of(rows: Sequence[Row]) -> dict[str, RunRows]:
    """Rows of each run, by its domain and what runs of a sweep differ in."""
    return by_run(
        rows, "method", lambda run: {"strategy": run[AFTER]["made_by"], **run[TUNED]["fine_tuning"]}
    )


def strips_of(run: RunRows) -> str:
    """Prefix of the labels of a run's images; each run of a domain has its own."""
    return f"{run[TUNED]['domain']}/{run[AFTER]['made_by']}, {run[TUNED]['weights'][:_DIGITS]}"
