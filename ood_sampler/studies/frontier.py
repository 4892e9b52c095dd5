"""Fidelity against novelty: the frozen model's latents and the pictures themselves, mixed alike."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ood_sampler.latents.frontier import Trade, advantage, pareto
from ood_sampler.pipeline import Pipeline, label
from ood_sampler.report.estimate import Work
from ood_sampler.report.plots import COLOURS, LINES, MARKERS, panel_figure, styled
from ood_sampler.samplers.base import Sampler
from ood_sampler.studies.base import (
    Heading,
    Measured,
    Row,
    Study,
    about,
    bounds,
    decoding,
    strategy_row,
    variant,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LATENTS, PIXELS, REAL = "latents", "pixels", "real"

_TRADES = {"kid": "authenticity", "blend_five": "precision"}
"""What should be low at an equal value of what should be high."""


class FrontierStudy(Study):
    r"""Does decoding through the frozen model beat mixing the pictures, at equal novelty?

    Every strategy that combines members alone is also applied to the few-shot pictures (the
    pixel-space control). All controls together make a frontier of KID over authenticity, and one
    of the blend score (variance that the best five few-shot pictures explain) over precision. A
    setting of the latents lies beyond a frontier if its interval does, corrected for the number of
    settings tried (`ood_sampler.latents.frontier`).

    Args:
        steps: inversion steps.
        samplers: strategies of the latents; those that mix are the controls too.
        controls: further strategies of the pictures, to extend their frontier.
        etas: noise of decoding.
    """

    name = "frontier"
    title = "Frontier: fidelity against novelty, latents and pixels"
    headings = (
        Heading("space", "space"),
        Heading("strategy", "strategy"),
        Heading("step", "step t", digits=0),
        Heading("eta", "η", digits=1),
        Heading("kid", "KID × 10³", 1, 1e3, meaning="To held-out pictures."),
        Heading("authenticity", "authenticity", 2),
        Heading("precision", "precision", 2),
        Heading("recall", "recall", 2),
        Heading("blend_five", "blend of 5", 3),
        Heading(
            "kid_gain",
            "KID × 10³ below pixels",
            1,
            1e3,
            meaning="Frontier of the pixel controls at equal authenticity, less the KID.",
        ),
        Heading(
            "blend_five_gain",
            "blend below pixels",
            3,
            meaning="Likewise, the blend of five at equal precision.",
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
        for run in self._runs(pipeline):
            run.check()

    def work(self, pipeline: Pipeline) -> list[Work]:
        return decoding(pipeline, self._runs(pipeline))

    def measure(self, pipeline: Pipeline) -> Measured:
        pipeline.invert()
        real = pipeline.measure.real()
        rows: list[dict[str, Any]] = [
            {**about(pipeline), "space": REAL, "strategy": real.name, **real.figures}
        ]
        known: dict[str, Sampler] = {}
        for sampler in (*self.samplers, *self.controls):
            if sampler.mixes:
                known.setdefault(label(sampler), sampler)
        for name, sampler in known.items():
            figures = pipeline.control_row(sampler).figures
            rows.append({**about(pipeline), "space": PIXELS, "strategy": name, **figures})
        rows += [{**strategy_row(run), "space": LATENTS} for run in self._runs(pipeline)]
        latents = [row for row in rows if row["space"] == LATENTS]
        pixels = [row for row in rows if row["space"] == PIXELS]
        for row in latents:
            for cost, gain in _TRADES.items():
                found = advantage(
                    _trade(row, gain, cost),
                    [_trade(other, gain, cost) for other in pixels],
                    comparisons=len(latents),
                )
                row |= bounds(f"{cost}_gain", found)
        return Measured(rows)

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        sentences, beyond = [], {key: 0 for key in _TRADES}
        domains = list(dict.fromkeys(row["domain"] for row in rows))
        for domain in domains:
            latents = [r for r in rows if r["domain"] == domain and r["space"] == LATENTS]
            parts = []
            for cost, words in (
                ("kid", "lower KID at equal authenticity"),
                ("blend_five", "a lower blend score at equal precision"),
            ):
                better = [row for row in latents if row[f"{cost}_gain_low"] > 0]
                beyond[cost] += bool(better)
                best = max(latents, key=lambda row: row[f"{cost}_gain_low"])
                scale, unit = (1e3, "e-3") if cost == "kid" else (1, "")
                gain = (
                    f"{scale * best[f'{cost}_gain']:.3g} "
                    f"[{scale * best[f'{cost}_gain_low']:.3g}, "
                    f"{scale * best[f'{cost}_gain_high']:.3g}]{unit}"
                )
                parts.append(
                    f"{len(better)} of {len(latents)} settings of the latents have {words} than "
                    f"the pixel controls, beyond the error bars (best {best['strategy']} at "
                    f"t = {best['step']}, η = {best['eta']:g}, by {gain})"
                )
            sentences.append(f"{domain}: {'; '.join(parts)}.")
        if len(domains) > 1:
            sentences.append(
                f"The frontier of the latents lies beyond that of the pixels on {beyond['kid']} of "
                f"{len(domains)} domains by KID at equal authenticity, and on "
                f"{beyond['blend_five']} by the blend score at equal precision."
            )
        return sentences

    @styled
    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        domains = list(dict.fromkeys(row["domain"] for row in rows))
        figure, panels = panel_figure(
            width=12, height=4 * len(domains) + 0.8, rows=len(domains), columns=2
        )
        strategies = list(dict.fromkeys(r["strategy"] for r in rows if r["space"] == LATENTS))
        for i, domain in enumerate(domains):
            own = [row for row in rows if row["domain"] == domain]
            for axes, (cost, gain) in zip(
                panels[2 * i : 2 * i + 2], _TRADES.items(), strict=True
            ):
                _scatter(axes, own, strategies, gain, cost)
            panels[2 * i].set_title(f"{domain}: KID × 10³, lower is better")
            panels[2 * i].set_xlabel("authenticity, higher is newer")
            panels[2 * i + 1].set_title(f"{domain}: blend of five, lower is less of a blend")
            panels[2 * i + 1].set_xlabel("precision, higher is more realistic")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5)
        return figure

    def _runs(self, pipeline: Pipeline) -> list[Pipeline]:
        return [
            variant(pipeline, sampler=sampler, step=step, eta=eta)
            for sampler, step, eta in product(self.samplers, self._steps, self.etas)
        ]


def _trade(row: Row, gain: str, cost: str) -> Trade:
    def error(key: str) -> float:
        return float(row[f"{key}_high"] - row[f"{key}_low"]) / (2 * 1.959964)

    return Trade(row[gain], row[cost], error(gain), error(cost))


def _scatter(
    axes: "Axes", rows: Sequence[Row], strategies: Sequence[str], gain: str, cost: str
) -> None:
    scale = 1e3 if cost == "kid" else 1.0
    pixels = [row for row in rows if row["space"] == PIXELS]
    line = pareto([_trade(row, gain, cost) for row in pixels])
    axes.plot(
        [point.gain for point in line],
        [scale * point.cost for point in line],
        color=COLOURS["control"],
        linewidth=2,
        label="frontier of pixel controls",
    )
    shown = [("pixel controls", COLOURS["control"], "x", pixels)]
    for k, strategy in enumerate(strategies):
        own = [r for r in rows if r["space"] == LATENTS and r["strategy"] == strategy]
        shown.append((f"{strategy}, latents", LINES[k % len(LINES)], MARKERS[k % 8], own))
    shown.append(("real pictures", COLOURS["reference"], "*", [r for r in rows if r["space"] == REAL]))
    for name, colour, marker, points in shown:
        axes.errorbar(
            [row[gain] for row in points],
            [scale * row[cost] for row in points],
            yerr=[
                [max(0.0, scale * (row[cost] - row[f"{cost}_low"])) for row in points],
                [max(0.0, scale * (row[f"{cost}_high"] - row[cost])) for row in points],
            ],
            linestyle="",
            color=colour,
            marker=marker,
            markersize=6,
            capsize=2,
            elinewidth=0.8,
            label=name,
        )
        if name.endswith("latents"):
            for row in points:
                axes.annotate(
                    f"{row['step']}",
                    (row[gain], scale * row[cost]),
                    textcoords="offset points",
                    xytext=(5, 4),
                    fontsize=7.5,
                    color=colour,
                )
    if cost == "kid":
        axes.set_yscale("symlog", linthresh=10)
    axes.grid()
