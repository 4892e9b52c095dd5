"""How smooth is the way between two inverted images, on the sphere, straight, and in pixels?"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ood_sampler.latents.sphere import geodesic
from ood_sampler.metrics.kernel import kernel_terms
from ood_sampler.metrics.opinions import together
from ood_sampler.names import file_name
from ood_sampler.pipeline.keys import selected
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Column, Row
from ood_sampler.report.film import film
from ood_sampler.report.grid import gather
from ood_sampler.statistics.decision import Outcome, decide, order, separation
from ood_sampler.statistics.intervals import interval, mean_interval
from ood_sampler.statistics.moments import mean_and_variance
from ood_sampler.statistics.resampling import Interval
from ood_sampler.store.artifacts import Items
from ood_sampler.store.node import Node
from ood_sampler.store.versions import code_version
from ood_sampler.studies.base import Measured, Study
from ood_sampler.studies.paths import (
    LINE,
    MEAN_SPHERE,
    PIXELS,
    SPHERE,
    At,
    complete,
    finite_latents,
    frames,
    latents_of,
)
from ood_sampler.studies.rows import bounds, by_column, place, quoted, too_few

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PATHS = (SPHERE, MEAN_SPHERE, LINE, PIXELS)
ENDS = "real images at the ends"

_LEAST_PAIRS = 4
_LEAST_FRAMES = 5
_ALIKE = 0.1
"""Difference in smoothness below which two paths are equally smooth."""


class GeodesicStudy(Study):
    r"""Decode frames between pairs of few-shot images along four paths (Ramachandran et al., 2024).

    The paths: the great circle between the two latents about the origin, and about the mean of the
    few-shot latents, with norms interpolated linearly; the straight line between them; and the
    straight line between the images, without a model. Smoothness is the largest step between
    consecutive frames in feature space over the mean one: 1 where all are equal, the number of
    steps where all happens at once. A smooth path may still lead through double exposures, so that
    the middle frames are compared with held-out images too. No image is in two pairs.

    Args:
        pairs: of images, at most half of the few-shot ones.
        frames: of each path, with both ends; odd, so that there is a middle one.
        shown: pairs in the figure and the film.
    """

    name = "geodesic"
    title = "Paths between inverted images: smoothness, and what lies half way"
    headings = (
        Column("path", "path"),
        Column("step", "step t", 0),
        Column("pairs", "pairs", 0),
        Column(
            "smoothness",
            "largest over mean step",
            2,
            meaning="Of consecutive frames in feature space, mean over pairs: 1 is as even as can "
            "be.",
        ),
        Column(
            "length",
            "length over distance",
            2,
            meaning="Sum of all steps over the distance of the ends in feature space.",
        ),
        Column("against_line", "less that of the straight line", 2, meaning="Paired difference."),
        Column("against_pixels", "less that of pixels", 2, meaning="Paired difference."),
        Column("kid", "middle frames, KID × 10³", 0, 1e3, "Against the held-out images."),
        Column("norm", "norm half way", 3, meaning="Of middle latents over the mean of both ends."),
    )

    def __init__(self, *, pairs: int, frames: int, shown: int) -> None:
        if pairs < _LEAST_PAIRS:
            raise ValueError(f"study.pairs must be >= {_LEAST_PAIRS}, got {pairs}")
        if frames < _LEAST_FRAMES or frames % 2 == 0:
            raise ValueError(f"study.frames must be odd and >= {_LEAST_FRAMES}, got {frames}")
        if shown < 1:
            raise ValueError(f"study.shown must be >= 1, got {shown}")
        self.pairs = pairs
        self.frames = frames
        self.shown = shown

    def check(self, pipeline: Pipeline) -> None:
        super().check(pipeline)
        count = len(pipeline.domain.few_shot)
        if count < 2 * _LEAST_PAIRS:
            raise ValueError(
                f"data.few_shot must be >= {2 * _LEAST_PAIRS} for this study, got {count} images"
            )

    def targets(self, pipeline: Pipeline) -> list[Node]:
        return [pipeline.inversion, *(self._frames(pipeline, path) for path in PATHS)]

    def measure(self, pipeline: Pipeline) -> Measured:
        nodes = {path: self._frames(pipeline, path) for path in PATHS}
        kept = [
            complete(pipeline, node, f"the frame of the {path}", each=self.frames)
            for path, node in nodes.items()
        ]
        good = [k for k in kept[0] if all(k in others for others in kept)]
        if len(good) < _LEAST_PAIRS:
            raise ValueError(
                f"only {len(good)} pairs are left without NaN, and {_LEAST_PAIRS} are needed: use "
                "trainer.precision=32-true"
            )
        numbers = [k * self.frames + j for k in good for j in range(self.frames)]
        features = {
            path: pipeline.describe(
                "frames",
                Items(selected(node.output.open(), numbers)),
                node.output.digest,
                numbers,
                of=path,
            ).features
            for path, node in nodes.items()
        }
        rows = self._rows(pipeline, features, good)
        prefix = f"{pipeline.domain.name}/{pipeline.codec.place(pipeline.settings.step)}"
        pictures = {
            f"{prefix}/pair {k + 1}/{path}": gather(
                node.output.open(), range(k * self.frames, (k + 1) * self.frames)
            )
            for k in good[: self.shown]
            for path, node in nodes.items()
        }
        return Measured(rows, pictures)

    def _pairs(self, pipeline: Pipeline) -> list[tuple[int, int]]:
        """Numbers of the images of each pair, chosen by the run's seed."""
        count = len(pipeline.domain.few_shot)
        generator = torch.Generator().manual_seed(pipeline.settings.seed)
        chosen = torch.randperm(count, generator=generator).tolist()
        pairs = min(self.pairs, count // 2)
        return list(zip(chosen[:pairs], chosen[pairs : 2 * pairs], strict=True))

    def _frames(self, pipeline: Pipeline, path: str) -> Node:
        run = pipeline.in_pixels(pipeline.sampler) if path == PIXELS else pipeline
        pairs = self._pairs(pipeline)
        return frames(
            run,
            "frames",
            partial(_begin, run, path, pairs),
            {"path": path, "pairs": pairs, "geometry": code_version(geodesic)},
            count=len(pairs),
            positions=[k / (self.frames - 1) for k in range(self.frames)],
            of=path,
        )

    def _rows(
        self,
        pipeline: Pipeline,
        features: Mapping[str, Mapping[str, Tensor]],
        good: Sequence[int],
    ) -> list[Row]:
        about = {**self.about(pipeline), **pipeline.codec.at(pipeline.settings.step)}
        about |= {"pairs": len(good), "frames": self.frames}
        pairs = [self._pairs(pipeline)[k] for k in good]
        found: dict[str, dict[str, Any]] = {path: {} for path in (*PATHS, ENDS)}
        for judge in pipeline.judges.names:
            held_out = pipeline.held_out.features[judge]
            steps = {path: _steps(of[judge], self.frames) for path, of in features.items()}
            for path, of in features.items():
                middle = of[judge][self.frames // 2 :: self.frames]
                found[path][judge] = {
                    **_smoothness(path, steps),
                    **_distance(middle, held_out),
                }
            ends = pipeline.few_shot.features[judge][[k for pair in pairs for k in pair]]
            found[ENDS][judge] = _distance(ends, held_out)
        norms = {
            path: _norm_half_way(
                pipeline.in_pixels(pipeline.sampler) if path == PIXELS else pipeline, path, pairs
            )
            for path in PATHS
        }
        return [
            {**about, "path": path, **together(judged), "norm": norms.get(path)}
            for path, judged in found.items()
        ]

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        return [said for name, paths in _runs(rows).items() for said in _told(name, paths)]

    def claims(self, rows: Sequence[Row]) -> Mapping[str, Outcome]:
        return {
            f"{name}: the {SPHERE} is smoother than the {other}": decide(
                interval(paths[SPHERE], key), most=0
            ).outcome
            for name, paths in _runs(rows).items()
            for key, other in (("against_line", LINE), ("against_pixels", PIXELS))
        }

    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        from ood_sampler.studies.figures.geodesic import draw

        return draw(_runs(rows), pictures)

    def files(self, pictures: Mapping[str, Tensor]) -> Mapping[str, bytes]:
        """A film of each run."""
        films: dict[str, dict[str, list[Tensor]]] = {}
        for label, images in pictures.items():
            run, _, path = label.rsplit("/", 2)
            films.setdefault(run, {}).setdefault(path, []).append(images)
        return {f"{self.name}_{file_name(run)}.webp": film(paths) for run, paths in films.items()}


def _begin(run: Pipeline, path: str, pairs: Sequence[tuple[int, int]]) -> At:
    latents = latents_of(run)
    centre = None
    if path == MEAN_SPHERE:
        centre = mean_and_variance(selected(latents, finite_latents(run)))[0]

    def at(numbers: Sequence[int], u: Tensor) -> Tensor:
        z_1, z_2 = (latents.take([pairs[k][end] for k in numbers]).double() for end in (0, 1))
        if path in (SPHERE, MEAN_SPHERE):
            return geodesic(z_1, z_2, u, centre)
        return z_1 + u.reshape(-1, *[1] * (z_1.ndim - 1)) * (z_2 - z_1)

    return at


def _norm_half_way(run: Pipeline, path: str, pairs: Sequence[tuple[int, int]]) -> float:
    """Mean norm of middle latents over the mean norm of their ends."""
    at, count = _begin(run, path, pairs), len(pairs)
    norms = [
        at(range(count), torch.full((count,), u, dtype=torch.float64)).flatten(1).norm(dim=1)
        for u in (0.0, 0.5, 1.0)
    ]
    return float((norms[1] / ((norms[0] + norms[2]) / 2)).mean())


def _steps(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Largest step over mean step, and length over the distance of the ends, of each path."""
    f = features.double().unflatten(0, (-1, count))
    steps = f.diff(dim=1).norm(dim=2)
    apart = (f[:, -1] - f[:, 0]).norm(dim=1)
    tiny = 1e-12
    return (
        steps.amax(1) / steps.mean(1).clamp(min=tiny),
        steps.sum(1) / apart.clamp(min=tiny),
    )


def _smoothness(path: str, steps: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    smoothness, length = steps[path]
    found = {
        **bounds("smoothness", mean_interval(smoothness)),
        **bounds("length", mean_interval(length)),
    }
    for key, other in (("against_line", LINE), ("against_pixels", PIXELS)):
        if other != path:
            found |= bounds(key, mean_interval(smoothness - steps[other][0]))
    return found


def _distance(features: Tensor, held_out: Tensor) -> dict[str, float]:
    terms = kernel_terms(features, held_out)
    return {
        **bounds("kid", terms.interval),
        "kid_standard_error": float(terms.estimate.standard_error),
    }


def _runs(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Rows of each run by path, under the name of its domain and step."""
    found = {}
    for own in by_column(rows, "run").values():
        name = f"{own[0]['domain']}, {place(own[0])}"
        found[name] = {row["path"]: row for row in own}
    return found


def _told(name: str, paths: Mapping[str, Row]) -> list[str]:
    circle, line, pixels = (paths[path] for path in (SPHERE, LINE, PIXELS))
    smooth = [f"{path} {quoted(paths[path], 'smoothness')}" for path in PATHS]
    sentences = [f"{name}: largest over mean step: {', '.join(smooth)} ({circle['pairs']} pairs)."]
    for key, other in (("against_line", LINE), ("against_pixels", PIXELS)):
        sentences.append(f"{name}: the {SPHERE} is {_against(circle, key)} the {other}.")
    apart = separation(*(_kid(row) for row in (circle, pixels)))
    words = {
        "lower": "nearer to held-out images than those of",
        "higher": "farther from held-out images than those of",
        "alike": "as far from held-out images as those of",
        "unclear": f"not told apart ({_more(apart, line)}) from those of",
    }[order(apart)]
    far = ", ".join(f"{path} {_thousand(paths[path])}" for path in (*PATHS, ENDS))
    sentences.append(
        f"{name}: middle frames of the {SPHERE} are {words} the {PIXELS} (KID × 10³: {far})."
    )
    return sentences


def _against(row: Row, key: str) -> str:
    found = interval(row, key)
    verdict = {
        "lower": "smoother than",
        "higher": "less smooth than",
        "alike": f"as smooth as, to within {_ALIKE},",
        "unclear": f"not told apart by smoothness ({_more(found, row)}) from",
    }[order(found, margin=_ALIKE)]
    return f"{verdict} ({quoted(row, key)})" if verdict.endswith("than") else verdict


def _more(apart: Interval, row: Row) -> str:
    factors = [decide(apart, **limit).factor for limit in ({"least": 0.0}, {"most": 0.0})]
    known = [factor for factor in factors if factor is not None]
    return too_few(
        min(known, default=None), row, count="pairs", name="pairs", setting="study.pairs"
    )


def _kid(row: Row) -> Interval:
    return interval(row, "kid")


def _thousand(row: Row) -> str:
    value, low, high = (1e3 * end for end in _kid(row))
    return f"{value:.0f} [{low:.0f}, {high:.0f}]"
