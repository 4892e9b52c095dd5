"""Measures of astronomy: power spectra, intensities and shapes of samples and of pictures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ood_sampler.data.radiation import FieldScale
from ood_sampler.metrics.intensity import area_distance, areas, wasserstein_distance
from ood_sampler.metrics.morphology import BAD, MEASURES, check_statmorph, morphology
from ood_sampler.metrics.power_spectrum import log_spectra, spectrum_distance, wave_numbers
from ood_sampler.pipeline.nodes import configuration, label, taken
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.annotate import add_legend, entitle
from ood_sampler.report.columns import Column, Row, number
from ood_sampler.report.plots import COLOURS, panel_figure, styled
from ood_sampler.report.tables import IN_DOMAIN
from ood_sampler.statistics.decision import Outcome, all_of, decide, separation
from ood_sampler.statistics.intervals import interval, mean_interval
from ood_sampler.statistics.resampling import Interval
from ood_sampler.store.node import Node
from ood_sampler.store.sets import Selected, TensorSet
from ood_sampler.studies.base import Measured, Study, about, bounds, decoding, too_few
from ood_sampler.studies.curves import Run, by_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMES = {
    "concentration": "concentration C",
    "asymmetry": "asymmetry A",
    "gini": "Gini coefficient",
    "m20": "M20",
}
_DISTANCES = {
    "spectrum": "power spectrum",
    "intensity": "intensity",
    **{f"{key}_distance": name for key, name in _NAMES.items()},
}
_QUANTILES = (5, 25, 50, 75, 95)
_KNOTS = 1025
"""Colours, evenly spaced, between which the distribution of intensities is integrated."""
_ROLE_COLOURS = {**COLOURS, "held-out": "#1c2026", "real": "#2a8a57"}


@dataclass(frozen=True)
class _Values:
    """What is compared of one set of images.

    Attributes:
        spectra: of `log_spectra`, shape (N, rings).
        intensities: `areas` of each band, shape (N, bands, bins).
        shapes: measures of the first images, NaN where one could not be measured.
        failed: which of these could not be measured, bool.
    """

    spectra: Tensor
    intensities: Tensor
    shapes: Mapping[str, Tensor]
    failed: Tensor


class AstroStudy(Study):
    """Field measures of samples, beside those of a pixel control, of own samples and real pictures.

    Images of a domain with a scale are physical fields again before they are measured: spectra
    are of the values themselves, intensities of their logarithm to base 10 where the scale is
    logarithmic, shapes of the sum of bands. Of other domains the brightness is measured, the mean
    of the colours from 0 to 1. Distances are biased upward, more for few images: those of all
    sets from the held-out pictures are of as many images as the smallest set has, the first ones.

    Args:
        morphology_images: images of each set whose shape is measured, at most; 0 measures none.
    """

    name = "astro"
    title = "Measures of astronomy against held-out pictures"
    headings = (
        Column("set", "set"),
        Column("images", "images", 0),
        Column(
            "spectrum",
            "power spectrum, dex",
            3,
            meaning=(
                "Root mean square difference of the mean logarithm of the radially averaged power "
                "to that of held-out pictures; 0.3 is a factor of 2."
            ),
        ),
        Column(
            "intensity",
            "intensity",
            4,
            meaning=(
                "1-Wasserstein distance between the distributions of all pixels: in decades of the "
                "physical value where the scale of the domain is logarithmic, in its unit where it "
                "is not, as a share of full brightness for pictures; the mean over bands."
            ),
        ),
        *(
            Column(key, name, 3, meaning=f"Mean {name} of the images that could be measured.")
            for key, name in _NAMES.items()
        ),
        *(
            Column(
                f"{key}_distance",
                f"{name}, distance",
                3,
                meaning=(
                    f"1-Wasserstein distance between the distributions of {name}, in standard "
                    "deviations of the held-out pictures."
                ),
            )
            for key, name in _NAMES.items()
        ),
        Column(
            "failed",
            "failed",
            2,
            meaning="Share of images whose shape could not be measured (flag 2 or more).",
        ),
    )

    def __init__(self, *, morphology_images: int) -> None:
        if morphology_images < 0 or morphology_images == 1:
            raise ValueError(
                f"study.morphology_images must be 0 or at least 2, got {morphology_images}"
            )
        self.morphology_images = morphology_images

    def check(self, pipeline: Pipeline) -> None:
        super().check(pipeline)
        if self.morphology_images:
            check_statmorph()

    def targets(self, pipeline: Pipeline) -> list[Node]:
        return decoding(pipeline, [pipeline])

    def measure(self, pipeline: Pipeline) -> Measured:
        scale, held_out = pipeline.domain.scale, taken(pipeline.domain.held_out)
        reference = self._values(held_out, scale)
        numbers = wave_numbers(pipeline.model.resolution).tolist()
        rows = []
        for name, role, images in [
            ("held-out pictures", "held-out", held_out),
            *_equal_sized(list(_sets(pipeline))),
        ]:
            values = reference if role == "held-out" else self._values(images, scale)
            rows.append(
                {
                    **about(pipeline),
                    "set": name,
                    "role": role,
                    "images": len(images),
                    "step": pipeline.settings.step,
                    **({} if role == "held-out" else _distances(values, reference)),
                    **_shapes(values),
                    **_curve(values.spectra, reference.spectra, numbers),
                }
            )
        return Measured(rows)

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        sentences = []
        for name, own in by_run(rows, "role", _settings).items():
            samples, real = own["strategy"], own["real"]
            listed = ", ".join(
                f"{what} {_interval(samples, key)} ({_interval(real, key)})"
                for key, what in _DISTANCES.items()
                if _both(samples, real, key)
            )
            sentences.append(
                f"{name}: distances of {samples['images']} images of {samples['set']} from "
                f"held-out pictures, those of {real['images']} of {real['set']} in brackets: "
                f"{listed}."
            )
            for other in [real, *([own["control"]] if "control" in own else [])]:
                sentences.append(f"{name}: {_verdict(samples, other)}")
                lacking = _lacking(samples, other)
                if lacking:
                    sentences.append(
                        f"{name}: {samples['set']} and {other['set']} cannot be compared in "
                        f"{', '.join(lacking)}: fewer than two images of a set have it, or all "
                        "held-out pictures have the same."
                    )
            failed = [
                f"{row['failed']:.0%} of {row['set']}"
                for row in own.values()
                if number(row.get("failed")) is not None
            ]
            if failed:
                sentences.append(
                    f"{name}: shapes are those of the images that have one; it could not be "
                    f"measured for {', '.join(failed)}."
                )
        return sentences

    @styled
    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        runs = by_run(rows, "role", _settings)
        measured = {key: name for key, name in _NAMES.items() if any(_known(r, key) for r in rows)}
        columns = 2 + len(measured)
        figure, panels = panel_figure(
            width=3.3 * columns, height=3.9 * len(runs) + 0.7, rows=len(runs), columns=columns
        )
        legend: dict[str, Any] = {}
        for i, (name, run) in enumerate(runs.items()):
            own = list(run.values())
            power, ratio, *shapes = panels[columns * i : columns * (i + 1)]
            _draw_spectra(power, own, "power")
            entitle(power, f"{name}: power")
            power.set_ylabel("mean log₁₀ of the power")
            _draw_spectra(ratio, own, "excess")
            ratio.set_title("power against held-out")
            ratio.set_ylabel("difference, decades")
            for axes, (key, shape) in zip(shapes, measured.items(), strict=True):
                _draw_boxes(axes, own, key)
                axes.set_title(shape)
            handles, labels = ratio.get_legend_handles_labels()
            # strategies of several runs share a colour, and their panels tell them apart
            legend |= dict(zip(labels, handles, strict=True))
        add_legend(figure, list(legend.values()), list(legend), columns=6)
        return figure

    def _values(self, images: TensorSet, scale: FieldScale | None) -> _Values:
        knots = _knots(scale)
        spectra, intensities, found = [], [], []
        left = self.morphology_images
        for block in images.blocks():
            fields = _fields(block, scale)
            spectra.append(log_spectra(fields))
            bands = zip(_one_point(fields, scale).unbind(dim=1), knots, strict=True)
            intensities.append(
                torch.stack([areas(band.flatten(start_dim=1), each) for band, each in bands], dim=1)
            )
            if left:
                found.append(morphology(fields[:left].sum(dim=1)))
                left -= len(fields[:left])
        shapes = {key: torch.cat([getattr(m, key) for m in found]) for key in MEASURES if found}
        failed = torch.cat([m.flag >= BAD for m in found]) if found else torch.empty(0)
        return _Values(torch.cat(spectra), torch.cat(intensities), shapes, failed)


def _settings(run: Run) -> dict[str, object]:
    """What runs of a sweep may differ in."""
    samples = run["strategy"]
    return {"strategy": samples["set"], "t": samples["step"]}


def _sets(pipeline: Pipeline) -> Iterator[tuple[str, str, TensorSet]]:
    """Name, role and images of each set that is compared with the held-out pictures."""
    yield label(pipeline.sampler), "strategy", pipeline.sampled().images
    for control in _control(pipeline):
        yield control.title, "control", control.sampled().images
    yield IN_DOMAIN, "reference", pipeline.own.images
    yield "few-shot pictures", "real", taken(pipeline.domain.few_shot)


def _equal_sized(sets: Sequence[tuple[str, str, TensorSet]]) -> list[tuple[str, str, TensorSet]]:
    """Cut all sets to the size of the smallest."""
    count = min(len(images) for _, _, images in sets)
    return [(name, role, Selected(images, range(count))) for name, role, images in sets]


def _control(pipeline: Pipeline) -> list[Pipeline]:
    """The run's strategy on the pictures, or the control of two pictures if it mixes none."""
    own, controls = configuration(pipeline.sampler), pipeline.controls
    same = [control for control in controls if configuration(control.sampler) == own]
    return (same + controls[::-1])[:1]


