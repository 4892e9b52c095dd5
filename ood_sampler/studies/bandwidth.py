"""The band of inversion steps in which samples are new images of the target domain."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ood_sampler.metrics.kernel import kernel_distance
from ood_sampler.metrics.opinions import as_judged
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Column, Row
from ood_sampler.samplers.base import Sampler
from ood_sampler.statistics.band import Band, Thresholds, find_band
from ood_sampler.statistics.decision import TOO_FEW, Decision, all_of, decide
from ood_sampler.statistics.intervals import interval
from ood_sampler.statistics.ranks import rank_correlation
from ood_sampler.studies.rows import (
    bounds,
    by_column,
    by_domain,
    by_each_judge,
    excess,
    point,
    quoted_kid,
    too_few,
    units,
)
from ood_sampler.studies.sweep import SweepStudy, check_increasing, few_shot_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TWO_SIDED = 1.96
"""Standard normal values beyond this are called different from 0."""

_MOST_DOMAINS = 200
"""Advice to add more domains than this would not be practical."""


class BandwidthStudy(SweepStudy):
    r"""Retention, novelty and KID over the inversion step, for one or several strategies.

    Retention is one less the captured fraction, novelty the authenticity, KID that to held-out
    images. A step is usable if retention and novelty reach stated shares of those of real images
    and near-copies do not exceed theirs beyond doubt. The chosen step makes the newest images,
    among the usable steps whose KID is not told apart from the least; the band is the usable range
    around it, its ends interpolated (`ood_sampler.statistics.band`). The domain gap is the KID
    between the few-shot images and the model's own domain.

    Args:
        steps: inversion steps, increasing.
        samplers: strategies; the figure shows the samples of the first.
        retention: least share of the retention of real few-shot images, in (0, 1].
        novelty: least share of the authenticity of real held-out images, in (0, 1].
        near_copies: share of near-copies allowed beyond that of real held-out images: the lower
            bound of the difference (95%) may not lie above it.
    """

    name = "bandwidth"
    title = "Bandwidth: which inversion steps make new images of the domain"
    needs = ("kid", "authenticity", "near_copies", "captured")
    shown = 6
    headings = (
        Column("strategy", "strategy"),
        Column("step", "step t", digits=0),
        Column("images", "images", digits=0),
        Column("retention", "retention", 2, meaning="Share not captured by the model's domain."),
        Column("authenticity", "novelty", 2, meaning="Authenticity (Alaa et al., 2022)."),
        Column("near_copies", "near-copies", 2, meaning="Nearer than 99% of held-out images."),
        Column("kid", "KID × 10³", 1, 1e3, meaning="To held-out images."),
        Column("precision", "precision", 2),
        Column("recall", "recall", 2),
        Column("usable", "usable", meaning="Retention, novelty, near-copies suffice."),
        Column("chosen", "chosen", meaning="Newest of those of least KID."),
        Column("gap", "domain gap", 0, 1e3, meaning="KID × 10³, few-shot to in-domain images."),
    )

    def __init__(
        self,
        *,
        steps: Sequence[int],
        samplers: Mapping[str, Sampler],
        retention: float,
        novelty: float,
        near_copies: float,
    ) -> None:
        check_increasing(steps=steps)
        super().__init__(samplers=samplers, steps=steps)
        self.thresholds = Thresholds(retention, novelty, near_copies)

    def strip(self, run: Pipeline) -> str | None:
        first = run.sampler is self.samplers[0]
        return f"t = {run.settings.step}" if first else None

    def derive(self, pipeline: Pipeline, rows: Sequence[Row]) -> Sequence[Row]:
        measure, (real, _) = pipeline.measure, pipeline.references()
        references = real.figures, few_shot_row(pipeline).figures

        def bands(judge: str | None) -> list[dict[str, Any]]:
            name = judge or measure.judges.headline.name
            gap = kernel_distance(measure.few_shot.features[name], measure.in_domain[name])
            judged = [as_judged(row, judge) for row in rows]
            asked = [as_judged(row, judge) for row in references]
            curves = by_column(judged, "strategy").values()
            return [more for curve in curves for more in self._band(curve, *asked, gap=float(gap))]

        return by_each_judge(rows, bands)

    def _band(
        self, rows: Sequence[Row], real: Row, few_shot: Row, *, gap: float
    ) -> list[dict[str, Any]]:
        """Usable steps, the band, and the thresholds.

        Args:
            rows: of one strategy, a step each.
            real: metrics of real images.
            few_shot: metrics of the few-shot images.
            gap: distance of the target domain from the model's own.
        """
        relative = self.thresholds.relative_to(
            retention=1 - float(few_shot["captured"] or 0),
            novelty=float(real["authenticity"] or 0),
        )
        points = [point(row, real) for row in rows]
        band = find_band(points, relative, floor=float(real["kid"] or 0))
        return [
            {
                **_retention(row),
                "usable": relative.passed(reached),
                "chosen": band is not None and band.chosen == reached.step,
                "gap": gap,
                **_ends(band),
                "retention_asked": relative.retention,
                "novelty_asked": relative.novelty,
                "near_copies_asked": relative.near_copies,
                **bounds("excess", excess(row, real)),
            }
            for row, reached in zip(rows, points, strict=True)
        ]

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        sentences = [
            f"{domain}, {strategy}: {_band_of(curve)}."
            for (domain, strategy), curve in _curves(rows).items()
        ]
        for strategy in by_column(rows, "strategy"):
            sentences += _correlation(strategy, rows)
        return sentences

    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        from ood_sampler.studies.figures.bandwidth import draw

        return draw(rows, pictures)


def _retention(row: Row) -> dict[str, float]:
    """One less the captured fraction, whose bounds change places."""
    ends = {"": "", "_low": "_high", "_high": "_low"}
    return {
        f"retention{end}": 1 - value
        for end, other in ends.items()
        if (value := row.get(f"captured{other}")) is not None
    }


def _ends(band: Band | None) -> dict[str, float | bool | None]:
    names = {
        "band_low": "low",
        "band_high": "high",
        "open_low": "open_low",
        "open_high": "open_high",
    }
    return {key: None if band is None else getattr(band, name) for key, name in names.items()}


def _curves(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows of each domain and strategy, in the order of their names."""
    found = {
        (domain, strategy): curve
        for domain, own in by_domain(rows).items()
        for strategy, curve in by_column(own, "strategy").items()
    }
    return dict(sorted(found.items()))


