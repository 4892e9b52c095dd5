"""Fidelity against novelty: the frozen model's latents and the images themselves, mixed alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ood_sampler.metrics.opinions import as_judged
from ood_sampler.pipeline.keys import label
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Column, Row
from ood_sampler.samplers.base import Sampler
from ood_sampler.statistics.decision import TOO_FEW, Decision, Outcome, any_of, decide
from ood_sampler.statistics.frontier import Trade, advantage
from ood_sampler.statistics.intervals import interval
from ood_sampler.studies.rows import (
    bounds,
    by_domain,
    by_each_judge,
    standard_error,
    too_few,
    units,
)
from ood_sampler.studies.sweep import SweepStudy, check_left, compared, fitting, pixel_controls

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LATENTS, PIXELS, REAL = "latents", "pixels", "real"


SCALES = {"kid": 1e3}
"""By which numbers are multiplied where they are shown."""


@dataclass(frozen=True)
class Plane:
    """Two numbers that are traded for each other.

    Attributes:
        key: column of the advantage.
        cost: column that should be low.
        gain: column that should be equal.
        better: whether that one is good when high (1) or low (-1).
        words: the advantage.
    """

    key: str
    cost: str
    gain: str
    better: int
    words: str

    def trade(self, row: Row) -> Trade:
        """Both numbers of a row, with their errors."""
        return Trade(
            self.better * row[self.gain],
            row[self.cost],
            standard_error(row, self.gain),
            standard_error(row, self.cost),
        )


PLANES = (
    Plane("kid_gain", "kid", "authenticity", 1, "lower KID at equal authenticity"),
    Plane("blend_gain", "blend_five", "precision", 1, "a lower blend score at equal precision"),
    Plane("blend_kid_gain", "blend_five", "kid", -1, "a lower blend score at equal KID"),
)


class FrontierStudy(SweepStudy):
    r"""Does decoding through the frozen model beat mixing the images, at equal novelty?

    Every strategy that only combines members is also applied to the few-shot images (the pixel
    control). All controls together make a frontier of KID over authenticity, and two of the blend
    score (variance that the best five few-shot images explain), over precision and over KID. A
    setting of the latents lies beyond a frontier if its interval does, corrected for the number of
    settings tried (`ood_sampler.statistics.frontier`).

    Args:
        steps: inversion steps.
        samplers: strategies of the latents; those that mix are the controls too.
        controls: further strategies in pixels, to extend their frontier.
        etas: noise of decoding.
    """

    name = "frontier"
    title = "Frontier: fidelity against novelty, latents and pixels"
    needs = ("kid", "prdc", "authenticity", "near_copies", "blend")
    tolerant = True
    headings = (
        Column("space", "space"),
        Column("strategy", "strategy"),
        Column("step", "step t", digits=0),
        Column("eta", "η", digits=1),
        Column("images", "images", digits=0),
        Column("kid", "KID × 10³", 1, 1e3, meaning="To held-out images."),
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
        super().__init__(samplers=samplers, steps=steps, etas=etas)
        self.controls = list(controls.values())

    def check(self, pipeline: Pipeline) -> None:
        if not any(sampler.mixes for sampler in (*self.samplers, *self.controls)):
            raise ValueError("study.samplers must hold one that mixes, to have a pixel control")
        for sampler in self.controls:
            if not sampler.mixes:
                raise ValueError(
                    f"study.controls must hold strategies that mix, got {label(sampler)}: a "
                    "strategy of the latents belongs into study.samplers"
                )
        super().check(pipeline)
        for sampler in fitting(pipeline, self.controls):
            pipeline.variant(sampler=sampler).check()

    def derive(self, pipeline: Pipeline, rows: Sequence[Row]) -> Sequence[Row]:
        about, real = self.about(pipeline), pipeline.measure.real()
        mixed = pixel_controls(pipeline, (*self.samplers, *self.controls))
        check_left(mixed, "pixel control")
        pixels = [{**about, "space": PIXELS, **compared(row, name)} for name, row in mixed.items()]

        def gains(judge: str | None) -> list[dict[str, float]]:
            controls = [as_judged(row, judge) for row in pixels]
            return [_gains(as_judged(row, judge), controls, len(rows)) for row in rows]

        latents = [{**row, "space": LATENTS} for row in rows]
        others = [{**about, "space": REAL, **compared(real)}, *pixels]
        return [*others, *by_each_judge(latents, gains)]

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        domains = by_domain(rows)
        sentences = [
            f"{domain}, settings of the latents against the frontier of the pixel controls, beyond "
            f"the error bars: {'; '.join(_settings(own, plane) for plane in PLANES)}."
            for domain, own in domains.items()
        ]
        if len(domains) > 1:
            told = (_domains(list(domains.values()), plane) for plane in PLANES)
            sentences.append(
                f"{units(rows).capitalize()} on which a setting of the latents lies beyond the "
                f"pixel controls: {'; '.join(told)}."
            )
        return sentences

    def claims(self, rows: Sequence[Row]) -> Mapping[str, Outcome]:
        return {
            f"{plane.words} than by mixing pixels, on {domain}": _beyond(own, plane)
            for domain, own in by_domain(rows).items()
            for plane in PLANES
        }

    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        from ood_sampler.studies.figures.frontier import draw

        return draw(rows)


def _decisions(rows: Sequence[Row], plane: Plane) -> list[tuple[Row, Decision]]:
    """Settings of the latents, and whether each lies beyond the frontier of the controls."""
    return [
        (row, decide(interval(row, plane.key), least=0)) for row in rows if row["space"] == LATENTS
    ]


def _beyond(rows: Sequence[Row], plane: Plane) -> Outcome:
    """Whether any setting of a domain does."""
    return any_of([decision.outcome for _, decision in _decisions(rows, plane)])


def _settings(rows: Sequence[Row], plane: Plane) -> str:
    """How many settings are better, worse and neither, and the best of them."""
    found = _decisions(rows, plane)
    outcomes = [decision.outcome for _, decision in found]
    better, worse = outcomes.count("shown"), outcomes.count("refuted")
    best, decision = max(found, key=lambda each: float(each[0][f"{plane.key}_low"]))
    scale = SCALES.get(plane.cost, 1.0)
    value, low, high = (f"{scale * end:.3g}" for end in interval(best, plane.key))
    told = (
        f"{better} of {len(found)} have {plane.words}, for {worse} it is worse, for "
        f"{len(found) - better - worse} there are {TOO_FEW} "
        f"({'most clearly' if better else 'the best is'} {best['strategy']} at t = {best['step']}, "
        f"η = {best['eta']:g}: by {value} [{low}, {high}]"
        f"{' × 10⁻³' if plane.cost == 'kid' else ''}"
    )
    unclear = not better and decision.outcome == "unclear"
    return f"{told}, {too_few(decision.factor, best)})" if unclear else f"{told})"


def _domains(domains: Sequence[Sequence[Row]], plane: Plane) -> str:
    outcomes = [_beyond(own, plane) for own in domains]
    shown, worse = outcomes.count("shown"), outcomes.count("refuted")
    return (
        f"{shown} of {len(outcomes)} for {plane.words} (on {worse} all settings are worse, on "
        f"{len(outcomes) - shown - worse} there are {TOO_FEW})"
    )


def _gains(row: Row, controls: Sequence[Row], comparisons: int) -> dict[str, float]:
    """Distance of a setting of the latents beyond the frontiers of the pixel controls."""
    found: dict[str, float] = {}
    for plane in PLANES:
        frontier = [plane.trade(control) for control in controls]
        gained = advantage(plane.trade(row), frontier, comparisons=comparisons)
        found |= bounds(plane.key, gained)
    return found
