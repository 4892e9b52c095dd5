"""Can latents of the target domain be told from those of the model's own?"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ood_sampler.latents.separability import CROSS_VALIDATED, Detection, Pair, detection
from ood_sampler.modules.denoising import DenoisingLoss
from ood_sampler.pipeline.nodes import made_by, reader
from ood_sampler.pipeline.pipeline import Pipeline, compare
from ood_sampler.report.annotate import add_legend, tick_values
from ood_sampler.report.columns import Column, Row
from ood_sampler.report.plots import LINES, MARKERS, panel_figure, styled
from ood_sampler.statistics.decision import Decision, Outcome, decide, order, separation
from ood_sampler.statistics.intervals import interval
from ood_sampler.store.node import Node
from ood_sampler.store.versions import code_version
from ood_sampler.studies.base import (
    Measured,
    Study,
    about,
    bounds,
    too_few,
)
from ood_sampler.studies.curves import beside, by_domain, draw_curve, draw_level
from ood_sampler.studies.in_domain import (
    SAMPLES,
    Sources,
    inversions,
    of_both,
    reconstructions,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEAST = 10
"""Pictures of a set, for five folds of two."""

DETECTORS = {
    "linear": "linear classifier of latents",
    "typicality": "distance of latents to the in-domain shell",
    "reconstruction": "reconstruction error",
    "denoising": "denoising loss",
}
"""What scores a picture, each by name; the last two are the usual baselines."""

_TITLES = {
    "linear": "Linear classifier of latents",
    "typicality": "Distance to the in-domain shell",
    "reconstruction": "Baseline: reconstruction error",
    "denoising": "Baseline: denoising loss",
}

_BASELINES = ("reconstruction", "denoising")

_ALIKE = 0.02
"""AUROC that two detectors may differ by to be as good."""


class SeparabilityStudy(Study):
    r"""Measure at some steps how far the two domains are apart, and how well a detector does.

    The distance is that of the means in units of $\sigma d^{1/4}$, beyond which two spherical
    Gaussians are separable (Zhu et al., 2023). Detectors score each picture, higher for the target
    domain (the positive class): a linear classifier of latents that has seen both domains and is
    cross-validated, the distance to the in-domain shell, which has seen the in-domain ones alone,
    and two baselines that have seen none: the error of inverting and decoding, and the denoising
    loss (`ood_sampler.latents.separability`, `ood_sampler.modules.denoising`).

    Args:
        steps: inversion steps.
        count: pictures of each set, at most.
        in_domain_root: pictures of the model's own domain; None takes samples of the model.
    """

    name = "separability"
    title = "Separability: target and in-domain latents, and detectors of the target domain"
    headings = (
        Column("step", "step t", 0),
        Column("images", "target images", 0),
        Column("in_domain_images", "in-domain images", 0),
        Column("in_domain", "in-domain set"),
        Column(
            "distance",
            "distance of means",
            2,
            meaning="Over the mean standard deviation and d^(1/4), unbiased.",
        ),
        *(
            Column(f"{name}_{key}", f"{text}, {name}", 3, meaning=meaning)
            for name, said in DETECTORS.items()
            for key, text, meaning in (
                ("auroc", "AUROC", f"Of the {said}: 0.5 chance; below it the target scores lower."),
                ("fpr95", "FPR@95TPR", "In-domain pictures flagged where 95% of the target are."),
            )
        ),
    )

    def __init__(self, *, steps: Sequence[int], count: int, in_domain_root: str | None) -> None:
        self.sources = Sources(list(steps), count, in_domain_root)

    def check(self, pipeline: Pipeline) -> None:
        super().check(pipeline)
        self.sources.check(pipeline, least=_LEAST)

    def targets(self, pipeline: Pipeline) -> list[Node]:
        return [
            *inversions(self.sources, pipeline),
            *reconstructions(self.sources, pipeline),
            *of_both(self.sources, pipeline, denoising_losses),
        ]

    def measure(self, pipeline: Pipeline) -> Measured:
        runs = [self.sources.few_shot(pipeline), self.sources.in_domain(pipeline)]
        found = [run.latents() for run in runs]
        losses = [_denoising(run) for run in runs]
        rows: list[Row] = []
        for step in sorted(set(self.sources.steps)):
            outside, inside = (of_step[step] for of_step in found)
            pair = Pair(outside, inside)
            scores = {
                "linear": pair.split(pair.linear()),
                "typicality": pair.split(pair.typicality()),
                "reconstruction": tuple(_reconstruction(run.variant(step=step)) for run in runs),
                "denoising": tuple(of_step[step] for of_step in losses),
            }
            row: dict[str, Any] = {
                **about(pipeline),
                "step": step,
                "images": len(outside),
                "in_domain_images": len(inside),
                "in_domain": self.sources.kind,
                **bounds("distance", pair.distance()),
            }
            for name, (positive, negative) in scores.items():
                spread = CROSS_VALIDATED if name == "linear" else 1.0
                row |= _figures(name, detection(positive, negative, spread=spread))
            rows.append(row)
        return Measured(rows)

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        sentences = []
        for domain, own in by_domain(rows).items():
            sentences.append(f"{domain}: {_distances(own)}.")
            best = {name: max(own, key=_auroc(name)) for name in DETECTORS}
            sentences.append(
                f"{domain}: "
                + "; ".join(f"{DETECTORS[n]} {_score(row, n)}" for n, row in best.items())
                + (
                    ", each at the step that is best for it on these same pictures."
                    if len(own) > 1
                    else "."
                )
            )
            baseline = max(_BASELINES, key=lambda name: _auroc(name)(best[name]))
            for name in ("linear", "typicality"):
                sentences.append(
                    f"{domain}: the {DETECTORS[name]} is {_against(best, name, baseline)} the "
                    f"better baseline, the {DETECTORS[baseline]}"
                    f"{_more(best, name, baseline)} (step of each and baseline picked on the same "
                    "pictures)."
                )
            reversed_ = [
                f"{DETECTORS[name]} at t = {', '.join(str(row['step']) for row in below)}"
                for name in _BASELINES
                if (below := [row for row in own if row[f"{name}_auroc_high"] < 0.5])
            ]
            if reversed_:
                sentences.append(
                    f"{domain}: pictures of the target domain score lower than the model's own: "
                    f"{'; '.join(reversed_)}."
                )
        if any(row["in_domain"] == SAMPLES for row in rows):
            sentences.append(
                "The in-domain set is made of the model's own samples, which it reconstructs and "
                "denoises better than real pictures of its domain; the linear classifier in part "
                "tells real pictures from generated ones."
            )
        return sentences

    @styled
    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        domains = by_domain(rows)
        figure, panels = panel_figure(width=12, height=7, rows=2, columns=3)
        shown = [
            ("distance", "Distance of the means", "over σ d^(1/4)"),
            *((f"{name}_auroc", title, "AUROC") for name, title in _TITLES.items()),
            ("linear_fpr95", _TITLES["linear"], "false positives where 95% are found"),
        ]
        for axes, (key, title, label) in zip(panels, shown, strict=True):
            for k, (domain, own) in enumerate(domains.items()):
                draw_curve(
                    axes,
                    sorted(own, key=lambda row: int(row["step"])),
                    key,
                    aside=beside(k, len(domains)),
                    color=LINES[k % len(LINES)],
                    marker=MARKERS[k % len(MARKERS)],
                    label=domain,
                )
            if key == "distance":
                draw_level(axes, 1.0, label="separable above (distance), chance (AUROC)")
                axes.set_ylim(0, 1.06 * max(1.0, axes.get_ylim()[1]))
            else:
                axes.set_ylim(-0.03, 1.03)
                if key.endswith("auroc"):
                    draw_level(axes, 0.5)
            axes.set_title(title)
            axes.set_ylabel(label)
            axes.set_xlabel("inversion step t")
            tick_values(axes, [row["step"] for row in rows])
            axes.grid()
        add_legend(figure, *panels[0].get_legend_handles_labels(), columns=4)
        return figure


def denoising_losses(run: Pipeline) -> Node:
    """How well the model denoises the few-shot pictures of a run at every step asked for."""
    few_shot, seed = run.domain.few_shot, run.settings.seed
    key = {
        "model": run.model.digest,
        "machine": run.session.machine,
        "code": code_version(DenoisingLoss, type(run.codec), *run.model.makers),
        "images": few_shot.digest,
        "reader": reader(few_shot),
        "seed": seed,
    }
    return Node(
        "denoising loss",
        {
            str(step): run.session.artifact("denoising", {**key, "step": step}, len(few_shot), (1,))
            for step in sorted({run.settings.step, *run.also})
        },
        lambda unfinished: run.session.compute(
            "denoising loss",
            lambda at: DenoisingLoss(
                run.codec,
                at=[int(step) for step in at],
                seed=seed,
                names=few_shot.names,
                on_nonfinite=run.settings.on_nonfinite,
            ),
            few_shot,
            unfinished,
            batch_size=run.batch_size,
        ),
        inputs=made_by(few_shot),
        cost=lambda at: len(list(at)),
    )


def _denoising(run: Pipeline) -> dict[int, Tensor]:
    """Finite losses of the pictures of a run."""
    node = denoising_losses(run)
    run.session.obtain(node)
    losses = {}
    for step, artifact in node.outputs.items():
        values = torch.cat(list(artifact.open().blocks()))[:, 0]
        losses[int(step)] = values[values.isfinite()]
    return losses


def _reconstruction(run: Pipeline) -> Tensor:
    return torch.tensor(compare(*run.reconstructed())["mse"])


def _figures(name: str, found: Detection) -> dict[str, float]:
    return {**bounds(f"{name}_auroc", found.auroc), **bounds(f"{name}_fpr95", found.fpr95)}


def _auroc(name: str) -> Callable[[Row], float]:
    return lambda row: float(row[f"{name}_auroc"])


def _distances(own: Sequence[Row]) -> str:
    found: dict[Outcome, list[Row]] = {}
    for row in own:
        found.setdefault(decide(interval(row, "distance"), least=1).outcome, []).append(row)
    most = max(own, key=_distance)
    parts = ["at no step tried the means are certainly farther apart than σ d^(1/4)"]
    if "shown" in found:
        parts = [f"the means are farther apart than σ d^(1/4) at {_steps(found['shown'])}"]
    if "refuted" in found:
        parts.append(f"nearer at {_steps(found['refuted'])}")
    if "unclear" in found:
        decision = decide(interval(max(found["unclear"], key=_distance), "distance"), least=1)
        parts.append(f"at {_steps(found['unclear'])} {_too_few(decision, most)}")
    low, high = most["distance_low"], most["distance_high"]
    told = f"{most['distance']:.2f} [{low:.2f}, {high:.2f}]"
    parts.append(f"at most {told} at t = {most['step']}" if len(own) > 1 else f"by {told}")
    return "; ".join(parts)


def _distance(row: Row) -> float:
    return float(row["distance"])


def _steps(rows: Sequence[Row]) -> str:
    return f"t = {', '.join(str(row['step']) for row in rows)}"


def _score(row: Row, name: str) -> str:
    low, high = row[f"{name}_auroc_low"], row[f"{name}_auroc_high"]
    return (
        f"AUROC {row[f'{name}_auroc']:.3f} [{low:.3f}, {high:.3f}] and FPR@95TPR "
        f"{row[f'{name}_fpr95']:.2f} at t = {row['step']}"
    )


def _against(best: Mapping[str, Row], name: str, baseline: str) -> str:
    row, other = best[name], best[baseline]
    # scores of the same pictures are not independent
    apart = separation(interval(row, f"{name}_auroc"), interval(other, f"{baseline}_auroc"))
    return {
        "higher": "better than",
        "lower": "worse than",
        "alike": f"as good as, to within {_ALIKE},",
        "unclear": "not told apart from",
    }[order(apart, margin=_ALIKE)]


def _more(best: Mapping[str, Row], name: str, baseline: str) -> str:
    """How many pictures would tell two detectors apart, or that they are alike."""
    row, other = best[name], best[baseline]
    apart = separation(interval(row, f"{name}_auroc"), interval(other, f"{baseline}_auroc"))
    if order(apart, margin=_ALIKE) != "unclear":
        return ""
    return f"; {_too_few(decide(apart, least=-_ALIKE, most=_ALIKE), row)}"


def _too_few(decision: Decision, row: Row) -> str:
    return too_few(decision.factor, row, name="pictures of each set", setting="study.count")
