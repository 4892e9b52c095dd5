"""What becomes of the model's own domain: frozen weights against fine-tuned ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ood_sampler.codecs.diffusion import DiffusionCodec
from ood_sampler.metrics.comparison import kernel_difference
from ood_sampler.metrics.judges import Described, Judge
from ood_sampler.metrics.opinions import together
from ood_sampler.models.finetuned import FineTunedModel
from ood_sampler.models.frozen import FrozenModel, checksum
from ood_sampler.modules.finetuning import FineTuning, Tuned, fine_tune, finished
from ood_sampler.pipeline.estimate import Work
from ood_sampler.pipeline.nodes import label, reader, selected
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.annotate import add_legend, entitle
from ood_sampler.report.columns import Column, Row
from ood_sampler.report.plots import COLOURS, panel_figure, scale_kid, styled
from ood_sampler.statistics.decision import TOO_FEW, Order, decide, order
from ood_sampler.statistics.intervals import interval, normal_interval
from ood_sampler.store.artifacts import Artifact, Items
from ood_sampler.store.files import digest
from ood_sampler.store.node import Node
from ood_sampler.store.versions import code_version
from ood_sampler.studies.base import (
    Measured,
    Study,
    about,
    bounds,
    decoding,
    too_few,
)
from ood_sampler.studies.curves import Run, by_run, error_bars
from ood_sampler.studies.strips import draw_strips

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE = "frozen, before"
AFTER = "frozen, after"
TUNED = "fine-tuned"

_LOOKS = {
    BEFORE: (COLOURS["reference"], "o"),
    AFTER: (COLOURS["strategy"], "s"),
    TUNED: (COLOURS["control"], "D"),
}
"""Colour and marker of each method."""

_SHOWN = 5
"""Pictures of each method in the figure."""

_STRIPS = ("frozen, from noise", "frozen, for the target", "fine-tuned, same noise")
"""Of pictures, from top to bottom."""

_BACKWARD = 3
"""Evaluations that a step of the training takes as long as, for each of its pictures."""

_DIGITS = 12
"""Of a checksum that are shown."""


class PreservationStudy(Study):
    """Does the model still make its own domain, and are its weights what they were?

    Three methods: the frozen model before anything was done; the same model, in the same process,
    after inverting, sampling the target domain and fine-tuning a copy, its samples decoded anew
    in every run, whatever is stored; and the copy. Each makes samples from the same pure noise,
    which are compared with the model's own domain. For the target domain, the frozen model after is
    judged by the samples of the run's strategy, the others by those from noise.

    The copy is trained on the error of what its network predicts: the noise, as in the paper, or
    the velocity or the picture (`ood_sampler.modules.finetuning.DenoiserFineTuning`).

    Args:
        fine_tuning: how the copy is trained.
    """

    name = "preservation"
    title = "The original domain, before and after"
    needs = ("fid", "kid", "prdc", "authenticity", "near_copies")
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
        Column("fid", "target FID", meaning="FID against the held-out pictures."),
        Column(
            "kid",
            "target KID × 10³",
            digits=2,
            scale=1e3,
            meaning="KID against the held-out pictures, with its 95% interval.",
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
            meaning="Share of images farther from their nearest few-shot picture than that is "
            "from its own nearest: 0 for copies (Alaa et al., 2022).",
        ),
        Column(
            "near_copies",
            "near-copies",
            digits=3,
            meaning="Share of images nearer to a few-shot picture than 99% of held-out ones are.",
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
            meaning="Mean square error of what the network predicts (noise, velocity or picture) "
            "on the held-out part of the few-shot pictures, with the same noise for all rows.",
        ),
    )

    def __init__(self, *, fine_tuning: FineTuning) -> None:
        self.fine_tuning = fine_tuning

    def check(self, pipeline: Pipeline) -> None:
        super().check(pipeline)
        _codec(pipeline)
        few_shot = len(pipeline.domain.few_shot)
        self.fine_tuning.split(few_shot, seed=pipeline.settings.seed)

    def targets(self, pipeline: Pipeline) -> list[Node]:
        nodes = decoding(pipeline, [pipeline])
        if _needs_own_samples(pipeline):
            nodes.append(replace(_of_another_seed(pipeline).in_domain, of="another seed"))
        tuned = finished(tuning_folder(pipeline, self.fine_tuning))
        if tuned is not None:
            nodes.append(replace(_with_weights(pipeline, tuned).in_domain, of="fine-tuned"))
        return nodes

    def unstored(self, pipeline: Pipeline) -> list[Work]:
        settings, count = self.fine_tuning, pipeline.settings.in_domain_count
        each = pipeline.in_domain.evaluations_each()
        work = [Work("in-domain after", count, each)]
        if finished(tuning_folder(pipeline, settings)) is None:
            work += [
                Work("fine-tune", settings.steps * settings.batch_size, _BACKWARD),
                Work("in-domain, fine-tuned", count, each),
            ]
        return work

    def measure(self, pipeline: Pipeline) -> Measured:
        court = _Court.of(pipeline)
        weights = checksum(_codec(pipeline).model.denoiser)
        before = _from_noise(pipeline)
        made = pipeline.sampled().described
        other, tuned = fine_tuned(pipeline, self.fine_tuning)
        damaged = _from_noise(other)
        with _anew(pipeline) as fresh:
            after = _from_noise(fresh)
            identical = _identical(before, after)
            still = _features(fresh, "sample from noise", after)
        own = _features(pipeline, "sample from noise", before)
        strayed = _features(other, "sample of the fine-tuned model", damaged)
        strategy = f"{label(pipeline.sampler)} at t = {pipeline.settings.step}"
        rows = [
            {
                **court.row(BEFORE, own, own),
                "weights": weights,
                "identical": None,
                "made_by": "pure noise",
                "held_out_loss": tuned.curve[0].validation,
            },
            {
                **court.row(AFTER, still, made),
                "weights": checksum(_codec(pipeline).model.denoiser),
                "identical": identical,
                "made_by": strategy,
                "held_out_loss": tuned.curve[0].validation,
            },
            {
                **court.row(TUNED, strayed, strayed),
                "weights": checksum(_codec(other).model.denoiser),
                "identical": _identical(before, damaged),
                "made_by": "pure noise",
                "held_out_loss": tuned.best.validation,
                "best_step": tuned.best.step,
                "last_step": tuned.curve[-1].step,
                "stopped": self.fine_tuning.is_over(tuned.curve),
                **court.differences(strayed, own, made),
                "curve": [list(look) for look in tuned.curve],
                "fine_tuning": asdict(self.fine_tuning),
            },
        ]
        first = range(min(_SHOWN, pipeline.settings.num_samples))
        strips = _strips_of({row["method"]: row for row in rows})
        shown = (before, pipeline.samples.output, damaged)
        return Measured(
            [
                {**row, "weights": row["weights"][:_DIGITS], "sha256": row["weights"]}
                for row in rows
            ],
            {
                f"{strips}/{name}": images.open().take(first)
                for name, images in zip(_STRIPS, shown, strict=True)
            },
        )

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        sentences = []
        damages: list[Order] = []
        costs: list[Order] = []
        groups = by_run(rows, "method", _settings)
        for name, group in groups.items():
            before, after, tuned = group[BEFORE], group[AFTER], group[TUNED]
            about_it = f"{before['model']} for {name}"
            sentences.append(f"{about_it}: {_preserved(before, after)}")
            sentences.append(
                f"{about_it}: fine-tuning (held-out loss {before['held_out_loss']:.4f} to "
                f"{tuned['held_out_loss']:.4f}, kept at step {tuned['best_step']} of "
                f"{tuned['last_step']}{_ended(tuned)}) takes the FID of the original domain from "
                f"{before['in_domain_fid']:.3g} to {tuned['in_domain_fid']:.3g}; "
                f"{_verdict(tuned, 'damage')}."
            )
            sentences.append(
                f"{about_it}: on the target, fine-tuning has FID {tuned['fid']:.3g}, precision "
                f"{tuned['precision']:.2f}, recall {tuned['recall']:.2f} and authenticity "
                f"{tuned['authenticity']:.2f}, {after['made_by']} by the frozen model FID "
                f"{after['fid']:.3g}, {after['precision']:.2f}, {after['recall']:.2f} and "
                f"{after['authenticity']:.2f}; {_verdict(tuned, 'cost')}."
            )
            damages.append(order(interval(tuned, "damage")))
            costs.append(order(interval(tuned, "cost")))
        if len(groups) > 1:
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

    @styled
    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        groups = by_run(rows, "method", _settings)
        figure, panels = panel_figure(
            width=13.5, height=0.4 + 3.9 * len(groups), rows=len(groups), columns=3
        )
        legend: dict[str, Any] = {}
        for k, (title, group) in enumerate(groups.items()):
            trade, loss, images = panels[3 * k : 3 * k + 3]
            _draw_trade(trade, group)
            _draw_loss(loss, group[TUNED])
            names = [f"{_strips_of(group)}/{name}" for name in _STRIPS]
            strips = {name: pictures[name] for name in names if name in pictures}
            draw_strips(images, strips, title="Samples")
            # names of the pictures take of the width
            entitle(trade, f"{title}: before and after", room=0.75)
            handles, labels = trade.get_legend_handles_labels()
            legend |= dict(zip(labels, handles, strict=True))
        add_legend(figure, list(legend.values()), list(legend), columns=3)
        return figure


def fine_tuned(pipeline: Pipeline, settings: FineTuning) -> tuple[Pipeline, Tuned]:
    """The same run with a copy of its model, fine-tuned on the few-shot pictures.

    Images of the copy are those of its own `in_domain()`; its artifacts are named by its weights.
    """
    few_shot = pipeline.domain.few_shot
    tuned = fine_tune(
        _codec(pipeline).model.denoiser,
        torch.stack([few_shot[index] for index in range(len(few_shot))]),
        settings,
        seed=pipeline.settings.seed,
        trainer=pipeline.session.trainer,
        folder=tuning_folder(pipeline, settings),
    )
    return _with_weights(pipeline, tuned), tuned


def _with_weights(pipeline: Pipeline, tuned: Tuned) -> Pipeline:
    model = FineTunedModel(_frozen(pipeline), tuned.weights)
    return replace(pipeline, model=model, codec=model.codec(_codec(pipeline).solver))


def _codec(pipeline: Pipeline) -> DiffusionCodec:
    """That of a diffusion model of pixels, the only kind whose copy is trained here.

    Raises:
        ValueError: the model is of another kind.
    """
    if not isinstance(pipeline.codec, DiffusionCodec):
        raise ValueError(
            "study=preservation fine-tunes a diffusion model of pixels, got "
            f"{pipeline.model.name}: choose such a model"
        )
    return pipeline.codec


def _frozen(pipeline: Pipeline) -> FrozenModel:
    """The model whose copy is trained."""
    model = pipeline.model
    if not isinstance(model, FrozenModel):
        raise ValueError(f"study=preservation needs the weights of a file, got {model.name}")
    return model


def tuning_folder(pipeline: Pipeline, settings: FineTuning) -> Path:
    """Folder of the network that was fine-tuned on the few-shot pictures."""
    few_shot = pipeline.domain.few_shot
    key = {
        "model": pipeline.model.digest,
        "images": few_shot.digest,
        "reader": reader(few_shot),
        "settings": asdict(settings),
        "seed": pipeline.settings.seed,
        "machine": pipeline.session.machine,
        "code": code_version(fine_tune, *pipeline.model.makers),
    }
    return pipeline.session.root / f"fine-tuning-{digest(key)[:16]}"


@contextmanager
def _anew(pipeline: Pipeline) -> Iterator[Pipeline]:
    """The same run with an empty store: what the model in memory makes now."""
    root = pipeline.session.root
    root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root, prefix="after-") as folder:
        yield replace(pipeline, session=replace(pipeline.session, root=Path(folder)))


def _of_another_seed(pipeline: Pipeline) -> Pipeline:
    """The same run with other noise."""
    return replace(pipeline, settings=replace(pipeline.settings, seed=pipeline.settings.seed + 1))


def _own_features(pipeline: Pipeline, judge: Judge) -> Path | None:
    """Stored features of real pictures of the model's own domain."""
    return pipeline.model.in_domain_file(judge.extractor.name)


