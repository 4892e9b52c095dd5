"""What moving images changes: attributes by probes and plain measures, identity, distance."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ood_sampler.data.labels import Labels
from ood_sampler.metrics.appearance import MEASURES, agreement, appearance
from ood_sampler.metrics.kernel import kernel_terms
from ood_sampler.metrics.opinions import together
from ood_sampler.metrics.probe import Probe, Quality, fit_probe, held_out_estimates, quality
from ood_sampler.metrics.reconstruction import reconstruction
from ood_sampler.pipeline.keys import selected, taken
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.columns import Row
from ood_sampler.statistics.intervals import mean_interval
from ood_sampler.store.artifacts import Items
from ood_sampler.store.node import Node
from ood_sampler.studies.directions import Sides, aligned, direction, still
from ood_sampler.studies.paths import PIXELS, complete
from ood_sampler.studies.rows import bounds

OTHER = "to_"
"""Prefix of columns with the change of a single label."""


class Moves:
    """Moved images of a run, measured.

    Args:
        pipeline: of the run.
        labels: of its images.
        count: the first so many few-shot images were moved.
        strengths: to which each was moved.
        permutations: of labels, for the test of alignment.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        labels: Labels,
        *,
        count: int,
        strengths: Sequence[float],
        permutations: int,
    ) -> None:
        self.pipeline = pipeline
        self.labels = labels
        self.count = count
        self.strengths = strengths
        self.permutations = permutations

    def rows(self, name: str, of: Sides, nodes: Mapping[str, Node]) -> list[Row]:
        """Rows of one attribute: of each method and strength.

        Args:
            name: of the attribute.
            of: images that its direction is found from.
            nodes: moved images, by method.
        """
        whole = {
            method: set(complete(self.pipeline, node, f"{name}, image", each=len(self.strengths)))
            for method, node in nodes.items()
        }
        good = [k for k in self.unmoved if all(k in kept for kept in whole.values())]
        if len(good) < 2:
            raise ValueError(
                f"only {len(good)} moved images are left without NaN: use "
                "trainer.precision=32-true, or raise study.count"
            )
        seen = {method: self._seen(node, good, name, method) for method, node in nodes.items()}
        alignments = self._alignments(of)
        rows: list[Row] = []
        for method in nodes:
            space = "pixels" if method == PIXELS else "latents"
            for j, strength in enumerate(self.strengths):
                judged = {
                    judge: {
                        "judge": judge,
                        **self._judged(judge, name, j, seen, method, good),
                    }
                    for judge in self.pipeline.judges.names
                }
                rows.append(
                    {
                        "attribute": name,
                        "method": method,
                        "space": space,
                        **self.pipeline.codec.at(self.pipeline.settings.step),
                        "strength": strength,
                        "images": len(good),
                        "without": len(of.without),
                        "having": len(of.having),
                        "headline": self.pipeline.judges.headline.name,
                        **together(judged),
                        **self._plain(name, j, nodes[method], good, method),
                        **alignments[space],
                    }
                )
        return rows

    @cached_property
    def unmoved(self) -> list[int]:
        """Numbers of the images that are finite when decoded, not moved."""
        return complete(self.pipeline, still(self.pipeline, self.count), "image", each=1)

    @cached_property
    def _originals(self) -> Tensor:
        return taken(self.pipeline.domain.few_shot).take(range(self.count))

    @cached_property
    def _decoded(self) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Images inverted and decoded, and their features by judge."""
        node = still(self.pipeline, self.count)
        items = selected(node.output.open(), self.unmoved)
        features = self.pipeline.describe(
            "moved", Items(items), node.output.digest, self.unmoved, of="not moved"
        ).features
        return items.take(range(len(items))), features

    @cached_property
    def _held_out(self) -> Tensor:
        return self.labels.of(self.pipeline.domain.held_out)

    @cached_property
    def _probes(self) -> Mapping[str, tuple[Probe, list[Quality]]]:
        """Probes of all labels, by judge, and how well they tell labels of other images."""
        known = self._held_out.isfinite().all(1)
        y = self._held_out[known]
        found = {}
        for judge in self.pipeline.judges.names:
            x = self.pipeline.held_out.features[judge][known]
            estimates = held_out_estimates(x, y, seed=self.pipeline.settings.seed)
            scores = [quality(estimates[:, k], y[:, k]) for k in range(y.shape[1])]
            found[judge] = fit_probe(x, y), scores
        return found

    @cached_property
    def _measures(self) -> Mapping[str, Tensor]:
        """Plain measures of the held-out images."""
        images = taken(self.pipeline.domain.held_out)
        blocks = [appearance(block) for block in images.blocks()]
        return {name: torch.cat([block[name] for block in blocks]) for name in MEASURES}

    @cached_property
    def _apart(self) -> Mapping[str, float]:
        """Mean feature distance of two different originals, by judge."""
        found = {}
        for judge in self.pipeline.judges.names:
            x = self.pipeline.few_shot.features[judge].double()
            found[judge] = float(torch.nn.functional.pdist(x).mean())
        return found

    def _seen(
        self, node: Node, good: Sequence[int], name: str, method: str
    ) -> Mapping[str, Tensor]:
        """Features by judge, shape (images, strengths, D)."""
        each = len(self.strengths)
        numbers = [k * each + j for k in good for j in range(each)]
        images = Items(selected(node.output.open(), numbers))
        of = f"{name}, {method}"
        features = self.pipeline.describe(
            "moved", images, node.output.digest, numbers, of=of
        ).features
        return {judge: x.unflatten(0, (-1, each)) for judge, x in features.items()}

    def _judged(
        self,
        judge: str,
        name: str,
        j: int,
        seen: Mapping[str, Mapping[str, Tensor]],
        method: str,
        good: Sequence[int],
    ) -> dict[str, Any]:
        probe, qualities = self._probes[judge]
        columns = self.labels.columns
        own = columns.index(name)
        changes = {
            each: probe(seen[each][judge][:, j]) - probe(self._before(judge, each, good))
            for each in seen
        }
        change = changes[method]
        features, originals = seen[method][judge][:, j].double(), self._features(judge, good)
        means = change.mean(0)
        found: dict[str, Any] = {
            **bounds("gain", mean_interval(change[:, own])),
            **bounds("probe", qualities[own].score),
            "binary": qualities[own].binary,
            **{f"{OTHER}{column}": float(means[k]) for k, column in enumerate(columns)},
        }
        if method != PIXELS:
            found |= bounds("over_pixels", mean_interval(change[:, own] - changes[PIXELS][:, own]))
        others = [k for k in range(len(columns)) if k != own]
        if others:
            largest = max(others, key=lambda k: abs(float(means[k])))
            found |= bounds("other", mean_interval(change[:, largest]))
            found["other_name"] = columns[largest]
        away = (features - originals).norm(dim=1) / self._apart[judge]
        terms = kernel_terms(seen[method][judge][:, j], self.pipeline.held_out.features[judge])
        return {
            **found,
            **bounds("distance", mean_interval(away)),
            **bounds("kid", terms.interval),
            "kid_standard_error": float(terms.estimate.standard_error),
        }

    def _before(self, judge: str, method: str, good: Sequence[int]) -> Tensor:
        """Features of the images before they are moved: in latents, inverted and decoded."""
        if method == PIXELS:
            return self._features(judge, good)
        places = [self.unmoved.index(k) for k in good]
        return self._decoded[1][judge][places]

    def _features(self, judge: str, good: Sequence[int]) -> Tensor:
        return self.pipeline.few_shot.features[judge][list(good)].double()

    def _plain(
        self, name: str, j: int, node: Node, good: Sequence[int], method: str
    ) -> dict[str, Any]:
        """PSNR to the original, and the change by a plain measure if there is one."""
        each = len(self.strengths)
        images = node.output.open().take([k * each + j for k in good])
        originals = self._originals[list(good)]
        found: dict[str, Any] = bounds(
            "psnr", mean_interval(reconstruction(images, originals).psnr)
        )
        if name not in MEASURES:
            return found
        reference = self._measures[name]
        label = self._held_out[:, self.labels.columns.index(name)]
        unit = reference[reference.isfinite()].std()
        places = [self.unmoved.index(k) for k in good]
        before = originals if method == PIXELS else self._decoded[0][places]
        change = (appearance(images)[name] - appearance(before)[name]) / unit
        change = change[change.isfinite()]
        if len(change) > 1:
            found |= bounds("measured", mean_interval(change))
        return {**found, **bounds("agreement", agreement(reference, label))}

    def _alignments(self, of: Sides) -> Mapping[str, dict[str, Any]]:
        """The test of alignment in latents and in pixels."""
        found = {}
        pixels = self.pipeline.in_pixels(self.pipeline.sampler)
        for space, run in (("latents", self.pipeline), ("pixels", pixels)):
            test = aligned(run, of, permutations=self.permutations)
            found[space] = {
                "pairs": test.pairs,
                **bounds("cosine", test.cosine),
                **bounds("null", test.null),
                "explained": test.explained,
                "signal": test.signal,
                **bounds("beyond_null", test.beyond_null),
                **bounds("beyond_means", test.beyond_means),
                "pairs_agree": direction(run, of).pairs,
            }
        return found
