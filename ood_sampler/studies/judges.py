"""What can each judge see? Degradations of known strength, as a run would measure them."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ood_sampler.data.domain import ImageSet, TensorImages
from ood_sampler.metrics.degradations import MIXED_IN, Degradation, degradations, degrade
from ood_sampler.metrics.judges import Judge
from ood_sampler.metrics.kernel import KernelEstimate, jackknife
from ood_sampler.metrics.prdc import manifold_scores
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.annotate import add_legend
from ood_sampler.report.columns import Column, Row
from ood_sampler.report.grid import gather, to_uint8
from ood_sampler.report.plots import LINES, MARKERS, panel_figure, styled
from ood_sampler.report.sight import sight
from ood_sampler.statistics.intervals import STANDARD_ERRORS, normal_interval, share_interval
from ood_sampler.statistics.resampling import Interval
from ood_sampler.store.node import Node
from ood_sampler.store.sets import Selected, Taken, TensorSet
from ood_sampler.studies.base import Measured, Study, about, bounds
from ood_sampler.studies.curves import by_domain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REAL = "real"
"""Kind of the row of real pictures against real ones."""

DETECTED = 3.0
"""Standard errors by which a degradation must move a figure to be noticed.

The 95% interval of a run, of 1.96 of them, then tells its figure from that of real pictures in 85%
of runs.
"""

_LEAST = 20
"""Pictures of each part."""

_SHOWN = 6
"""Pictures of each degradation in the figure."""

_TITLE = 34
"""Letters of a domain's name that fit above the names of degradations and their pictures."""

_TICKS = (-10, -3, 0, 3, 10, 30, 100, 300)


class _Opinion(NamedTuple):
    """KID and precision of a set against the reference, as a run would measure them."""

    kid: KernelEstimate
    precision: Interval

    @property
    def precision_error(self) -> float:
        """From the interval of the share, which is never empty."""
        return (self.precision.high - self.precision.low) / (2 * STANDARD_ERRORS)