def _fields(images: Tensor, scale: FieldScale | None) -> Tensor:
    """What images stand for, float64, shape (N, bands, H, W)."""
    if scale is None:
        return (images.double().clamp(-1, 1) + 1).mean(dim=1, keepdim=True) / 2
    return scale.from_pictures(images).double()


def _one_point(fields: Tensor, scale: FieldScale | None) -> Tensor:
    """What the distribution of intensities is of."""
    return fields.log10() if scale is not None and scale.scaling == "log" else fields


def _knots(scale: FieldScale | None) -> list[Tensor]:
    """Those of `areas`, for each band: finer where the scale gives more colours to a value."""
    colours = torch.linspace(-1, 1, _KNOTS, dtype=torch.float64).expand(3, 1, -1)
    return list(_one_point(_fields(colours[None], scale), scale)[0, :, 0])


def _distances(values: _Values, reference: _Values) -> dict[str, float]:
    figures = bounds("spectrum", spectrum_distance(values.spectra, reference.spectra))
    bands = [
        area_distance(values.intensities[:, band], reference.intensities[:, band])
        for band in range(values.intensities.shape[1])
    ]
    figures |= bounds(
        "intensity", Interval(*(sum(ends) / len(bands) for ends in zip(*bands, strict=True)))
    )
    for key, measured in values.shapes.items():
        own, other = (x[~x.isnan()][:, None] for x in (measured, reference.shapes[key]))
        if min(len(own), len(other)) >= 2 and other.min() < other.max():
            unit = other.std()
            figures |= bounds(f"{key}_distance", wasserstein_distance(own / unit, other / unit))
    return figures


