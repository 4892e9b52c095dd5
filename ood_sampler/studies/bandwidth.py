"""The band of inversion steps in which samples are new images of the target domain."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ood_sampler.metrics.kernel import kernel_distance
from ood_sampler.metrics.opinions import as_judged
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.annotate import add_legend, tick_values
from ood_sampler.report.columns import Column, Row
from ood_sampler.report.plots import LINES, MARKERS, panel_figure, scale_kid, styled
from ood_sampler.samplers.base import Sampler
from ood_sampler.statistics.band import Band, Thresholds, find_band
from ood_sampler.statistics.decision import TOO_FEW, Decision, all_of, decide
from ood_sampler.statistics.intervals import interval
from ood_sampler.statistics.ranks import rank_correlation
from ood_sampler.store.node import Node
from ood_sampler.studies.base import (
    Measured,
    Study,
    bounds,
    by_each_judge,
    decoding,
    excess,
    point,
    strategy_row,
    too_few,
)
from ood_sampler.studies.curves import by_domain, error_bars
from ood_sampler.studies.strips import draw_strips, first_samples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 6
"""Samples of each step in the figure."""

_WIDEST = 4.0
"""Inches of the pictures in the figure."""

_TWO_SIDED = 1.96
"""Beyond which a standard normal value is called different from 0."""

_MOST_DOMAINS = 200
"""More would be no practical advice."""


class BandwidthStudy(Study):
    r"""Retention, novelty and KID over the inversion step, for one or several strategies.

    Retention is one less the captured fraction, novelty the authenticity, KID that to held-out
    pictures. A step is usable if retention and novelty reach stated shares of those of real
    pictures and near-copies do not exceed theirs beyond doubt. The band is the usable range around
    the chosen step, its ends interpolated: of the usable steps whose KID is not told apart from the
    least, the one that makes the newest images (`ood_sampler.statistics.band`). The domain gap is
    the KID between the few-shot pictures and the model's own domain.

    Args:
        steps: inversion steps, increasing.
        samplers: strategies; the figure shows the pictures of the first.
        retention: least share of the retention of real few-shot pictures, in (0, 1].
        novelty: least share of the authenticity of real held-out pictures, in (0, 1].
        near_copies: share of near-copies beyond that of real held-out pictures that is still
            allowed: the lower bound of the difference (95%) may not lie above it.
    """

    name = "bandwidth"
    title = "Bandwidth: which inversion steps make new images of the domain"
    needs = ("kid", "authenticity", "near_copies", "captured")
    headings = (
        Column("strategy", "strategy"),
        Column("step", "step t", digits=0),
        Column("images", "images", digits=0),
        Column("retention", "retention", 2, meaning="Share not captured by the model's domain."),
        Column("authenticity", "novelty", 2, meaning="Authenticity (Alaa et al., 2022)."),
        Column("near_copies", "near-copies", 2, meaning="Nearer than 99% of held-out pictures."),
        Column("kid", "KID × 10³", 1, 1e3, meaning="To held-out pictures."),
        Column("precision", "precision", 2),
        Column("recall", "recall", 2),
        Column("usable", "usable", meaning="Retention, novelty, near-copies suffice."),
        Column("chosen", "chosen", meaning="Newest of those of least KID."),
        Column("gap", "domain gap", 0, 1e3, meaning="KID × 10³, few-shot to in-domain pictures."),
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
        self._steps = list(steps)
        self.samplers = list(samplers.values())
        self.thresholds = Thresholds(retention, novelty, near_copies)

    @property
    def steps(self) -> Sequence[int]:
        return self._steps

    def check(self, pipeline: Pipeline) -> None:
        if self._steps != sorted(set(self._steps)) or not self._steps:
            raise ValueError(f"study.steps must increase, got {self._steps}")
        if not self.samplers:
            raise ValueError("study.samplers must name at least one strategy, got none")
        for run in self._runs(pipeline):
            run.check()

    def targets(self, pipeline: Pipeline) -> list[Node]:
        return decoding(pipeline, self._runs(pipeline))

    def measure(self, pipeline: Pipeline) -> Measured:
        pipeline.session.obtain(pipeline.inversion)
        real, _ = pipeline.references()
        measure = pipeline.measure
        few_shot = measure.row("few-shot", "reference", measure.few_shot)
        rows: list[Row] = []
        pictures: dict[str, Tensor] = {}
        for sampler in self.samplers:
            found = []
            for run in self._runs(pipeline, [sampler]):
                found.append(strategy_row(run))
                if sampler is self.samplers[0]:
                    name = f"{pipeline.domain.name}/t = {run.settings.step}"
                    pictures[name] = first_samples(run, _SHOWN)

            def band(judge: str | None, found: Sequence[Row] = found) -> list[dict[str, Any]]:
                name = judge or measure.judges.headline.name
                gap = kernel_distance(measure.few_shot.features[name], measure.in_domain[name])
                judged = [as_judged(row, judge) for row in found]
                references = (as_judged(row.figures, judge) for row in (real, few_shot))
                return self._band(judged, *references, gap=float(gap))

            rows += by_each_judge(found, band)
        return Measured(rows, pictures)

    def _band(
        self, rows: Sequence[Row], real: Row, few_shot: Row, *, gap: float
    ) -> list[dict[str, Any]]:
        """Which steps are usable, in what band, and what was asked of them.

        Args:
            rows: of one strategy, a step each.
            real: figures of real pictures.
            few_shot: figures of the few-shot pictures.
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
            for (domain, strategy), curve in _curves(rows)
        ]
        for strategy in dict.fromkeys(row["strategy"] for row in rows):
            sentences += _correlation(strategy, rows)
        return sentences

    @styled
    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        rows_of = by_domain(rows)
        by_gap = sorted({(row["gap"], row["domain"]) for row in rows})
        domains = [domain for _, domain in by_gap]
        strategies = list(dict.fromkeys(row["strategy"] for row in rows))
        steps = len({row["step"] for row in rows})
        height = max(2.5, 0.34 * steps + 0.7)
        # pictures as tall as the panels beside them, and their names
        widths = [0.8 + min(_SHOWN * (height - 0.7) / steps, _WIDEST), 3.5, 3.5, 3.5]
        figure, panels = panel_figure(
            width=sum(widths),
            height=height * len(domains) + 0.8,
            rows=len(domains),
            columns=4,
            widths=widths,
        )
        for i, domain in enumerate(domains):
            line = panels[4 * i : 4 * i + 4]
            own = rows_of[domain]
            strip = {k: x for k, x in pictures.items() if k.startswith(f"{domain}/")}
            draw_strips(line[0], strip, title=f"{domain}\ngap {1e3 * own[0]['gap']:.0f}")
            for axes, key, name, scale, asked in (
                (line[1], "retention", "retention", 1.0, "retention_asked"),
                (line[2], "authenticity", "novelty", 1.0, "novelty_asked"),
                (line[3], "kid", "KID × 10³", 1e3, None),
            ):
                for k, strategy in enumerate(strategies):
                    curve = [row for row in own if row["strategy"] == strategy]
                    axes.errorbar(
                        [row["step"] for row in curve],
                        [scale * row[key] for row in curve],
                        yerr=error_bars(curve, key, scale=scale),
                        color=LINES[k % len(LINES)],
                        marker=MARKERS[k % len(MARKERS)],
                        markersize=4,
                        capsize=2,
                        label=strategy,
                    )
                    if k == 0 and len(curve) > 1 and curve[0]["band_low"] is not None:
                        axes.axvspan(
                            curve[0]["band_low"],
                            curve[0]["band_high"],
                            color=LINES[0],
                            alpha=0.1,
                            label=f"band of {strategy}",
                        )
                        axes.axvline(
                            next(row["step"] for row in curve if row["chosen"]),
                            color=LINES[0],
                            linestyle=":",
                            label="its chosen step",
                        )
                if asked is None:
                    scale_kid(axes, "y", [row["kid"] for row in own])
                else:
                    axes.axhline(
                        own[0][asked],
                        color="#77808c",
                        linestyle="--",
                        linewidth=1,
                        label="least share asked",
                    )
                    axes.set_ylim(-0.03, 1.03)
                if i == 0:
                    axes.set_title(name)
                tick_values(axes, [row["step"] for row in own])
                if i == len(domains) - 1:
                    axes.set_xlabel("inversion step t")
                axes.grid()
        shown = [axes.get_legend_handles_labels() for axes in panels]
        legend = {
            label: handle
            for handles, labels in shown
            for handle, label in zip(handles, labels, strict=True)
        }
        add_legend(figure, list(legend.values()), list(legend), columns=5)
        return figure

    def _runs(
        self, pipeline: Pipeline, samplers: Sequence[Sampler] | None = None
    ) -> list[Pipeline]:
        return [
            pipeline.variant(sampler=sampler, step=step)
            for sampler in (self.samplers if samplers is None else samplers)
            for step in self._steps
        ]


