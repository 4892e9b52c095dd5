"""What can each judge see? Degradations of known strength, as a run would measure them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ood_sampler.data.domain import ImageSet, TensorImages
from ood_sampler.metrics.degradations import MIXED_IN, Degradation, degradations, degrade
from ood_sampler.metrics.kernel import KernelEstimate, jackknife
from ood_sampler.metrics.prdc import manifold_scores
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Column, Row
from ood_sampler.report.grid import gather
from ood_sampler.report.sight import sight
from ood_sampler.statistics.intervals import STANDARD_ERRORS, normal_interval, share_interval
from ood_sampler.statistics.resampling import Interval
from ood_sampler.store.node import Node
from ood_sampler.store.sets import Selected, Taken, TensorSet
from ood_sampler.studies.base import Measured, Study
from ood_sampler.studies.rows import bounds, by_column, by_domain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REAL = "real"
"""Kind of the row of real images against real ones."""

DETECTED = 3.0
"""Standard errors by which a degradation must move a metric to be noticed.

The 95% interval of a run, 1.96 of them wide to each side, then excludes the value of real images in
85% of runs.
"""

_LEAST = 20
"""Least number of images of each part."""

SHOWN = 6
"""Images of each degradation in the figure."""


class _Opinion(NamedTuple):
    """KID and precision of a set against the reference, as a run would measure them."""

    kid: KernelEstimate
    precision: Interval

    @property
    def precision_error(self) -> float:
        """From the interval of the share, which is never empty."""
        return (self.precision.high - self.precision.low) / (2 * STANDARD_ERRORS)


class JudgesStudy(Study):
    """Degrade one part of the held-out images and compare it with the rest, for every judge.

    The degraded part has as many images as a run has samples, at most half of all. How far a
    degradation raises KID and lowers precision, against the same images untouched, is told in
    standard errors at these sizes. It is noticed at `DETECTED` or more, if no random split of the
    real images reaches as many. A rise of precision does not count: it is praise. Standard errors
    take images to be independent, as those of a run do; blends share some of theirs.

    Args:
        splits: random splits of the real images.
    """

    name = "judges"
    title = "Judges: which degradations of real images does each of them notice?"
    headings = (
        Column("judge", "judge"),
        Column("degradation", "degradation"),
        Column("images", "images", 0),
        Column("references", "reference images", 0),
        Column("kid", "KID × 10³", 1, 1e3, "Against the real images of the other part."),
        Column(
            "multiple",
            "KID, standard errors",
            1,
            meaning="KID above that of the same images untouched, in its standard errors; of "
            "real images, the farthest from 0 of random splits.",
        ),
        Column(
            "detected",
            "KID notices",
            meaning=f"Whether these are {DETECTED:g} or more, and more than of real images.",
        ),
        Column("precision", "precision", 2),
        Column(
            "multiple_precision",
            "precision, standard errors",
            1,
            meaning="Precision below that of the same images untouched, likewise.",
        ),
        Column("detected_precision", "precision notices"),
    )

    def __init__(self, *, splits: int) -> None:
        if splits < 1:
            raise ValueError(f"study.splits must be >= 1, got {splits}")
        self.splits = splits

    def check(self, pipeline: Pipeline) -> None:
        super().check(pipeline)
        held_out, count = len(pipeline.domain.held_out), _count(pipeline)
        if held_out < 2 * _LEAST:
            raise ValueError(
                f"data.held_out must be >= {2 * _LEAST} for this study, got {held_out} images"
            )
        if count < _LEAST:
            raise ValueError(f"num_samples must be >= {_LEAST} for this study, got {count}")
        pipeline.judges.check({"half of the degraded images": count // 2})
        needed, own = round(MIXED_IN * count), pipeline.settings.in_domain_count
        if own < needed:
            raise ValueError(
                f"measure.in_domain must be >= {needed} for this study, {MIXED_IN:.0%} of "
                f"{count} images, got {own}"
            )

    def targets(self, pipeline: Pipeline) -> list[Node]:
        return [pipeline.in_domain]

    def measure(self, pipeline: Pipeline) -> Measured:
        held_out, seed = pipeline.domain.held_out, pipeline.settings.seed
        judges, nearest_k = pipeline.judges, pipeline.judges.nearest_k
        real = [pipeline.features_of(judge, "held-out", held_out) for judge in judges]
        part, rest = _split(len(held_out), _count(pipeline), seed=seed)
        untouched = Selected(Taken(held_out, len(held_out)), part)
        prefix = f"{pipeline.domain.name}/"
        pictures = {f"{prefix}{REAL} images": gather(held_out, part[:SHOWN])}
        baselines = [_opinion(features[part], features[rest], nearest_k) for features in real]
        rows = [
            [self._real_row(features, baseline, len(part), nearest_k, seed=seed)]
            for features, baseline in zip(real, baselines, strict=True)
        ]
        for degradation in degradations(pipeline.in_domain_images()):
            images = _degraded(degradation, untouched, held_out, part, seed=seed)
            pictures[f"{prefix}{degradation.words}"] = gather(images, range(SHOWN))
            for own, judge, features, baseline in zip(rows, judges, real, baselines, strict=True):
                seen = pipeline.features_of(judge, degradation.words, images)
                found = _opinion(seen, features[rest], nearest_k)
                own.append(_degradation_row(degradation, found, baseline, own[0], len(images)))
        about = self.about(pipeline)
        return Measured(
            [
                {**about, "judge": judge.name, **row, "references": len(rest)}
                for judge, own in zip(judges, rows, strict=True)
                for row in own
            ],
            pictures,
        )

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        sentences = []
        for domain, of_domain in by_domain(rows).items():
            for judge, own in by_column(of_domain, "judge").items():
                sentences += _told(f"{domain}, {judge}", own)
        return sentences

    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        from ood_sampler.studies.figures.judges import draw

        return draw(rows, pictures)

    def _real_row(
        self, features: Tensor, untouched: _Opinion, count: int, nearest_k: int, *, seed: int
    ) -> dict[str, Any]:
        """What chance does to both metrics: the farthest from 0 of random splits."""
        splits = [
            _split(len(features), count, seed=(seed + k + 1) % 2**63) for k in range(self.splits)
        ]
        found = [_opinion(features[part], features[rest], nearest_k) for part, rest in splits]
        mean = sum(each.precision.value for each in found) / len(found)
        kid = max((float(each.kid.value / each.kid.standard_error) for each in found), key=abs)
        precision = max(
            ((mean - each.precision.value) / each.precision_error for each in found), key=abs
        )
        return {
            "kind": REAL,
            "strength": 0.0,
            "degradation": f"{REAL} images",
            "beyond": "",
            "images": count,
            **_figures(untouched, kid, precision),
            "detected": False,
            "detected_precision": False,
            "splits": self.splits,
        }


def _opinion(seen: Tensor, reference: Tensor, nearest_k: int) -> _Opinion:
    scores = manifold_scores(reference, seen, nearest_k=nearest_k)
    return _Opinion(jackknife(seen, reference), share_interval(scores.precision))


def _count(pipeline: Pipeline) -> int:
    """Images that are degraded: as many as a run has samples, at most half of all."""
    return min(pipeline.settings.num_samples, len(pipeline.domain.held_out) // 2)


def _split(total: int, count: int, *, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of `count` images, chosen at random, and of the others."""
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).tolist()
    return order[:count], order[count:]