def _band_of(curve: Sequence[Row]) -> str:
    """The band with its chosen step, and whether that step is usable beyond the errors."""
    first = curve[0]
    asked = (
        f"retention >= {first['retention_asked']:.2f} and novelty >= {first['novelty_asked']:.2f}"
    )
    if first["band_low"] is None:
        found = [_usable(row).outcome for row in curve]
        missed, left = found.count("refuted"), len(found) - found.count("refuted")
        tried = "no step tried" if len(curve) > 1 else f"t = {first['step']}, the only step tried,"
        told = f"{tried} keeps {asked}" if len(curve) > 1 else f"{tried} does not keep {asked}"
        return f"{told} (beyond the errors at {missed} of {len(curve)}, {TOO_FEW} at {left})"
    chosen = next(row for row in curve if row["chosen"])
    kept = (
        f"{quoted_kid(chosen)} (precision {chosen['precision']:.2f}, near-copies "
        f"{chosen['near_copies']:.2f}, retention {chosen['retention']:.2f}, novelty "
        f"{chosen['authenticity']:.2f}; of the last two {first['retention_asked']:.2f} and "
        f"{first['novelty_asked']:.2f} were asked, {_sure(chosen)})"
    )
    if len(curve) == 1:
        return f"t = {chosen['step']}, the only step tried, is usable, {kept}"
    below = "at most " if first["open_low"] else ""
    above = "at least " if first["open_high"] else ""
    return (
        f"the band reaches from {below}t = {first['band_low']:.0f} to "
        f"{above}{first['band_high']:.0f}; chosen is t = {chosen['step']}, {kept}"
    )


def _usable(row: Row) -> Decision:
    """Whether retention and novelty reach what was asked, and near-copies stay below it."""
    return all_of(
        [
            decide(interval(row, "retention"), least=row["retention_asked"]),
            decide(interval(row, "authenticity"), least=row["novelty_asked"]),
            decide(interval(row, "excess"), most=row["near_copies_asked"]),
        ]
    )


def _sure(row: Row) -> str:
    decision = _usable(row)
    return (
        "reached beyond the errors"
        if decision.outcome == "shown"
        else too_few(decision.factor, row)
    )


def _correlation(strategy: str, rows: Sequence[Row]) -> list[str]:
    """Rank correlation of the width of the band with the domain gap."""
    curves = [curve[0] for (_, own), curve in _curves(rows).items() if own == strategy]
    if len(curves) < 4:
        return []
    if units(curves) == "runs":
        return [
            f"{strategy}: the width of the band is not compared with the domain gap, as several "
            "runs of one domain are not independent: sweep over data alone."
        ]
    widths = torch.tensor(
        [0.0 if c["band_low"] is None else c["band_high"] - c["band_low"] for c in curves]
    )
    gaps = torch.tensor([c["gap"] for c in curves])
    rho, p = rank_correlation(gaps, widths)
    open_ends = sum(bool(c["open_low"]) or bool(c["open_high"]) for c in curves)
    if p < 0.05:
        claim = "as the paper says" if rho > 0 else "against the paper"
    else:
        claim = (
            "so the paper's claim that a larger gap gives a wider band is not shown here, nor "
            f"refuted: {_domains_needed(rho, len(curves))}"
        )
    return [
        f"{strategy}: width of the band against domain gap over {len(curves)} domains: Spearman's "
        f"rank correlation {rho:.2f} (permutation p = {p:.3f}), {claim}; {open_ends} of the bands "
        "reach an end of the steps tried."
    ]


def _domains_needed(rho: float, count: int) -> str:
    r"""Domains that would do: without order, $\rho \sqrt{n - 1}$ is about standard normal."""
    needed = math.ceil((_TWO_SIDED / rho) ** 2 + 1) if rho else math.inf
    if needed > _MOST_DOMAINS:
        return "too few domains to say"
    return f"too few domains to say, about {max(needed, count + 1)} in the same order would do"