def _retention(row: Row) -> dict[str, float]:
    """Of the captured fraction and its bounds, which change places."""
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


def _curves(rows: Sequence[Row]) -> list[tuple[tuple[str, str], list[Row]]]:
    def key(row: Row) -> tuple[str, str]:
        return row["domain"], row["strategy"]

    return [(name, list(curve)) for name, curve in groupby(sorted(rows, key=key), key)]


def _band_of(curve: Sequence[Row]) -> str:
    """The band with the step of least KID in it, and whether the errors leave that step usable."""
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
        f"KID {1e3 * chosen['kid']:.1f} ± {1e3 * chosen['kid_standard_error']:.1f} × 10⁻³ "
        f"(precision {chosen['precision']:.2f}, near-copies {chosen['near_copies']:.2f}, retention "
        f"{chosen['retention']:.2f}, novelty {chosen['authenticity']:.2f}; of the last two "
        f"{first['retention_asked']:.2f} and {first['novelty_asked']:.2f} were asked, "
        f"{_sure(chosen)})"
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
    """How the width of the band orders with the domain gap."""
    curves = [curve[0] for (_, s), curve in _curves(rows) if s == strategy]
    if len(curves) < 4:
        return []
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
    r"""How many domains would do, as $\rho \sqrt{n - 1}$ is about standard normal without order."""
    needed = math.ceil((_TWO_SIDED / rho) ** 2 + 1) if rho else math.inf
    if needed > _MOST_DOMAINS:
        return "too few domains to say"
    return f"too few domains to say, about {max(needed, count + 1)} in the same order would do"