class JudgesStudy(Study):
    """Degrade one part of the held-out pictures and compare it with the rest, for every judge.

    The degraded part has as many pictures as a run has samples, at most half of all. How far a
    degradation moves KID up and precision down, from where they are for the same pictures
    untouched, is told in standard errors at these sizes. It is noticed if these are `DETECTED` or
    more, and more than any of several random splits of the real pictures reaches. Precision that
    rises is not noticed: it is praise. Standard errors take pictures to be independent, as those of
    a run do; blends share some of theirs.

    Args:
        splits: random splits of the real pictures.
    """

    name = "judges"
    title = "Judges: which degradations of real pictures does each of them notice?"
    headings = (
        Column("judge", "judge"),
        Column("degradation", "degradation"),
        Column("images", "images", 0),
        Column("references", "reference images", 0),
        Column("kid", "KID × 10³", 1, 1e3, "Against the real pictures of the other part."),
        Column(
            "multiple",
            "KID, standard errors",
            1,
            meaning="KID above that of the same pictures untouched, in its standard errors; of "
            "real pictures, the farthest from 0 of random splits.",
        ),
        Column(
            "detected",
            "KID notices",
            meaning=f"Whether these are {DETECTED:g} or more, and more than of real pictures.",
        ),
        Column("precision", "precision", 2),
        Column(
            "multiple_precision",
            "precision, standard errors",
            1,
            meaning="Precision below that of the same pictures untouched, likewise.",
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
                f"data.held_out must be >= {2 * _LEAST} for this study, got {held_out} pictures"
            )
        if count < _LEAST:
            raise ValueError(f"num_samples must be >= {_LEAST} for this study, got {count}")
        pipeline.judges.check({"half of the degraded pictures": count // 2})
        needed, own = round(MIXED_IN * count), pipeline.settings.in_domain_count
        if own < needed:
            raise ValueError(
                f"measure.in_domain must be >= {needed} for this study, {MIXED_IN:.0%} of "
                f"{count} pictures, got {own}"
            )

    def targets(self, pipeline: Pipeline) -> list[Node]:
        return [pipeline.in_domain]

    def measure(self, pipeline: Pipeline) -> Measured:
        held_out, seed = pipeline.domain.held_out, pipeline.settings.seed
        judges, nearest_k = pipeline.judges, pipeline.judges.nearest_k
        real = [_features(pipeline, judge, "held-out", held_out) for judge in judges]
        part, rest = _split(len(held_out), _count(pipeline), seed=seed)
        untouched = Selected(Taken(held_out, len(held_out)), part)
        prefix = f"{pipeline.domain.name}/"
        pictures = {f"{prefix}{REAL} pictures": gather(held_out, part[:_SHOWN])}
        baselines = [_opinion(features[part], features[rest], nearest_k) for features in real]
        rows = [
            [self._real_row(features, baseline, len(part), nearest_k, seed=seed)]
            for features, baseline in zip(real, baselines, strict=True)
        ]
        for degradation in degradations(_in_domain(pipeline)):
            images = _degraded(degradation, untouched, held_out, part, seed=seed)
            pictures[f"{prefix}{degradation.words}"] = gather(images, range(_SHOWN))
            for own, judge, features, baseline in zip(rows, judges, real, baselines, strict=True):
                seen = _features(pipeline, judge, degradation.words, images)
                found = _opinion(seen, features[rest], nearest_k)
                own.append(_degradation_row(degradation, found, baseline, own[0], len(images)))
        return Measured(
            [
                {**about(pipeline), "judge": judge.name, **row, "references": len(rest)}
                for judge, own in zip(judges, rows, strict=True)
                for row in own
            ],
            pictures,
        )

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        sentences = []
        for domain, of_domain in by_domain(rows).items():
            for judge, own in _by_judge(of_domain).items():
                sentences += _told(f"{domain}, {judge}", own)
        return sentences

    @styled
    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        domains = by_domain(rows)
        judges = list(_by_judge(rows))
        lines = max(len(_degradations(own)) for own in domains.values())
        figure, panels = panel_figure(
            width=8.6,
            height=(0.26 * lines + 0.9) * len(domains) + 0.3,
            rows=len(domains),
            columns=3,
            widths=[1.0, 1.7, 1.3],
        )
        for i, (domain, own) in enumerate(domains.items()):
            strips, kid, precision = panels[3 * i : 3 * i + 3]
            names = _degradations(own)
            _draw_pictures(strips, [pictures.get(f"{domain}/{name}") for name in names])
            strips.set_yticks(range(len(names)), names, fontsize=8.5)
            # to the left there is room above the names
            strips.set_title(textwrap.fill(domain, _TITLE), loc="right", x=0.93)
            for axes, end in ((kid, ""), (precision, "_precision")):
                _draw_multiples(axes, own, names, judges, end)
            kid.set_title("KID above real")
            precision.set_title("precision below real")
        add_legend(figure, *panels[1].get_legend_handles_labels(), columns=4)
        return figure

    def _real_row(
        self, features: Tensor, untouched: _Opinion, count: int, nearest_k: int, *, seed: int
    ) -> dict[str, Any]:
        """What chance does to the figures: the farthest from 0 of random splits."""
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
            "degradation": f"{REAL} pictures",
            "beyond": "",
            "images": count,
            **_figures(untouched, kid, precision),
            "detected": False,
            "detected_precision": False,
            "splits": self.splits,
        }


def _features(pipeline: Pipeline, judge: Judge, name: str, images: ImageSet) -> Tensor:
    """Features of images as a judge sees them, stored: what an interrupted study has is kept."""
    return pipeline.features_of(judge, name, images)


def _opinion(seen: Tensor, reference: Tensor, nearest_k: int) -> _Opinion:
    scores = manifold_scores(reference, seen, nearest_k=nearest_k)
    return _Opinion(jackknife(seen, reference), share_interval(scores.precision))


def _count(pipeline: Pipeline) -> int:
    """Pictures that are degraded: as many as a run has samples, at most half of all."""
    return min(pipeline.settings.num_samples, len(pipeline.domain.held_out) // 2)


def _split(total: int, count: int, *, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of `count` pictures, chosen at random, and of the others."""
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).tolist()
    return order[:count], order[count:]


def _in_domain(pipeline: Pipeline) -> TensorSet:
    return pipeline.in_domain_images()


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


def _by_judge(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["judge"], []).append(row)
    return found


def _told(prefix: str, own: Sequence[Row]) -> list[str]:
    """What a judge notices by KID and by precision, and what chance does to both."""
    real, degraded = (
        [row for row in own if (row["kind"] == REAL) is kind] for kind in (True, False)
    )
    sentences = []
    for figure, end in (("KID", ""), ("precision", "_precision")):
        judged = [{**row, "detected": row[f"detected{end}"]} for row in degraded]
        noticed, missed = (", ".join(words) or "none" for words in sight(judged))
        count = sum(row["detected"] for row in judged)
        sentences.append(
            f"{prefix}: {figure} notices {count} of {len(judged)}: {noticed}; "
            f"not noticed: {missed}."
        )
    sentences += [
        f"{prefix}: real pictures against real ones are at most {abs(row['multiple']):.1f} "
        f"standard errors off by KID, {abs(row['multiple_precision']):.1f} by precision "
        f"({row['splits']} random splits, {row['images']} against {row['references']})."
        for row in real
    ]
    return sentences


def _degradations(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["degradation"] for row in rows))


def _draw_pictures(axes: "Axes", strips: Sequence[Tensor | None]) -> None:
    """One strip of pictures in each line of the panels beside it."""
    for y, strip in enumerate(strips):
        if strip is not None:
            picture = torch.cat(list(to_uint8(strip)), dim=2).permute(1, 2, 0).numpy()
            place = (0.0, float(len(strip)), y + 0.46, y - 0.46)
            axes.imshow(picture, extent=place, aspect="auto", interpolation="nearest")
    axes.set_xlim(0, _SHOWN)
    axes.set_ylim(len(strips) - 0.5, -0.5)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _draw_multiples(
    axes: "Axes", rows: Sequence[Row], names: Sequence[str], judges: Sequence[str], end: str
) -> None:
    """Dots in standard errors, filled where noticed; a band as wide as what chance does."""
    by_judge = _by_judge(rows)
    noise = max((abs(row[f"multiple{end}"]) for row in rows if row["kind"] == REAL), default=0.0)
    axes.axvspan(-noise, noise, color="#eef0f3", label="real against real")
    axes.axvline(DETECTED, color="#1c2026", linestyle=":", linewidth=1.4, label="noticed from here")
    for (k, judge), noticed in product(enumerate(judges), (True, False)):
        own = [row for row in by_judge.get(judge, ()) if row[f"detected{end}"] is noticed]
        aside = 0.36 * ((k + 0.5) / len(judges) - 0.5)
        axes.plot(
            [row[f"multiple{end}"] for row in own],
            [names.index(row["degradation"]) + aside for row in own],
            marker=MARKERS[k % len(MARKERS)],
            markersize=5,
            linestyle="none",
            color=LINES[k % len(LINES)],
            markerfacecolor=None if noticed else "white",
            label=judge if noticed else None,
        )
    values = [row[f"multiple{end}"] for row in rows]
    axes.set_xscale("symlog", linthresh=DETECTED)
    low, high = min(-DETECTED, *values), max(2 * DETECTED, *values)
    axes.set_xlim(1.3 * low, 1.3 * high)
    ticks = [tick for tick in _TICKS if low <= tick <= 1.3 * high]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), [""] * len(names))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("standard errors")
    axes.grid()
