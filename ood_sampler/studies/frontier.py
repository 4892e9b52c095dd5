"""Fidelity against novelty: the frozen model's latents and the pictures themselves, mixed alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from ood_sampler.metrics.opinions import as_judged
from ood_sampler.pipeline.nodes import label
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.annotate import Label, add_legend, entitle, place_labels
from ood_sampler.report.columns import Column, Row
from ood_sampler.report.plots import COLOURS, LINES, MARKERS, panel_figure, scale_kid, styled
from ood_sampler.samplers.base import Sampler
from ood_sampler.statistics.decision import TOO_FEW, Decision, Outcome, any_of, decide
from ood_sampler.statistics.frontier import Trade, advantage, pareto
from ood_sampler.statistics.intervals import interval
from ood_sampler.store.node import Node
from ood_sampler.studies.base import (
    Measured,
    Study,
    about,
    attempted,
    bounds,
    by_each_judge,
    check_fitting,
    check_left,
    decoding,
    fitting,
    standard_error,
    strategy_row,
    too_few,
)
from ood_sampler.studies.curves import by_domain, error_bars

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LATENTS, PIXELS, REAL = "latents", "pixels", "real"


@dataclass(frozen=True)
class _Plane:
    """Two figures that are traded for each other.

    Attributes:
        key: of the advantage in a row.
        cost: figure that should be low.
        gain: figure that should be equal.
        better: whether that one is good when high (1) or low (-1).
        words: the advantage.
        label: of the second figure, for the axis.
    """

    key: str
    cost: str
    gain: str
    better: int
    words: str
    label: str

    @property
    def scale(self) -> float:
        """Of the cost, as it is shown."""
        return _SCALES.get(self.cost, 1.0)


_SCALES = {"kid": 1e3}
_TITLES = {"kid": "KID × 10³, lower is better", "blend_five": "blend of five, lower is newer"}

_PLANES = (
    _Plane(
        "kid_gain",
        "kid",
        "authenticity",
        1,
        "lower KID at equal authenticity",
        "authenticity, higher is newer",
    ),
    _Plane(
        "blend_gain",
        "blend_five",
        "precision",
        1,
        "a lower blend score at equal precision",
        "precision, higher is more realistic",
    ),
    _Plane(
        "blend_kid_gain",
        "blend_five",
        "kid",
        -1,
        "a lower blend score at equal KID",
        "KID × 10³, lower is better",
    ),
)


class FrontierStudy(Study):
    r"""Does decoding through the frozen model beat mixing the pictures, at equal novelty?

    Every strategy that combines members alone is also applied to the few-shot pictures (the
    pixel-space control). All controls together make a frontier of KID over authenticity, and two
    of the blend score (variance that the best five few-shot pictures explain), over precision and
    over KID. A setting of the latents lies beyond a frontier if its interval does, corrected for
    the number of settings tried (`ood_sampler.statistics.frontier`).

    Args:
        steps: inversion steps.
        samplers: strategies of the latents; those that mix are the controls too.
        controls: further strategies of the pictures, to extend their frontier.
        etas: noise of decoding.
    """

    name = "frontier"
    title = "Frontier: fidelity against novelty, latents and pixels"
    needs = ("kid", "prdc", "authenticity", "near_copies", "blend")
    headings = (
        Column("space", "space"),
        Column("strategy", "strategy"),
        Column("step", "step t", digits=0),
        Column("eta", "η", digits=1),
        Column("images", "images", digits=0),
        Column("kid", "KID × 10³", 1, 1e3, meaning="To held-out pictures."),
        Column("authenticity", "authenticity", 2),
        Column("near_copies", "near-copies", 2),
        Column("precision", "precision", 2),
        Column("recall", "recall", 2),
        Column("blend_five", "blend of 5", 3),
        Column(
            "kid_gain",
            "KID × 10³ below pixels",
            1,
            1e3,
            meaning="Frontier of the pixel controls at equal authenticity, less the KID.",
        ),
        Column(
            "blend_gain",
            "blend below, precision",
            3,
            meaning="Likewise, the blend of five at equal precision.",
        ),
        Column(
            "blend_kid_gain",
            "blend below, KID",
            3,
            meaning="Likewise, the blend of five at equal KID.",
        ),
    )

    def __init__(
        self,
        *,
        steps: Sequence[int],
        samplers: Mapping[str, Sampler],
        controls: Mapping[str, Sampler],
        etas: Sequence[float],
    ) -> None:
        if not steps or not samplers or not etas:
            raise ValueError("study.steps, study.samplers and study.etas must not be empty")
        self._steps = list(steps)
        self.samplers = list(samplers.values())
        self.controls = list(controls.values())
        self.etas = list(etas)

    @property
    def steps(self) -> Sequence[int]:
        return self._steps

    def check(self, pipeline: Pipeline) -> None:
        if not any(sampler.mixes for sampler in (*self.samplers, *self.controls)):
            raise ValueError("study.samplers must hold one that mixes, to have a pixel control")
        for sampler in self.controls:
            if not sampler.mixes:
                raise ValueError(
                    f"study.controls must hold strategies that mix, got {label(sampler)}: a "
                    "strategy of the latents belongs into study.samplers"
                )
        check_fitting(pipeline, self.samplers)
        controls = fitting(pipeline, self.controls)
        for run in (*self._runs(pipeline), *(pipeline.variant(sampler=s) for s in controls)):
            run.check()

    def targets(self, pipeline: Pipeline) -> list[Node]:
        return decoding(pipeline, self._runs(pipeline))

    def measure(self, pipeline: Pipeline) -> Measured:
        pipeline.session.obtain(pipeline.inversion)
        real = pipeline.measure.real()
        rows: list[dict[str, Any]] = [
            {
                **about(pipeline),
                "space": REAL,
                "strategy": real.name,
                "images": real.samples,
                **real.figures,
            }
        ]
        known: dict[str, Sampler] = {}
        for sampler in fitting(pipeline, (*self.samplers, *self.controls)):
            if sampler.mixes:
                known.setdefault(label(sampler), sampler)
        for name, sampler in known.items():
            found = attempted(f"{name} in pixels", pipeline.in_pixels(sampler).sample_row)
            if found is not None:
                rows.append(
                    {
                        **about(pipeline),
                        "space": PIXELS,
                        "strategy": name,
                        "images": found.samples,
                        **found.figures,
                    }
                )
        for run in self._runs(pipeline):
            row = attempted(label(run.sampler), partial(strategy_row, run))
            if row is not None:
                rows.append({**row, "space": LATENTS})
        latents = [row for row in rows if row["space"] == LATENTS]
        pixels = [row for row in rows if row["space"] == PIXELS]
        check_left(latents, "strategy")
        check_left(pixels, "pixel control")

        def gains(judge: str | None) -> list[dict[str, float]]:
            controls = [as_judged(row, judge) for row in pixels]
            return [_gains(as_judged(row, judge), controls, len(latents)) for row in latents]

        others = [row for row in rows if row["space"] != LATENTS]
        return Measured([*others, *by_each_judge(latents, gains)])

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        sentences: list[str] = []
        of_domains: dict[str, list[Outcome]] = {plane.key: [] for plane in _PLANES}
        domains = by_domain(rows)
        for domain, own in domains.items():
            latents = [row for row in own if row["space"] == LATENTS]
            parts = []
            for plane in _PLANES:
                found = [decide(interval(row, plane.key), least=0) for row in latents]
                outcomes = [decision.outcome for decision in found]
                of_domains[plane.key].append(any_of(outcomes))
                parts.append(_settings(latents, plane, found))
            sentences.append(
                f"{domain}, settings of the latents against the frontier of the pixel controls, "
                f"beyond the error bars: {'; '.join(parts)}."
            )
        if len(domains) > 1:
            told = (_domains(of_domains[plane.key], plane.words) for plane in _PLANES)
            sentences.append(
                "Domains on which a setting of the latents lies beyond the pixel controls: "
                f"{'; '.join(told)}."
            )
        return sentences

    def claims(self, rows: Sequence[Row]) -> Mapping[str, Outcome]:
        return {
            f"{plane.words} than by mixing pixels, on {domain}": any_of(
                [
                    decide(interval(row, plane.key), least=0).outcome
                    for row in own
                    if row["space"] == LATENTS
                ]
            )
            for domain, own in by_domain(rows).items()
            for plane in _PLANES
        }

    @styled
    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        domains = by_domain(rows)
        figure, panels = panel_figure(
            width=15, height=3.8 * len(domains) + 0.8, rows=len(domains), columns=3
        )
        strategies = list(dict.fromkeys(r["strategy"] for r in rows if r["space"] == LATENTS))
        points: list[tuple[Axes, Sequence[Label]]] = []
        for i, (domain, own) in enumerate(domains.items()):
            for axes, plane in zip(panels[3 * i : 3 * i + 3], _PLANES, strict=True):
                points.append((axes, _scatter(axes, own, strategies, plane)))
                entitle(axes, f"{domain}: {_TITLES[plane.cost]}")
                axes.set_xlabel(plane.label)
        add_legend(figure, *panels[0].get_legend_handles_labels(), columns=4)
        place_labels(figure, points)
        return figure

    def _runs(self, pipeline: Pipeline) -> list[Pipeline]:
        return [
            pipeline.variant(sampler=sampler, step=step, eta=eta)
            for sampler, step, eta in product(
                fitting(pipeline, self.samplers), self._steps, self.etas
            )
        ]


def _settings(rows: Sequence[Row], plane: _Plane, found: Sequence[Decision]) -> str:
    """How many settings are better, worse and neither, and the best of them."""
    outcomes = [decision.outcome for decision in found]
    better, worse = outcomes.count("shown"), outcomes.count("refuted")
    k = max(range(len(rows)), key=lambda k: float(rows[k][f"{plane.key}_low"]))
    best = rows[k]
    value, low, high = (f"{plane.scale * end:.3g}" for end in interval(best, plane.key))
    told = (
        f"{better} of {len(rows)} have {plane.words}, for {worse} it is worse, for "
        f"{len(rows) - better - worse} there are {TOO_FEW} "
        f"({'most clearly' if better else 'the best is'} {best['strategy']} at t = {best['step']}, "
        f"η = {best['eta']:g}: by {value} [{low}, {high}]"
        f"{' × 10⁻³' if plane.cost == 'kid' else ''}"
    )
    unclear = not better and found[k].outcome == "unclear"
    return f"{told}, {too_few(found[k].factor, best)})" if unclear else f"{told})"


def _domains(outcomes: Sequence[Outcome], words: str) -> str:
    shown, worse = outcomes.count("shown"), outcomes.count("refuted")
    return (
        f"{shown} of {len(outcomes)} for {words} (on {worse} all settings are worse, on "
        f"{len(outcomes) - shown - worse} there are {TOO_FEW})"
    )


def _gains(row: Row, controls: Sequence[Row], comparisons: int) -> dict[str, float]:
    """By how much a setting of the latents lies beyond the frontiers of the pixel controls."""
    found: dict[str, float] = {}
    for plane in _PLANES:
        frontier = [_trade(control, plane) for control in controls]
        gained = advantage(_trade(row, plane), frontier, comparisons=comparisons)
        found |= bounds(plane.key, gained)
    return found


def _trade(row: Row, plane: _Plane) -> Trade:
    return Trade(
        plane.better * row[plane.gain],
        row[plane.cost],
        standard_error(row, plane.gain),
        standard_error(row, plane.cost),
    )


def _setting(row: Row) -> str:
    return f"{row['step']}" + (f", η = {row['eta']:g}" if row["eta"] else "")


def _scatter(
    axes: "Axes", rows: Sequence[Row], strategies: Sequence[str], plane: _Plane
) -> list[Label]:
    """Draw all settings, and give their points, labelled those of the latents."""
    cost, scale, across = plane.cost, plane.scale, _SCALES.get(plane.gain, 1.0)
    pixels = [row for row in rows if row["space"] == PIXELS]
    line = pareto([_trade(row, plane) for row in pixels])
    axes.plot(
        [across * plane.better * point.gain for point in line],
        [scale * point.cost for point in line],
        color=COLOURS["control"],
        linewidth=2,
        label="frontier of pixel controls",
    )
    shown = [("pixel controls", COLOURS["control"], "x", pixels)]
    for k, strategy in enumerate(strategies):
        own = [r for r in rows if r["space"] == LATENTS and r["strategy"] == strategy]
        shown.append(
            (
                f"{strategy}, latents at step t",
                LINES[k % len(LINES)],
                MARKERS[k % len(MARKERS)],
                own,
            )
        )
    shown.append(
        ("real pictures", COLOURS["reference"], "*", [r for r in rows if r["space"] == REAL])
    )
    labels = []
    for name, colour, marker, points in shown:
        axes.errorbar(
            [across * row[plane.gain] for row in points],
            [scale * row[cost] for row in points],
            yerr=error_bars(points, cost, scale=scale),
            linestyle="",
            color=colour,
            marker=marker,
            markersize=6,
            capsize=2,
            elinewidth=0.8,
            label=name,
        )
        for row in points:
            text = _setting(row) if row["space"] == LATENTS else ""
            labels.append(Label(text, across * row[plane.gain], scale * row[cost], colour))
    directions: tuple[tuple[Literal["x", "y"], str], ...] = (("x", plane.gain), ("y", cost))
    for direction, key in directions:
        if key == "kid":
            scale_kid(axes, direction, [row["kid"] for row in rows])
    axes.grid()
    return labels
