"""Gather what the page of a run shows of single images."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ood_sampler.pipeline.explored import KINDS
from ood_sampler.pipeline.outcome import Outcome
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.report.explorer import MOST, Explorer, FilmReel, Named, SampleRecord
from ood_sampler.report.grid import gather
from ood_sampler.report.results import sample_file
from ood_sampler.store.sets import TensorSet


def explorer(
    pipeline: Pipeline,
    outcome: Outcome,
    images: TensorSet,
    files: Sequence[tuple[str, str]],
) -> Explorer:
    """Choose the images that a page shows, and describe each sample.

    Args:
        pipeline: the run.
        outcome: its results.
        images: the samples as the page shows them.
        files: names and descriptions of files beside the page.
    """
    domain, found = pipeline.domain, outcome.explored
    shown = range(min(MOST["samples"], len(images)))
    named = found.neighbours.indices[: len(shown)], outcome.attribution.indices[: len(shown)]
    few_shot = _few_shot(len(domain.few_shot), named)
    held_out = _some(len(domain.held_out), MOST["held_out"], seed=pipeline.settings.seed)
    in_domain = range(min(MOST["in_domain"], len(outcome.in_domain)))
    chosen = dict(zip(KINDS, (shown, few_shot, held_out, in_domain), strict=True))
    sources: dict[str, TensorSet | Dataset[Tensor]] = {
        "samples": images,
        "few_shot": domain.few_shot,
        "held_out": domain.held_out,
        "in_domain": outcome.in_domain,
    }
    return Explorer(
        images={kind: gather(sources[kind], chosen[kind]) for kind in chosen if chosen[kind]},
        points={
            kind: points[list(chosen[kind])]
            # the last set may be missing
            for kind, points in zip(KINDS, found.plane.points, strict=False)
        },
        axes=found.plane.shares,
        judge=pipeline.judges.headline.name,
        samples=_records(outcome, shown, {index: place for place, index in enumerate(few_shot)}),
        few_shot=[str(domain.few_shot.names[index]) for index in few_shot],
        total=len(images),
        film=_reel(pipeline, outcome),
        scale=domain.scale,
        unit=domain.unit,
        files=files,
    )


def _few_shot(count: int, named: Sequence[Tensor]) -> list[int]:
    """The few-shot images on the page: the first ones, and all that samples name."""
    asked = {index for indices in named for index in indices.flatten().tolist()}
    return sorted(asked | set(range(min(count, MOST["few_shot"]))))


def _some(count: int, most: int, *, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:most].tolist()


def _records(outcome: Outcome, shown: Sequence[int], places: dict[int, int]) -> list[SampleRecord]:
    """Numbers of the samples; `places` are those of few-shot images on their sheet."""
    found, explained = outcome.explored, outcome.attribution
    pairs = outcome.rows[0].each.get("blend_pair_each", ())

    def named(indices: Tensor, values: Tensor) -> list[Named]:
        each = zip(indices.tolist(), values.tolist(), strict=True)
        return [Named(places[index], value) for index, value in each]

    return [
        SampleRecord(
            number=outcome.numbers[i],
            file=f"samples/{sample_file(outcome.numbers[i])}",
            near_copy=bool(outcome.near_copies[i]) if outcome.near_copies else None,
            captured=bool(found.captured[i]) if len(outcome.in_domain) else None,
            authentic=bool(found.authentic[i]),
            realism=float(found.realism[i]),
            blend_pair=float(pairs[i]) if len(pairs) else None,
            neighbours=named(found.neighbours.indices[i], found.neighbours.distance[i]),
            parts=named(explained.indices[i], explained.shares[i]),
        )
        for i in shown
    ]


def _reel(pipeline: Pipeline, outcome: Outcome) -> FilmReel | None:
    film = outcome.film
    if film is None:
        return None
    few_shot, scale = pipeline.domain.few_shot, pipeline.domain.scale
    up, down = (torch.cat(list(node.output.open().blocks())) for node in film.nodes)
    if scale is not None and len(scale.low) == 1:
        up, down = (frames.mean(-3, keepdim=True).expand_as(frames) for frames in (up, down))
    return FilmReel(
        up=up,
        down=down,
        up_steps=film.up_steps,
        down_steps=film.down_steps,
        few_shot=[str(few_shot.names[i]) for i in range(film.up.count)],
        numbers=range(film.down.count),
    )