def _needs_own_samples(pipeline: Pipeline) -> bool:
    """Whether samples of another seed stand for the model's own domain before a judge."""
    return any(_own_features(pipeline, judge) is None for judge in pipeline.judges)


@dataclass(frozen=True)
class _Court:
    """Figures of sets of samples, as each judge sees them.

    Attributes:
        pipeline: whose judges they are.
        own: features of the model's own domain by judge, shape (M, D).
        reference: what those of the headline are of.
        few_shot: the few-shot pictures.
        held_out: the held-out pictures.
    """

    pipeline: Pipeline
    own: Mapping[str, Tensor]
    reference: str
    few_shot: Described
    held_out: Described

    @classmethod
    def of(cls, pipeline: Pipeline) -> "_Court":
        made = dict[str, Tensor]()
        if _needs_own_samples(pipeline):
            other = _of_another_seed(pipeline)
            images = _from_noise(other)
            made |= _features(other, "in-domain sample of another seed", images).features
        headline = _own_features(pipeline, pipeline.judges.headline)
        return cls(
            pipeline=pipeline,
            own=pipeline.in_domain_references(made),
            reference="samples of another seed" if headline is None else "real pictures",
            few_shot=pipeline.few_shot,
            held_out=pipeline.held_out,
        )

    def row(self, method: str, noise: Described, samples: Described) -> dict[str, Any]:
        """Figures of samples from noise and of those made for the target."""
        return {
            **about(self.pipeline),
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
            damage = kernel_difference(tuned, frozen, self.own[judge.name])
            cost = kernel_difference(tuned, new, held_out)
            return bounds("damage", normal_interval(*damage)) | (
                bounds("cost", normal_interval(*cost))
            )

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


def _settings(run: Run) -> dict[str, object]:
    """What runs of a sweep may differ in."""
    return {"strategy": run[AFTER]["made_by"], **run[TUNED]["fine_tuning"]}


def _strips_of(run: Run) -> str:
    """What labels of a run's pictures begin with, as other runs of a domain have others."""
    return f"{run[TUNED]['domain']}/{run[AFTER]['made_by']}, {run[TUNED]['weights'][:_DIGITS]}"


def _from_noise(run: Pipeline) -> Artifact:
    """Samples of the model of a run from pure noise."""
    run.session.obtain(run.in_domain)
    images: Artifact = run.in_domain.output
    return images


def _features(pipeline: Pipeline, what: str, images: Artifact) -> Described:
    kept = pipeline.finite(images.open(), what)
    return pipeline.describe(what, Items(selected(images.open(), kept)), images.digest, kept)


def _identical(images: Artifact, others: Artifact) -> float:
    """Share of the items that are equal in all bits."""
    pairs = zip(images.open().blocks(), others.open().blocks(), strict=True)
    equal = [(a == b).flatten(1).all(1) for a, b in pairs]
    return float(torch.cat(equal).double().mean())


def _draw_trade(axes: "Axes", group: Mapping[str, Row]) -> None:
    for method, row in group.items():
        colour, marker = _LOOKS[method]
        axes.errorbar(
            row["in_domain_fid"],
            1e3 * row["kid"],
            xerr=error_bars([row], "in_domain_fid"),
            yerr=error_bars([row], "kid", scale=1e3),
            fmt=marker,
            color=colour,
            markersize=8,
            capsize=3,
            label=f"{method} (target by {row['made_by']})",
        )
    # methods are orders of magnitude apart, and a KID may be below 0
    scale_kid(axes, "y", [row["kid"] for row in group.values()])
    axes.margins(0.12)
    axes.set_xlabel("FID to the original domain, 95% (left is better)")
    axes.set_ylabel("KID × 10³ to the target, 95% (down is better)")
    axes.grid()


def _draw_loss(axes: "Axes", row: Row) -> None:
    looks = row["curve"]
    colour, _ = _LOOKS[TUNED]
    axes.plot(
        [step for step, _, _ in looks],
        [validation for _, _, validation in looks],
        color=colour,
        marker="o",
        markersize=4,
        label="held-out pictures, averaged weights",
    )
    axes.plot(
        [step for step, training, _ in looks if training is not None],
        [training for _, training, _ in looks if training is not None],
        color=COLOURS["reference"],
        linewidth=1.4,
        label="training pictures",
    )
    axes.axvline(
        row["best_step"],
        ymax=0.78,
        color=colour,
        linestyle="--",
        linewidth=1.4,
        label="weights kept",
    )
    axes.set_title("Fine-tuning")
    axes.set_xlabel("step of the optimizer")
    axes.set_ylabel("mean square error of the prediction")
    # room for the legend above the curve
    axes.margins(y=0.4)
    axes.grid()
    axes.legend(
        loc="upper right", fontsize=9, frameon=True, framealpha=1, edgecolor="white", borderpad=0.1
    )
