"""How well are images inverted and decoded again?"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ood_sampler.pipeline.pipeline import Pipeline, compare
from ood_sampler.report.columns import Column, Row
from ood_sampler.report.grid import gather
from ood_sampler.statistics.decision import decide, order, separation
from ood_sampler.statistics.intervals import interval
from ood_sampler.statistics.resampling import bootstrap
from ood_sampler.store.node import Node
from ood_sampler.store.sets import TensorSet
from ood_sampler.studies.base import Measured
from ood_sampler.studies.in_domain import (
    FEW_SHOT,
    IN_DOMAIN,
    DiagnosticStudy,
    inversions,
    reconstructions,
    too_few_of_each,
)
from ood_sampler.studies.rows import bounds, by_column, by_domain, by_step

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 10
"""Images of a row of the figure."""

ORIGINALS = "images"
"""Label of the images that are reconstructed."""

_AS_WELL = 1.0
"""Decibels that two sets may differ by to be reconstructed alike."""


class ReconstructionStudy(DiagnosticStudy):
    """Compare images with what is decoded from their latents, for one solver.

    Images of both sets are the same for all solvers, also where samples of the model stand for
    its domain.
    """

    name = "reconstruction"
    title = "Reconstruction: images inverted and decoded again"
    joins = ("solver",)
    caveat = (
        "The in-domain set is made of the model's own samples, the same for all solvers: they lie "
        "on its trajectories and come back better than real images of its domain would."
    )
    headings = (
        Column("set", "set"),
        Column("in_domain", "in-domain set", meaning="Samples of the model come back easily."),
        Column("solver", "solver"),
        Column("step", "step t", 0),
        Column("evaluations_in", "NFE in", 0, meaning="Network evaluations of the inversion."),
        Column("evaluations_out", "NFE out", 0, meaning="Network evaluations of the decoding."),
        Column("images", "images", 0),
        Column("mse", "MSE", meaning="Of images in [-1, 1]."),
        Column("psnr", "PSNR, dB", 2),
        Column("ssim", "SSIM", 4),
    )

    def targets(self, pipeline: Pipeline) -> list[Node]:
        return [
            *inversions(self.sources, pipeline),
            *reconstructions(self.sources, pipeline),
        ]

    def measure(self, pipeline: Pipeline) -> Measured:
        rows: list[Row] = []
        pictures: dict[str, Tensor] = {}
        about, steps = self.about(pipeline), sorted(set(self.sources.steps))
        for name, run in self.both(pipeline).items():
            run.latents()
            for step in steps:
                originals, decoded = run.variant(step=step).reconstructed()
                of_set = {"set": name, "in_domain": self.sources.kind}
                rows.append({**about, **of_set, **_row(run, step, originals, decoded)})
                if name == FEW_SHOT and step == steps[-1]:
                    shown = range(min(_SHOWN, len(originals)))
                    prefix = pipeline.domain.name
                    pictures[f"{prefix}/{ORIGINALS}"] = gather(originals, shown)
                    pictures[f"{prefix}/{run.codec.label}: t = {step}"] = gather(decoded, shown)
        return Measured(rows, pictures)

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        sentences = []
        for domain, own in by_domain(rows).items():
            for solver, at in by_column(own, "solver").items():
                last = by_step(at)[-1]
                by_set = {row["set"]: row for row in at if row["step"] == last["step"]}
                said = "; ".join(f"{name} {_score(row)}" for name, row in by_set.items())
                sentences.append(
                    f"{domain}, {solver}: at t = {last['step']} with {last['evaluations_in']} "
                    f"evaluations in and {last['evaluations_out']} out: {said}."
                )
                if len(by_set) == 2:
                    outside, inside = by_set[FEW_SHOT], by_set[IN_DOMAIN]
                    sentences.append(f"{domain}, {solver}: {_gap(outside, inside)}.")
        return sentences + self.caveats(rows)

    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        from ood_sampler.studies.figures.reconstruction import draw

        return draw(rows, pictures)


def _row(run: Pipeline, step: int, originals: TensorSet, decoded: TensorSet) -> Row:
    """Columns about reconstructions from one step."""
    figures: dict[str, float] = {}
    for score, values in compare(originals, decoded).items():
        figures |= bounds(score, bootstrap(torch.mean, torch.tensor(values).double()))
    return {
        "solver": run.codec.label,
        "step": step,
        "evaluations_in": run.inversion_evaluations([step]),
        "evaluations_out": run.codec.decoding_evaluations(step),
        "images": len(originals),
        **figures,
    }


def _score(row: Row) -> str:
    low, high = row["psnr_low"], row["psnr_high"]
    return f"{row['psnr']:.1f} dB [{low:.1f}, {high:.1f}], SSIM {row['ssim']:.3f}"


def _gap(outside: Row, inside: Row) -> str:
    difference = f"{abs(outside['psnr'] - inside['psnr']):.1f} dB"
    apart = separation(interval(outside, "psnr"), interval(inside, "psnr"))
    found = order(apart, margin=_AS_WELL)
    if found == "alike":
        return (
            f"the target domain is reconstructed as well as the model's own, to within "
            f"{_AS_WELL:g} dB"
        )
    if found == "unclear":
        said = too_few_of_each(decide(apart, least=-_AS_WELL, most=_AS_WELL), outside)
        return f"whether the target domain is reconstructed better, {said}"
    better = "better" if found == "higher" else "worse"
    return f"the target domain is reconstructed {better} than the model's own, by {difference}"
