"""Are inverted latents Gaussian noise?"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.latents.gaussianity import Gaussianity, Shape, gaussianity, most_tests
from ood_sampler.latents.geometry import Criteria, set_criteria
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Column, Row
from ood_sampler.statistics.decision import all_of, decide, order, separation
from ood_sampler.statistics.intervals import interval
from ood_sampler.statistics.normality import SHAPIRO_RANGE
from ood_sampler.store.node import Node
from ood_sampler.store.sets import TensorSet
from ood_sampler.studies.base import Measured
from ood_sampler.studies.in_domain import (
    FEW_SHOT,
    IN_DOMAIN,
    DiagnosticStudy,
    inversions,
    too_few_of_each,
)
from ood_sampler.studies.rows import bounds, by_domain, by_step, quoted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WHITE = "white noise"

_REFERENCES = 10
"""Latents over which the distance and angles of each one are averaged, as in the paper."""

_TRACES = {
    "mean": "a mean latent of a root mean square",
    "neighbours": "correlation of neighbouring pixels",
    "colours": "correlation of colours",
    "low_band": "power below 1/8 cycle a pixel, over all",
    "high_band": "power from 1/4 cycle a pixel on, over all",
    "radius_spread": "spread of the radius, over that of the chi law",
}
"""Numbers with an interval in which white noise may differ from latents."""

_NO_TRACE = 0.1
"""Difference from white noise, where numbers are 0 or 1, that counts as none."""


class GaussianityStudy(DiagnosticStudy):
    r"""Compare inverted latents with white noise at some steps.

    The few-shot images and, beside them, images of the model's own domain and as many draws of
    $\mathcal{N}(0, I)$ (`ood_sampler.latents.gaussianity`).

    Args:
        steps: inversion steps.
        count: images of each set, at most.
        tests: coordinates and random directions that are tested for normality, 1 to 1250: of more,
            no distance to the normal law could be significant.
        tolerance: excess of the Kolmogorov distance over that of white noise that counts as small.
        in_domain_root: images of the model's own domain; None takes samples of the model.
    """

    name = "gaussianity"
    title = "Gaussianity: are inverted latents white noise?"
    least = SHAPIRO_RANGE[0]
    caveat = (
        "The in-domain set is made of the model's own samples, which began as white noise: "
        "inverting them finds it again, more or less."
    )
    headings = (
        Column("set", "set"),
        Column("in_domain", "in-domain set", meaning="Samples of the model began as noise."),
        Column("step", "step t", 0),
        Column("images", "images", 0),
        Column("mean", "mean", 3, meaning="Root mean square of the mean latent; 0."),
        Column("deviation", "std", 3, meaning="Mean standard deviation of a coordinate; 1."),
        Column("deviation_spread", "std of std", 3, meaning="Over coordinates."),
        Column("radius", "radius", 3, meaning="About the mean, over that of the chi law; 1."),
        Column("radius_spread", "spread of radius", 2, meaning="Over that of the chi law; 1."),
        Column("radius_p", "p of spread", meaning="Of white noise with such a spread."),
        Column(
            "distance",
            "distance",
            1,
            meaning="Between two latents (Zhu et al., 2023); √2 times the radius, sqrt(2 d).",
        ),
        Column("distance_deviation", "its spread", 1, meaning="Over latents, each against 10."),
        Column("origin_angle", "origin angle, °", 1, meaning="Of two latents, at the origin; 90."),
        Column("origin_angle_deviation", "its spread, °", 2),
        Column("pair_angle", "pair angle, °", 1, meaning="Of two latents, at a third one; 60."),
        Column("pair_angle_deviation", "its spread, °", 2),
        Column("neighbours", "neighbours", 3, meaning="Correlation at one pixel's distance; 0."),
        Column("colours", "colours", 3, meaning="Correlation of two colours of a pixel; 0."),
        Column("low_band", "low band", 2, meaning="Power below 1/8 cycle a pixel over all; 1."),
        Column("high_band", "high band", 2, meaning="Power from 1/4 cycle a pixel over all; 1."),
        Column(
            "coordinate_distance",
            "D",
            3,
            meaning="Mean Kolmogorov distance of coordinates to the normal law of their own mean "
            "and variance; compare with white noise.",
        ),
        Column("coordinate_shapiro", "1 - W", 4, meaning="Shapiro and Wilk; mean likewise."),
        Column("coordinate_skewness", "|skewness|", 2, meaning="Mean likewise."),
        Column("coordinate_kurtosis", "excess kurtosis", 2, meaning="Mean likewise; 0."),
        Column(
            "coordinate_rejected",
            "rejected, %",
            0,
            100,
            meaning="Coordinates that a test of normality (Lilliefors, Shapiro and Wilk) rejects "
            "after Holm's correction: any at all with a chance of 5% in white noise.",
        ),
        Column("projection_distance", "D, directions", 3, meaning="As D, random directions."),
        Column("projection_shapiro", "1 - W, directions", 4),
        Column("projection_skewness", "|skewness|, directions", 2),
        Column("projection_kurtosis", "excess kurtosis, directions", 2),
        Column("projection_rejected", "rejected directions, %", 0, 100),
    )

    def __init__(
        self,
        *,
        steps: Sequence[int],
        count: int,
        tests: int,
        tolerance: float,
        in_domain_root: str | None,
    ) -> None:
        if not 1 <= tests <= most_tests():
            raise ValueError(
                f"study.tests must be in 1..{most_tests()}, got {tests}: with more, no distance to "
                "the normal law is significant after Holm's correction"
            )
        if not tolerance > 0:
            raise ValueError(f"study.tolerance must be > 0, got {tolerance}")
        lowest, highest = SHAPIRO_RANGE
        if not lowest <= count <= highest:
            raise ValueError(f"study.count must be in {lowest}..{highest}, got {count}")
        super().__init__(steps=steps, count=count, in_domain_root=in_domain_root)
        self.tests = tests
        self.tolerance = tolerance

    def check(self, pipeline: Pipeline) -> None:
        super().check(pipeline)
        d = math.prod(pipeline.latent_shape)
        if self.tests > d:
            raise ValueError(
                f"study.tests must be <= {d}, the coordinates of a latent, got {self.tests}"
            )

    def targets(self, pipeline: Pipeline) -> list[Node]:
        return inversions(self.sources, pipeline)

    def measure(self, pipeline: Pipeline) -> Measured:
        sets: list[tuple[str, int | None, TensorSet]] = [
            (name, step, latents)
            for name, run in self.both(pipeline).items()
            for step, latents in run.latents().items()
        ]
        count, seed = len(sets[0][2]), pipeline.settings.seed
        sets.append((WHITE, None, WhiteNoise(pipeline.latent_shape, count, seed=seed)))
        about = self.about(pipeline)
        return Measured(
            [
                {
                    **about,
                    "set": name,
                    "in_domain": self.sources.kind,
                    "step": step,
                    "images": len(latents),
                    **_figures(gaussianity(latents, tests=self.tests, seed=seed)),
                    **_geometry(latents),
                }
                for name, step, latents in sets
            ]
        )

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        sentences = []
        for domain, own in by_domain(rows).items():
            curve = curve_of(own, FEW_SHOT)
            white = next(row for row in own if row["set"] == WHITE)
            last = curve[-1]
            sentences += [
                f"{domain}: {self._normal_from(curve, white)}; at t = {last['step']} "
                f"{_shape_of(last)}.",
                f"{domain}: {_traces_of(last, white)}.",
                f"{domain}: {_geometry_of(last, white)}.",
            ]
            for other in curve_of(own, IN_DOMAIN)[-1:]:
                sentences.append(f"{domain}: in-domain latents: {_traces_of(other, white)}.")
        return sentences + self.caveats(rows)

    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        from ood_sampler.studies.figures.gaussianity import draw

        return draw(rows)

    def _normal_from(self, curve: Sequence[Row], white: Row) -> str:
        small = white["coordinate_distance"] + self.tolerance
        steps: list[int] = []
        for row in reversed(curve):
            if row["coordinate_distance"] > small:
                break
            steps.append(row["step"])
        within = (
            f"within {self.tolerance:g} of white noise's Kolmogorov distance to the normal law "
            f"({white['coordinate_distance']:.3f})"
        )
        told = "single coordinates of the inverted latents are"
        if not steps:
            return f"{told} not {within} at t = {curve[-1]['step']}"
        at = f"at t = {steps[0]}" if len(curve) == 1 else f"from t = {steps[-1]} on"
        return f"{told} {within} {at}"


class WhiteNoise(TensorSet):
    r"""Draws of $\mathcal{N}(0, I)$.

    Args:
        shape: of a latent.
        count: of latents.
        seed: draw `i` depends on `(seed, i)` alone.
    """

    def __init__(self, shape: Sequence[int], count: int, *, seed: int) -> None:
        self._shape = tuple(shape)
        self.count = count
        self.seed = seed

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def __len__(self) -> int:
        return self.count

    def take(self, indices: Sequence[int]) -> Tensor:
        return SampleNoise(self.seed, list(indices), stream=Stream.FIT).normal(*self.shape)


def _figures(found: Gaussianity) -> dict[str, Any]:
    colours = found.colours
    return {
        **bounds("mean", found.mean),
        "deviation": found.deviation,
        "deviation_spread": found.deviation_spread,
        "radius": found.radius,
        **bounds("radius_spread", found.radius_spread),
        "radius_p": found.radius_p,
        **bounds("neighbours", found.neighbours),
        **({"colours": None} if colours is None else bounds("colours", colours)),
        **bounds("low_band", found.low),
        **bounds("high_band", found.high),
        **_shape_figures("coordinate", found.coordinates),
        **_shape_figures("projection", found.projections),
    }


def _geometry(latents: TensorSet) -> dict[str, float]:
    """The paper's three criteria: mean and spread over the members of a set."""
    _, measured = set_criteria(latents, _REFERENCES)
    figures: dict[str, float] = {}
    for key, values in zip(Criteria._fields, measured, strict=True):
        figures |= {key: float(values.mean()), f"{key}_deviation": float(values.std())}
    return figures


