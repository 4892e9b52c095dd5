"""Measure sets of images, storing the metrics of each."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torchmetrics import Metric, MetricCollection

from ood_sampler.metrics.base import Figures, SetMetric
from ood_sampler.metrics.comparison import kernel_difference
from ood_sampler.metrics.judges import Described, Judges, figures_of
from ood_sampler.metrics.opinions import plain, together
from ood_sampler.report.tables import IN_DOMAIN
from ood_sampler.statistics.intervals import normal_interval, with_bounds
from ood_sampler.store.files import digest, load_json, save_json
from ood_sampler.store.versions import Maker, code_version

REAL = "real images"
SIZE_DEPENDENT = ("fid", "recall", "coverage")
"""Scores that get worse with fewer images, and so are compared only between sets of equal size."""


@dataclass(frozen=True)
class Row:
    """One line of the table: the metrics of a set of images.

    Attributes:
        name: of the images.
        role: purpose of the images.
        samples: number of images.
        figures: metrics of the headline judge by name, of others as `<judge>/<metric>`.
        each: metrics with a value per image, likewise.
    """

    name: str
    role: str
    samples: int
    figures: Mapping[str, float | None]
    each: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The row as written to `metrics.json`."""
        return {"name": self.name, "role": self.role, "samples": self.samples, **self.figures}


@dataclass(frozen=True)
class Measure:
    """Measure sets of images against one domain, storing the metrics of each.

    Attributes:
        root: folder of what is stored; None stores nothing.
        in_domain: features of the model's own domain, by judge; empty if it has none, which leaves
            out the metrics that need them.
    """

    judges: Judges
    root: Path | None
    few_shot: Described
    held_out: Described
    in_domain: Mapping[str, Tensor]
    count: int

    def row(self, name: str, role: str, samples: Described) -> Row:
        """Compute all metrics of a set of generated images."""
        return self._row(name, role, samples, new=samples)

    def real(self) -> Row:
        """The floor: few-shot against held-out images, as many as in the other sets.

        Authenticity and blend score are those of held-out images: real ones that are new. If the
        other sets are larger, scores that depend on the number of images are left out.
        """
        few_shot = self.few_shot.first(self.count)
        return self._comparable(
            self._row(REAL, "reference", few_shot, self.held_out.first(self.count))
        )

    def own(self, samples: Described) -> Row:
        """The ceiling: samples of the model's own domain.

        If the other sets are larger, scores that depend on the number of images are left out.
        """
        return self._comparable(self.row(IN_DOMAIN, "reference", samples))

    def _comparable(self, row: Row) -> Row:
        """Leave out what a smaller set than the others cannot be compared by."""
        if row.samples >= self.count:
            return row
        biased = {f"{key}{end}" for key in SIZE_DEPENDENT for end in ("", "_low", "_high")}
        comparable = {key: value for key, value in row.figures.items() if plain(key) not in biased}
        return replace(row, figures=comparable)

    def above(self, row: Row, images: Described, samples: Described) -> Row:
        """Add to the row of a set the difference between its KID and that of the samples.

        Both are distances to the same held-out images, whose part of the error drops out.
        """
        opinions: dict[str, dict[str, float | None]] = {}
        for judge in self.judges:
            sets = {
                "first": images.features[judge.name],
                "second": samples.features[judge.name],
                "reference": self.held_out.features[judge.name],
            }
            hashed = {name: _sha256(vectors) for name, vectors in sets.items()}
            opinions[judge.name] = self._stored(
                {"difference": "kid", "sets": hashed},
                partial(_above, **sets),
                makers=(kernel_difference, normal_interval),
            )
        return replace(row, figures={**row.figures, **together(opinions)})

    def _row(self, name: str, role: str, samples: Described, new: Described) -> Row:
        """Measure the likeness of a set to the held-out images, and the novelty of `new`."""
        pixels = {
            "generated": samples.thumbnails,
            "new": new.thumbnails,
            "few_shot": self.few_shot.thumbnails,
            "held_out": self.held_out.thumbnails,
        }
        vectors = {key: images.flatten(start_dim=1) for key, images in pixels.items()}
        opinions = {}
        for judge in self.judges:
            sets = {
                "generated": samples.features[judge.name],
                "new": new.features[judge.name],
                "few_shot": self.few_shot.features[judge.name],
                "held_out": self.held_out.features[judge.name],
            }
            metrics = judge.metrics
            if self.in_domain:
                sets["in_domain"] = self.in_domain[judge.name]
            else:
                metrics = without_own_domain(metrics)
            opinions[judge.name] = self._figures(metrics, sets)
        headline, *others = self.judges.names
        # None for metrics that only other judges can compute
        known = sorted({key for figures in opinions.values() for key in figures})
        for other in others:
            opinions[other] = {key: opinions[other].get(key) for key in known}
        opinions[headline] |= self._figures(self.judges.pictures, vectors)
        found = together(opinions)
        return Row(
            name,
            role,
            len(samples),
            {key: value for key, value in found.items() if not isinstance(value, list)},
            {key: value for key, value in found.items() if isinstance(value, list)},
        )

    def _figures(self, metrics: MetricCollection, sets: Mapping[str, Tensor]) -> dict[str, Any]:
        """Compute the metrics of sets of vectors, or read them if they are stored."""
        key = {
            "metrics": {
                name: [type(metric).__name__, code_version(type(metric)), metric.settings]
                for name, metric in metrics.items()
            },
            "sets": {name: _sha256(vectors) for name, vectors in sets.items()},
        }
        return self._stored(key, partial(figures_of, metrics, sets), makers=[figures_of])

    def _stored(
        self, key: Mapping[str, Any], compute: Callable[[], Figures], *, makers: Sequence[Maker]
    ) -> dict[str, Any]:
        """Read the result of `compute`, calling it only if the same code has not stored it."""
        if self.root is None:
            return _plain(compute())
        code = code_version(*makers)
        path = self.root / f"measure-{digest({**key, 'code': code})[:16]}" / "figures.json"
        stored = load_json(path)
        if stored is None:
            stored = _plain(compute())
            save_json(path, stored)
        return stored


def without_own_domain(metrics: MetricCollection) -> MetricCollection:
    """Leave out the metrics that compare with images of the model's own domain."""
    kept: dict[str, Metric | MetricCollection] = {
        name: metric
        for name, metric in metrics.items()
        if not (isinstance(metric, SetMetric) and "in_domain" in metric.sets)
    }
    return MetricCollection(kept, compute_groups=False)


def _plain(figures: Figures) -> dict[str, Any]:
    """Values as JSON has them."""
    return {
        name: value.tolist() if isinstance(value, Tensor) and value.ndim else float(value)
        for name, value in figures.items()
    }


def _above(*, first: Tensor, second: Tensor, reference: Tensor) -> Figures:
    apart = kernel_difference(first, second, reference)
    return with_bounds({"kid_above": normal_interval(*apart)})


def _sha256(vectors: Tensor) -> str:
    return hashlib.sha256(vectors.contiguous().numpy().tobytes()).hexdigest()
