"""Measures of astronomy: power spectra, intensities and shapes of samples and of images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ood_sampler.data.radiation import FieldScale
from ood_sampler.metrics.intensity import area_distance, areas, wasserstein_distance
from ood_sampler.metrics.morphology import BAD, MEASURES, check_statmorph, morphology
from ood_sampler.metrics.power_spectrum import log_spectra, spectrum_distance, wave_numbers
from ood_sampler.pipeline.keys import configuration, label, taken
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Column, Row, number
from ood_sampler.report.tables import IN_DOMAIN
from ood_sampler.statistics.decision import Outcome, all_of, decide, separation
from ood_sampler.statistics.intervals import interval, mean_interval
from ood_sampler.statistics.resampling import Interval
from ood_sampler.store.node import Node
from ood_sampler.store.sets import Selected, TensorSet
from ood_sampler.studies.base import Measured, Study
from ood_sampler.studies.rows import RunRows, bounds, by_run, quoted, too_few
from ood_sampler.studies.sweep import decoding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {
    "concentration": "concentration C",
    "asymmetry": "asymmetry A",
    "gini": "Gini coefficient",
    "m20": "M20",
}
_DISTANCES = {
    "spectrum": "power spectrum",
    "intensity": "intensity",
    **{f"{key}_distance": name for key, name in NAMES.items()},
}
QUANTILES = (5, 25, 50, 75, 95)
"""Percentiles of the shapes of a set that the figure shows."""

_KNOTS = 1025
"""Colours, evenly spaced, between which the distribution of intensities is integrated."""


@dataclass(frozen=True)
class _Values:
    """Measures of one set of images.

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
    """Field measures of samples, a pixel control, own samples and real images.

    Images of a domain with a scale are turned into physical fields before they are measured:
    spectra are of the values themselves, intensities of their logarithm to base 10 where the scale
    is logarithmic, shapes of the sum of bands. In other domains the brightness is measured, the
    mean of the colours from 0 to 1. Distances are biased upward, more for few images: to the
    held-out images, those of all sets are of the first images, as many as the smallest set has.

    Args:
        morphology_images: images of each set whose shape is measured, at most; 0 measures none.
    """

    name = "astro"
    title = "Measures of astronomy against held-out images"
    joins = None
    headings = (
        Column("set", "set"),
        Column("images", "images", 0),
        Column(
            "spectrum",
            "power spectrum, dex",
            3,
            meaning=(
                "Root mean square difference of the mean logarithm of the radially averaged power "
                "to that of held-out images; 0.3 is a factor of 2."
            ),
        ),
        Column(
            "intensity",
            "intensity",
            4,
            meaning=(
                "1-Wasserstein distance between the distributions of all pixels: in decades of the "
                "physical value where the scale of the domain is logarithmic, in its unit where it "
                "is not, as a share of full brightness for images; the mean over bands."
            ),
        ),
        *(
            Column(key, name, 3, meaning=f"Mean {name} of the images that could be measured.")
            for key, name in NAMES.items()
        ),
        *(
            Column(
                f"{key}_distance",
                f"{name}, distance",
                3,
                meaning=(
                    f"1-Wasserstein distance between the distributions of {name}, in standard "
                    "deviations of the held-out images."
                ),
            )
            for key, name in NAMES.items()
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
        about = self.about(pipeline)
        rows = []
        for name, role, images in [
            ("held-out images", "held-out", held_out),
            *_equal_sized(list(_sets(pipeline))),
        ]:
            values = reference if role == "held-out" else self._values(images, scale)
            rows.append(
                {
                    **about,
                    "set": name,
                    "role": role,
                    "images": len(images),
                    **pipeline.codec.at(pipeline.settings.step),
                    **({} if role == "held-out" else _distances(values, reference)),
                    **_shapes(values),
                    **_curve(values.spectra, reference.spectra, numbers),
                }
            )
        return Measured(rows)

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        return [f"{name}: {said}" for name, own in runs_of(rows).items() for said in _told(own)]

    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        from ood_sampler.studies.figures.astro import draw

        return draw(rows)

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


def runs_of(rows: Sequence[Row]) -> dict[str, RunRows]:
    """Rows of each run by role, by its domain and what runs of a sweep differ in."""

    def settings(run: RunRows) -> dict[str, object]:
        samples = run["strategy"]
        at = {"t": samples.get("step"), "latents": samples.get("latents")}
        return {"strategy": samples["set"], **at}

    return by_run(rows, "role", settings)


def _sets(pipeline: Pipeline) -> Iterator[tuple[str, str, TensorSet]]:
    """Name, role and images of each set that is compared with the held-out images."""
    yield label(pipeline.sampler), "strategy", pipeline.sampled().images
    for control in _control(pipeline):
        yield control.title, "control", control.sampled().images
    for own in pipeline.owned:
        yield IN_DOMAIN, "reference", own.images
    yield "few-shot images", "real", taken(pipeline.domain.few_shot)


def _equal_sized(sets: Sequence[tuple[str, str, TensorSet]]) -> list[tuple[str, str, TensorSet]]:
    """Cut all sets to the size of the smallest."""
    count = min(len(images) for _, _, images in sets)
    return [(name, role, Selected(images, range(count))) for name, role, images in sets]


def _control(pipeline: Pipeline) -> list[Pipeline]:
    """The run's strategy in pixels, or the control of two images if it mixes none."""
    own, controls = configuration(pipeline.sampler), pipeline.controls
    same = [control for control in controls if configuration(control.sampler) == own]
    return (same + controls[::-1])[:1]


def _fields(images: Tensor, scale: FieldScale | None) -> Tensor:
    """Physical fields or brightness of images, float64, shape (N, bands, H, W)."""
    if scale is None:
        return (images.double().clamp(-1, 1) + 1).mean(dim=1, keepdim=True) / 2
    return scale.from_pictures(images).double()


def _one_point(fields: Tensor, scale: FieldScale | None) -> Tensor:
    """Values whose distribution is that of intensities."""
    return fields.log10() if scale is not None and scale.scaling == "log" else fields


def _knots(scale: FieldScale | None) -> list[Tensor]:
    """Knots of `areas`, for each band: finer where the scale gives more colours to a value."""
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
            levels = torch.tensor(QUANTILES, dtype=torch.float64) / 100
            found = known.quantile(levels).tolist()
            figures |= {f"{key}_q{q}": v for q, v in zip(QUANTILES, found, strict=True)}
    if len(values.failed):
        figures |= bounds("failed", mean_interval(values.failed))
    return figures


def _curve(spectra: Tensor, reference: Tensor, numbers: Sequence[float]) -> dict[str, float]:
    """Mean logarithm of the power and its excess over the reference, ring by ring."""
    figures: dict[str, float] = {}
    for k, wave_number in enumerate(numbers):
        interval = mean_interval(spectra[:, k])
        middle = float(reference[:, k].mean())
        figures[f"wave_number_{k}"] = wave_number
        figures |= bounds(f"power_{k}", interval)
        figures |= bounds(f"excess_{k}", Interval(*(end - middle for end in interval)))
    return figures


def _told(own: RunRows) -> list[str]:
    """How far the samples are from held-out images, beside other sets, and what is missing."""
    samples, real = own["strategy"], own["real"]
    listed = ", ".join(
        f"{what} {quoted(samples, key, '.3g')} ({quoted(real, key, '.3g')})"
        for key, what in _DISTANCES.items()
        if known(samples, key) and known(real, key)
    )
    sentences = [
        f"distances of {samples['images']} images of {samples['set']} from held-out images, "
        f"those of {real['images']} of {real['set']} in brackets: {listed}."
    ]
    for other in [real, *([own["control"]] if "control" in own else [])]:
        sentences.append(_verdict(samples, other))
        lacking = _lacking(samples, other)
        if lacking:
            sentences.append(
                f"{samples['set']} and {other['set']} cannot be compared in {', '.join(lacking)}: "
                "fewer than two images of a set have it, or all held-out images have the same."
            )
    failed = [
        f"{row['failed']:.0%} of {row['set']}" for row in own.values() if known(row, "failed")
    ]
    if failed:
        sentences.append(
            "shapes are those of the images that have one; it could not be measured for "
            f"{', '.join(failed)}."
        )
    return sentences


def known(row: Row, key: str) -> bool:
    """Whether a row has a number."""
    return number(row.get(key)) is not None


def _lacking(samples: Row, other: Row) -> list[str]:
    """Shapes that were measured but have no distance in one of the sets."""
    if not known(samples, "failed"):
        return []
    keys = {f"{key}_distance": name for key, name in NAMES.items()}
    return [name for key, name in keys.items() if not (known(samples, key) and known(other, key))]


def _verdict(samples: Row, other: Row) -> str:
    """Which distances of the samples exceed those of another set, interval against interval."""
    decisions = {
        # distances from the same images are not independent
        name: decide(separation(interval(samples, key), interval(other, key)), most=0)
        for key, name in _DISTANCES.items()
        if known(samples, key) and known(other, key)
    }
    found: dict[Outcome, list[str]] = {}
    for name, decision in decisions.items():
        found.setdefault(decision.outcome, []).append(name)
    said: tuple[tuple[Outcome, str], ...] = (
        ("shown", "nearer to held-out images"),
        ("refuted", "farther"),
        ("unclear", "not to be told apart"),
    )
    parts = [f"{what} in {', '.join(found[k])}" for k, what in said if k in found]
    if "unclear" in found:
        unclear = all_of([each for each in decisions.values() if each.outcome == "unclear"])
        parts[-1] += f" ({too_few(unclear.factor, samples)})"
    return f"{samples['set']} against {other['set']}: {'; '.join(parts)}."
