"""Can latents of the target domain be told from those of the model's own?"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ood_sampler.latents.separability import CROSS_VALIDATED, Detection, Pair, detection
from ood_sampler.modules.denoising import DenoisingLoss
from ood_sampler.pipeline.keys import made_by, reader
from ood_sampler.pipeline.pipeline import Pipeline, compare
from ood_sampler.report.columns import Column, Row
from ood_sampler.statistics.decision import Outcome, decide, order, separation
from ood_sampler.statistics.intervals import interval
from ood_sampler.store.node import Node
from ood_sampler.store.versions import code_version
from ood_sampler.studies.base import Measured
from ood_sampler.studies.in_domain import (
    DiagnosticStudy,
    inversions,
    of_both,
    reconstructions,
    too_few_of_each,
)
from ood_sampler.studies.rows import bounds, by_domain, quoted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DETECTORS = {
    "linear": "linear classifier of latents",
    "typicality": "distance of latents to the in-domain shell",
    "reconstruction": "reconstruction error",
    "denoising": "denoising loss",
}
"""Scores of an image, by name; the last two are the usual baselines."""

_BASELINES = ("reconstruction", "denoising")

_ALIKE = 0.02
"""Difference in AUROC below which two detectors are equally good."""


class SeparabilityStudy(DiagnosticStudy):
    r"""How far the two domains are apart at some steps, and how well detectors tell them apart.

    The distance is that of the means in units of $\sigma d^{1/4}$, beyond which two spherical
    Gaussians are separable (Zhu et al., 2023). Detectors score each image, higher for the target
    domain (the positive class): a linear classifier of latents that has seen both domains and is
    cross-validated, the distance to the in-domain shell, which has seen the in-domain ones alone,
    and two baselines that have seen none: the error of inverting and decoding, and the denoising
    loss (`ood_sampler.latents.separability`, `ood_sampler.modules.denoising`).
    """

    name = "separability"
    title = "Separability: target and in-domain latents, and detectors of the target domain"
    # five folds of two
    least = 10
    caveat = (
        "The in-domain set is made of the model's own samples, which it reconstructs and denoises "
        "better than real images of its domain; the linear classifier in part tells real "
        "images from generated ones."
    )
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
                ("fpr95", "FPR@95TPR", "In-domain images flagged where 95% of the target are."),
            )
        ),
    )

    def targets(self, pipeline: Pipeline) -> list[Node]:
        return [
            *inversions(self.sources, pipeline),
            *reconstructions(self.sources, pipeline),
            *of_both(self.sources, pipeline, denoising_losses),
        ]

    def measure(self, pipeline: Pipeline) -> Measured:
        runs = list(self.both(pipeline).values())
        found = [run.latents() for run in runs]
        losses = [_denoising(run) for run in runs]
        about = self.about(pipeline)
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
                **about,
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
                    ", each at the step that is best for it on these same images."
                    if len(own) > 1
                    else "."
                )
            )
            baseline = max(_BASELINES, key=lambda name: _auroc(name)(best[name]))
            for name in ("linear", "typicality"):
                sentences.append(
                    f"{domain}: the {DETECTORS[name]} is {_against(best, name, baseline)} (step of "
                    "each and baseline picked on the same images)."
                )
            reversed_ = [
                f"{DETECTORS[name]} at t = {', '.join(str(row['step']) for row in below)}"
                for name in _BASELINES
                if (below := [row for row in own if row[f"{name}_auroc_high"] < 0.5])
            ]
            if reversed_:
                sentences.append(
                    f"{domain}: images of the target domain score lower than the model's own: "
                    f"{'; '.join(reversed_)}."
                )
        return sentences + self.caveats(rows)

    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        from ood_sampler.studies.figures.separability import draw

        return draw(rows)


def denoising_losses(run: Pipeline) -> Node:
    """Denoising losses of the few-shot images of a run at all its steps."""
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
    """Finite losses of the images of a run."""
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
        parts.append(f"at {_steps(found['unclear'])} {too_few_of_each(decision, most)}")
    told = quoted(most, "distance")
    parts.append(f"at most {told} at t = {most['step']}" if len(own) > 1 else f"by {told}")
    return "; ".join(parts)


def _distance(row: Row) -> float:
    return float(row["distance"])


def _steps(rows: Sequence[Row]) -> str:
    return f"t = {', '.join(str(row['step']) for row in rows)}"


def _score(row: Row, name: str) -> str:
    return (
        f"AUROC {quoted(row, f'{name}_auroc', '.3f')} and FPR@95TPR {row[f'{name}_fpr95']:.2f} at "
        f"t = {row['step']}"
    )


def _against(best: Mapping[str, Row], name: str, baseline: str) -> str:
    """Whether a detector beats a baseline, or how many images would tell."""
    row = best[name]
    # scores of the same images are not independent
    apart = separation(
        interval(row, f"{name}_auroc"), interval(best[baseline], f"{baseline}_auroc")
    )
    found = order(apart, margin=_ALIKE)
    words = {
        "higher": "better than",
        "lower": "worse than",
        "alike": f"as good as, to within {_ALIKE},",
        "unclear": "not told apart from",
    }
    told = f"{words[found]} the better baseline, the {DETECTORS[baseline]}"
    if found == "unclear":
        told += f"; {too_few_of_each(decide(apart, least=-_ALIKE, most=_ALIKE), row)}"
    return told