def _shapes(values: _Values) -> dict[str, float]:
    figures: dict[str, float] = {}
    for key, measured in values.shapes.items():
        known = measured[~measured.isnan()]
        if len(known) >= 2:
            figures |= bounds(key, mean_interval(known))
            levels = torch.tensor(_QUANTILES, dtype=torch.float64) / 100
            found = known.quantile(levels).tolist()
            figures |= {f"{key}_q{q}": v for q, v in zip(_QUANTILES, found, strict=True)}
    if len(values.failed):
        figures |= bounds("failed", mean_interval(values.failed))
    return figures


def _curve(spectra: Tensor, reference: Tensor, numbers: Sequence[float]) -> dict[str, float]:
    """Mean logarithm of the power, and what it exceeds that of the reference by, ring by ring."""
    figures: dict[str, float] = {}
    for k, wave_number in enumerate(numbers):
        interval = mean_interval(spectra[:, k])
        middle = float(reference[:, k].mean())
        figures[f"wave_number_{k}"] = wave_number
        figures |= bounds(f"power_{k}", interval)
        figures |= bounds(f"excess_{k}", Interval(*(end - middle for end in interval)))
    return figures


def _both(samples: Row, other: Row, key: str) -> bool:
    return all(number(row.get(key)) is not None for row in (samples, other))