def _shape_figures(name: str, shape: Shape) -> dict[str, float]:
    return {f"{name}_{key}": value for key, value in vars(shape).items()}


def curve_of(rows: Sequence[Row], name: str) -> list[Row]:
    """Rows of a set in the order of their steps."""
    return by_step(row for row in rows if row["set"] == name)


def _shape_of(row: Row) -> str:
    return (
        f"D = {row['coordinate_distance']:.3f}, excess kurtosis {row['coordinate_kurtosis']:.2f}, "
        f"and {100 * row['coordinate_rejected']:.0f}% of the coordinates and "
        f"{100 * row['projection_rejected']:.0f}% of random directions are rejected as normal"
    )


def _geometry_of(row: Row, white: Row) -> str:
    return (
        f"at t = {row['step']} two latents are {row['distance']:.1f} apart (white noise "
        f"{white['distance']:.1f}), at {row['origin_angle']:.1f}° seen from the origin "
        f"({white['origin_angle']:.1f}°) and {row['pair_angle']:.1f}° from a third latent "
        f"({white['pair_angle']:.1f}°)"
    )


def _traces_of(row: Row, white: Row) -> str:
    """Numbers whose 95% interval does not touch that of white noise; then those still unclear.

    The others differ from white noise by less than a margin.

    Two sets of white noise differ so in any of the six with a chance of 2% for 200 latents, 5% for
    40 and 7% for 20, as measured: resampling underestimates the spread of few.
    """
    traces, unclear = [], {}
    for key, name in _TRACES.items():
        if row.get(key) is None:
            continue
        apart = separation(interval(row, key), interval(white, key))
        found = order(apart, margin=_NO_TRACE)
        if found in ("lower", "higher"):
            traces.append(f"{name} {quoted(row, key)} (white noise {abs(white[key]):.2f})")
        elif found == "unclear":
            unclear[name] = decide(apart, least=-_NO_TRACE, most=_NO_TRACE)
    told = f"they keep traces: {'; '.join(traces)}"
    if not traces:
        told = "they show no trace beyond white noise"
        told += "" if unclear else f", all six to within {_NO_TRACE}"
    if unclear:
        said = too_few_of_each(all_of(list(unclear.values())), row)
        told += f" ({'; '.join(unclear)}: {said})"
    return f"at t = {row['step']} {told}"