def _degraded(
    degradation: Degradation,
    pictures: TensorSet,
    held_out: ImageSet,
    part: Sequence[int],
    *,
    seed: int,
) -> TensorImages:
    kept = degradation.kept(pictures, seed=seed)
    levels = degrade(degradation, pictures, seed=seed, numbers=kept)
    names = [held_out.names[part[number]] for number in kept]
    return TensorImages(levels, names, resolution=held_out.resolution)


def _degradation_row(
    degradation: Degradation, found: _Opinion, untouched: _Opinion, real: Row, images: int
) -> dict[str, Any]:
    excess = float((found.kid.value - untouched.kid.value) / found.kid.standard_error)
    fall = (untouched.precision.value - found.precision.value) / found.precision_error
    return {
        "kind": degradation.kind,
        "strength": float(degradation.strength),
        "degradation": degradation.words,
        "beyond": degradation.beyond,
        "images": images,
        **_figures(found, excess, fall),
        "detected": _noticed(excess, real["multiple"]),
        "detected_precision": _noticed(fall, real["multiple_precision"]),
    }


def _noticed(multiple: float, chance: float) -> bool:
    return multiple >= DETECTED and multiple > abs(chance)


def _figures(found: _Opinion, kid: float, precision: float) -> dict[str, Any]:
    return {
        **bounds("kid", normal_interval(*found.kid)),
        "kid_standard_error": float(found.kid.standard_error),
        "multiple": kid,
        **bounds("precision", found.precision),
        "multiple_precision": precision,
    }


def _told(prefix: str, own: Sequence[Row]) -> list[str]:
    """What a judge notices by KID and by precision, and what chance does to both."""
    real, degraded = (
        [row for row in own if (row["kind"] == REAL) is kind] for kind in (True, False)
    )
    sentences = []
    for metric, end in (("KID", ""), ("precision", "_precision")):
        judged = [{**row, "detected": row[f"detected{end}"]} for row in degraded]
        noticed, missed = (", ".join(words) or "none" for words in sight(judged))
        count = sum(row["detected"] for row in judged)
        sentences.append(
            f"{prefix}: {metric} notices {count} of {len(judged)}: {noticed}; "
            f"not noticed: {missed}."
        )
    sentences += [
        f"{prefix}: real images against real ones are at most {abs(row['multiple']):.1f} "
        f"standard errors off by KID, {abs(row['multiple_precision']):.1f} by precision "
        f"({row['splits']} random splits, {row['images']} against {row['references']})."
        for row in real
    ]
    return sentences