def _lacking(samples: Row, other: Row) -> list[str]:
    """The shapes that were measured, and of which a set has no distance."""
    if number(samples.get("failed")) is None:
        return []
    return [name for key, name in _NAMES.items() if not _both(samples, other, f"{key}_distance")]


def _interval(row: Row, key: str) -> str:
    return f"{row[key]:.3g} [{row[f'{key}_low']:.3g}, {row[f'{key}_high']:.3g}]"


def _verdict(samples: Row, other: Row) -> str:
    """Which distances of the samples are beyond those of another set, interval against interval."""
    decisions = {
        # distances from the same pictures are not independent
        name: decide(separation(interval(samples, key), interval(other, key)), most=0)
        for key, name in _DISTANCES.items()
        if _both(samples, other, key)
    }
    found: dict[Outcome, list[str]] = {}
    for name, decision in decisions.items():
        found.setdefault(decision.outcome, []).append(name)
    said: tuple[tuple[Outcome, str], ...] = (
        ("shown", "nearer to held-out pictures"),
        ("refuted", "farther"),
        ("unclear", "not to be told apart"),
    )
    parts = [f"{what} in {', '.join(found[k])}" for k, what in said if k in found]
    if "unclear" in found:
        unclear = all_of([each for each in decisions.values() if each.outcome == "unclear"])
        parts[-1] += f" ({too_few(unclear.factor, samples)})"
    return f"{samples['set']} against {other['set']}: {'; '.join(parts)}."


def _points(row: Row, key: str) -> dict[str, list[float]]:
    count = sum(name.startswith("wave_number_") for name in row)
    names = ("", "_low", "_high")
    points: dict[str, Any] = {end: [row[f"{key}_{k}{end}"] for k in range(count)] for end in names}
    return {**points, "x": [row[f"wave_number_{k}"] for k in range(count)]}


def _draw_spectra(axes: "Axes", rows: Sequence[Row], key: str) -> None:
    for row in rows:
        points, colour = _points(row, key), _ROLE_COLOURS[row["role"]]
        line = "--" if row["role"] == "held-out" else "-"
        axes.plot(points["x"], points[""], line, color=colour, label=str(row["set"]))
        axes.fill_between(
            points["x"], points["_low"], points["_high"], color=colour, alpha=0.2, linewidth=0
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("wave number, cycles a side")
    axes.grid()


def _known(row: Row, key: str) -> bool:
    return number(row.get(key)) is not None


def _draw_boxes(axes: "Axes", rows: Sequence[Row], key: str) -> None:
    shown = [row for row in rows if _known(row, key)]
    boxes = [
        dict(
            zip(
                ("whislo", "q1", "med", "q3", "whishi"),
                (row[f"{key}_q{q}"] for q in _QUANTILES),
                strict=True,
            )
        )
        for row in shown
    ]
    if not boxes:
        axes.set_axis_off()
        axes.text(0.0, 0.94, "not measured", transform=axes.transAxes, va="top")
        return
    drawn = axes.bxp(boxes, showfliers=False, patch_artist=True, widths=0.6)
    for row, box, middle in zip(shown, drawn["boxes"], drawn["medians"], strict=True):
        box.set(facecolor=_ROLE_COLOURS[row["role"]], alpha=0.75)
        middle.set(color="#ffffff", linewidth=2)
    axes.set_xticks([])
    axes.set_xlabel("median, half, nine tenths")
    axes.grid(axis="y")
