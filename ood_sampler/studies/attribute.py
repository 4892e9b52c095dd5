"""Does a direction between labelled images change an attribute, and what else does it change?"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ood_sampler.data.domain import ImageSet, SourceImages
from ood_sampler.data.labels import LabelledDomain, Labels
from ood_sampler.data.sources import open_source
from ood_sampler.data.split import inspect
from ood_sampler.latents.alignment import LEAST as LEAST_PAIRS
from ood_sampler.metrics.probe import LEAST as LEAST_PROBED
from ood_sampler.names import file_name
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Column, Row
from ood_sampler.report.grid import LARGEST_EDGE, gather, png, tile, viewable
from ood_sampler.statistics.decision import Outcome
from ood_sampler.store.files import digest
from ood_sampler.store.node import Node
from ood_sampler.studies import attribute_words
from ood_sampler.studies.base import Measured, Study
from ood_sampler.studies.directions import Sides, least, moved, sides, still
from ood_sampler.studies.moves import Moves
from ood_sampler.studies.paths import LINE, PIXELS, SPHERE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = (SPHERE, LINE, PIXELS)
APPLIED = "applied"

_KEY = "study.apply_to"


class AttributeStudy(Study):
    r"""Move images along the direction of an attribute (Ramachandran et al., 2024).

    Few-shot images are divided by each label (`ood_sampler.studies.directions.sides`). At the
    Fréchet mean $m$ of both sides, $u = \frac{1}{|B|} \sum \log_m b - \frac{1}{|A|} \sum \log_m a$;
    image $x$ moves to $\exp_x(s\, \mathrm{PT}_{m \to x} u)$ at its own norm. Beside it the
    straight line $x + s (\bar b - \bar a)$ in latents and in pixels. The images that move, the
    first few-shot ones, have no part in the directions.

    What changes is read by linear probes in the feature space of each judge, fitted to the held-out
    images, and for labels named colour, axis_ratio or size by plain measures of the image too. What
    stays is the feature distance and the PSNR to the original image.

    Args:
        attributes: columns of the labels; None takes all.
        strengths: $s$, not 0; negative ones take the attribute away.
        count: images that are moved, at most a quarter of the few-shot ones.
        permutations: of the labels, for the test of alignment.
        shown: moved images in the figure.
        apply_to: folder or archive of images to move too; None moves none.

    Raises:
        ValueError: a number is out of range.
    """

    name = "attribute"
    title = "Directions of attributes: what they change, and whether pairs share them"
    headings = (
        Column("attribute", "attribute"),
        Column("method", "method"),
        Column("strength", "s", 2),
        Column("images", "images", 0),
        Column(
            "gain",
            "change, SD",
            2,
            meaning="Of the attribute by a linear probe of features, in standard deviations of the "
            "label on held-out images.",
        ),
        Column(
            "measured",
            "by measure, SD",
            2,
            meaning="The same by a plain measure of the image, in standard deviations of the "
            "measure.",
        ),
        Column("other", "largest other change, SD", 2, meaning="Of all other labels, by probe."),
        Column("other_name", "of"),
        Column("over_pixels", "above pixels, SD", 2, meaning="Paired difference of the change."),
        Column(
            "distance",
            "feature distance",
            2,
            meaning="To the original, over the mean distance of two different images.",
        ),
        Column("psnr", "PSNR, dB", 1, meaning="To the original."),
        Column("kid", "KID × 10³", 0, 1e3, "Against the held-out images."),
        Column(
            "probe",
            "probe",
            2,
            meaning="R² of the probe on held-out images, or AUROC for labels of two values; "
            "cross-validated.",
        ),
        Column(
            "cosine",
            "cosine of pairs",
            3,
            meaning="Mean over directions of independent pairs, transported to the Fréchet mean.",
        ),
        Column("null", "with labels permuted", 3),
        Column("explained", "explained by means", 3),
        Column(
            "signal",
            "signal",
            2,
            meaning="Share of the squared length of the direction that is not sampling noise.",
        ),
        Column(
            "pairs_agree",
            "both directions, cosine",
            2,
            meaning="Of the difference of mean logarithms and the mean of transported pair "
            "directions.",
        ),
    )

    def __init__(
        self,
        *,
        attributes: Sequence[str] | None,
        strengths: Sequence[float],
        count: int,
        permutations: int,
        shown: int,
        apply_to: str | None,
    ) -> None:
        if attributes is not None and (not attributes or len(set(attributes)) < len(attributes)):
            raise ValueError(
                f"study.attributes must name columns, each once, got {list(attributes)}"
            )
        if not strengths or 0 in strengths or list(strengths) != sorted(set(strengths)):
            raise ValueError(
                f"study.strengths must increase and leave 0 out, got {list(strengths)}"
            )
        for name, value, smallest in (
            ("count", count, 2),
            ("permutations", permutations, 20),
            ("shown", shown, 1),
        ):
            if value < smallest:
                raise ValueError(f"study.{name} must be >= {smallest}, got {value}")
        self.attributes = None if attributes is None else list(attributes)
        self.strengths = [float(strength) for strength in strengths]
        self.count = count
        self.permutations = permutations
        self.shown = shown
        self.apply_to = apply_to

    def about(self, pipeline: Pipeline) -> dict[str, str]:
        found = super().about(pipeline)
        key = {"run": found["run"], "labels": labels_of(pipeline).digest}
        return {**found, "run": digest(key)[: len(found["run"])]}

    def check(self, pipeline: Pipeline) -> None:
        super().check(pipeline)
        name, count = least(self._sides(pipeline))
        if count < LEAST_PAIRS:
            raise ValueError(
                f"{name} has {count} few-shot images on one side, and {LEAST_PAIRS} are needed: "
                "add labelled images, raise data.few_shot, lower study.count, or leave it out of "
                "study.attributes"
            )
        labels, held_out = labels_of(pipeline), pipeline.domain.held_out
        known = int(labels.of(held_out).isfinite().all(1).sum())
        if known < LEAST_PROBED:
            raise ValueError(
                f"{known} held-out images have labels, and {LEAST_PROBED} are needed for probes: "
                "label more images, or lower data.few_shot"
            )
        if self.apply_to is not None:
            self._applied(pipeline)

    def targets(self, pipeline: Pipeline) -> list[Node]:
        nodes = [pipeline.inversion, still(pipeline, self._count(pipeline))]
        nodes += [
            self.moved(pipeline, name, method)
            for name in self._sides(pipeline)
            for method in (SPHERE, LINE)
        ]
        if self.apply_to is not None:
            applied = self._applied(pipeline)
            nodes += [applied.inversion, *self._applications(pipeline, applied).values()]
        return nodes

    def moved(self, pipeline: Pipeline, name: str, method: str) -> Node:
        """Images moved along the direction of an attribute."""
        run = pipeline.in_pixels(pipeline.sampler) if method == PIXELS else pipeline
        return moved(
            run,
            self._sides(pipeline)[name],
            method,
            count=self._count(pipeline),
            strengths=self.strengths,
            purpose=f"{name}, {method}",
        )

    def measure(self, pipeline: Pipeline) -> Measured:
        pipeline.session.obtain(pipeline.inversion)
        of = self._sides(pipeline)
        moves = Moves(
            pipeline,
            labels_of(pipeline),
            count=self._count(pipeline),
            strengths=self.strengths,
            permutations=self.permutations,
        )
        about = self.about(pipeline)
        rows: list[Row] = []
        pictures: dict[str, Tensor] = {}
        for name, both in of.items():
            nodes = {method: self.moved(pipeline, name, method) for method in METHODS}
            rows += [{**about, **row} for row in moves.rows(name, both, nodes)]
            for method, node in nodes.items():
                for k in range(min(self.shown, moves.count)):
                    label = f"{pipeline.domain.name}/{name}/{method}, {k + 1}"
                    pictures[label] = self._strip(pipeline.domain.few_shot, node, k)
        if self.apply_to is not None:
            pictures |= self._apply(pipeline)
        return Measured(rows, pictures)

    def _strip(self, originals: ImageSet, node: Node, k: int) -> Tensor:
        """An original among the same image moved, from the lowest strength to the highest."""
        each = len(self.strengths)
        made = gather(node.output.open(), range(k * each, (k + 1) * each))
        return self._among(made, gather(originals, [k]))

    def _among(self, made: Tensor, original: Tensor) -> Tensor:
        below = sum(strength < 0 for strength in self.strengths)
        return torch.cat([made[:below], original, made[below:]])

    def _apply(self, pipeline: Pipeline) -> dict[str, Tensor]:
        """Strips of the images that the user gave, by their labels."""
        applied = self._applied(pipeline)
        originals = applied.domain.few_shot
        pipeline.session.obtain(applied.inversion)
        pictures = {}
        for name, node in self._applications(pipeline, applied).items():
            pipeline.session.obtain(node)
            items, each = node.output.open(), len(self.strengths)
            for k, image in enumerate(originals.names):
                made = items.take(range(k * each, (k + 1) * each))
                strip = self._among(made, originals[k][None])
                stem = file_name(image.rpartition("/")[2].rpartition(".")[0] or image)
                pictures[f"{pipeline.domain.name}/{APPLIED}/{name}/{k:04d}_{stem}"] = strip
        return pictures

    def _applications(self, pipeline: Pipeline, applied: Pipeline) -> dict[str, Node]:
        return {
            name: moved(
                pipeline,
                both,
                SPHERE,
                count=len(applied.domain.few_shot),
                strengths=self.strengths,
                purpose=f"{name}, given images",
                source=applied,
            )
            for name, both in self._sides(pipeline).items()
        }

    def _applied(self, pipeline: Pipeline) -> Pipeline:
        """The run with the user's further images in the place of the few-shot ones."""
        source = open_source(str(self.apply_to), key=_KEY)
        resolution = pipeline.model.resolution
        look = partial(inspect, source, resolution=resolution)

        def read() -> ImageSet:
            found = [look(k) for k in range(len(source))]
            return SourceImages(source, found, resolution=resolution)

        images = pipeline.session.once((_KEY, str(source.location), resolution), read)
        domain = replace(pipeline.domain, few_shot=images)
        # along the flow of the few-shot images, not of these
        run = replace(pipeline, domain=domain)
        if pipeline.is_corrected:
            run = replace(run, correction=None, codec=pipeline.flow)
        return run

    def _sides(self, pipeline: Pipeline) -> dict[str, Sides]:
        labels = labels_of(pipeline)
        chosen = list(labels.columns) if self.attributes is None else self.attributes
        for name in chosen:
            if name not in labels.columns:
                raise ValueError(
                    f"study.attributes: {name} is no column of the labels, which are "
                    f"{', '.join(labels.columns)}"
                )
        values = labels.of(pipeline.domain.few_shot)
        among = range(self._count(pipeline), len(values))
        return {name: sides(values[:, labels.columns.index(name)], among) for name in chosen}

    def _count(self, pipeline: Pipeline) -> int:
        return max(1, min(self.count, len(pipeline.domain.few_shot) // 4))

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        return attribute_words.conclude(rows)

    def claims(self, rows: Sequence[Row]) -> Mapping[str, Outcome]:
        return attribute_words.claims(rows)

    def draw(self, rows: Sequence[Row], pictures: Mapping[str, Tensor]) -> "Figure":
        from ood_sampler.studies.figures.attribute import draw

        return draw(attribute_words.of_attributes(rows), pictures)

    def files(self, pictures: Mapping[str, Tensor]) -> Mapping[str, bytes]:
        """A strip of each image that the user gave: the original, then the same image moved."""
        found = {}
        for label, images in pictures.items():
            parts = label.rsplit("/", 3)
            if len(parts) == 4 and parts[1] == APPLIED:
                small = images.shape[-1] < LARGEST_EDGE
                shown = viewable(images) if small else images
                found[f"{APPLIED}_{file_name(parts[2])}/{parts[3]}.png"] = png(
                    tile(shown, columns=len(images))
                )
        return found


def labels_of(pipeline: Pipeline) -> Labels:
    """Labels of the run's domain.

    Raises:
        ValueError: it has none.
    """
    domain = pipeline.domain
    if not isinstance(domain, LabelledDomain) or domain.labels is None:
        raise ValueError(
            f"{domain.name} has no labels: set data.labels to a CSV file, or put the images into "
            "two folders of data.root, those without the attribute into the first by name; of the "
            "domains that ship galaxy32 has labels"
        )
    return domain.labels
