"""What a run leaves behind: its figures with their protocol, tables, pictures and the page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ood_sampler.data.domain import TargetDomain
from ood_sampler.data.physical import as_bands, write_fields
from ood_sampler.pipeline.nodes import label
from ood_sampler.pipeline.pipeline import Outcome, Pipeline
from ood_sampler.pipeline.search import Choice
from ood_sampler.report.fields import FieldPanel
from ood_sampler.report.grid import gather, overview, save_png
from ood_sampler.report.journal import journal, show
from ood_sampler.report.page import write_page
from ood_sampler.report.results import environment, write_attribution, write_json, write_samples
from ood_sampler.report.tables import csv_table, rich_table
from ood_sampler.report.verdicts import conclusion, verdicts
from ood_sampler.store.files import write_atomically
from ood_sampler.store.sets import TensorSet
from ood_sampler.studies.files import csv_rows

SHOWN = 64
"""Samples in the grid, on the page and at an experiment tracker."""


def protocol(pipeline: Pipeline) -> dict[str, Any]:
    """What the figures of a pipeline depend on."""
    judges, domain = pipeline.judges, pipeline.domain
    protocols = {
        f"judge {judge.name}{end}": text
        for judge in judges
        for end, text in (("", judge.extractor.protocol), (" sha256", judge.extractor.digest))
    }
    return {
        "judges": ", ".join(judges.names),
        **protocols,
        "model sha256": pipeline.model.digest,
        "few-shot pictures": len(domain.few_shot),
        "few-shot sha256": domain.few_shot.digest,
        "held-out pictures": len(domain.held_out),
        "held-out sha256": domain.held_out.digest,
        **_scale(domain),
        "nearest k": judges.nearest_k,
        **environment(),
    }


def settings(pipeline: Pipeline, choices: Mapping[str, str]) -> dict[str, Any]:
    """Names and numbers of a run.

    Args:
        pipeline: the run.
        choices: option of each group of the configuration.
    """
    corrected = {} if pipeline.correction is None else {"correction": pipeline.correction.label}
    return {
        "model": pipeline.model.name,
        "data": pipeline.domain.name,
        **corrected,
        "sampler": choices["sampler"],
        "solver": choices["solver"],
        "step": pipeline.settings.step,
        **pipeline.codec.settings,
        "eta": pipeline.settings.eta,
        "seed": pipeline.settings.seed,
        "num_samples": pipeline.settings.num_samples,
    }


def results(
    pipeline: Pipeline,
    outcome: Outcome,
    *,
    choices: Mapping[str, str],
    notes: Sequence[str],
    choice: Choice | None,
) -> dict[str, Any]:
    """All that a run found, as it stands in `metrics.json`.

    Args:
        pipeline: the run.
        outcome: what it found.
        choices: option of each group of the configuration.
        notes: warnings.
        choice: of a search that went before.
    """
    reconstruction = outcome.reconstruction
    count = len(reconstruction["mse"])
    before, after = outcome.weights
    remarks = {"weights sha256 before": before, "weights sha256 after": after}
    if outcome.remarks:
        remarks["strategy"] = "; ".join(outcome.remarks)
    if pipeline.is_corrected:
        remarks["correction"] = pipeline.about_gaussians
    run = settings(pipeline, choices)
    if choice is not None:
        remarks["search"] = choice.remark
        run["sampler"] = label(choice.sampler)
    found = {
        "run": run,
        "protocol": {**protocol(pipeline), **remarks},
        "rows": [row.as_dict() for row in outcome.rows],
        "reconstruction": {
            "images": count,
            **{name: sum(values) / count for name, values in reconstruction.items()},
        },
        "stages": [asdict(stage) for stage in outcome.stages],
        "distributions": {
            "nearest_distance": outcome.nearest_distance,
            "blend_pair": {
                "samples": outcome.rows[0].each.get("blend_pair_each", ()),
                "held_out": outcome.rows[1].each.get("blend_pair_each", ()),
            },
            "psnr": reconstruction["psnr"],
            "near_copies": outcome.near_copies,
        },
        "skipped": [list(entry) for entry in pipeline.domain.skipped],
        "warnings": [*notes, *outcome.left_out],
    }
    judged = verdicts(found)
    return {
        **found,
        "verdicts": [verdict.as_dict() for verdict in judged],
        "conclusion": conclusion(judged),
    }


def write_run(
    folder: Path,
    pipeline: Pipeline,
    outcome: Outcome,
    found: Mapping[str, Any],
    choice: Choice | None,
) -> None:
    """Write the folder of a run and show its table.

    Args:
        folder: where to.
        pipeline: the run.
        outcome: its pictures.
        found: its figures, as `results` made them.
        choice: of a search that went before.
    """
    few_shot, held_out, scale = (
        pipeline.domain.few_shot,
        pipeline.domain.held_out,
        pipeline.domain.scale,
    )
    seed = pipeline.settings.seed
    shown = range(min(SHOWN, len(outcome.images)))
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(held_out), generator=generator)[: len(shown)].tolist()
    originals = range(min(16, len(outcome.originals)))
    images = as_bands(outcome.images, scale)
    pictures = {
        "samples": gather(images, shown),
        "nearest": gather(few_shot, [outcome.nearest_index[i] for i in shown]),
        "held_out": gather(held_out, some),
        "originals": gather(outcome.originals, originals),
        "reconstructions": gather(as_bands(outcome.reconstructions, scale), originals),
        "in_domain": gather(outcome.in_domain, shown[: len(outcome.in_domain)]),
    }
    if choice is not None:
        trials = [trial.as_dict() for trial in choice.trials]
        write_atomically(folder / "search.csv", csv_rows(trials).encode())
    write_json(folder / "metrics.json", found)
    write_atomically(folder / "metrics.csv", csv_table(found["rows"]).encode())
    write_samples(
        folder / "samples",
        images,
        outcome.numbers,
        near_copies=outcome.near_copies,
        seed=seed,
    )
    write_attribution(
        folder / "samples",
        outcome.attribution,
        outcome.numbers,
        few_shot=few_shot.names,
    )
    fields = _write_fields(folder, images, pictures, pipeline.domain)
    save_png(
        overview(
            pictures["samples"],
            pictures["nearest"],
            pictures["held_out"],
            near_copies=outcome.near_copies,
        ),
        folder / "grid.png",
    )
    write_page(folder / "report.html", found, pictures, fields)
    show(rich_table(found))
    for verdict in found["verdicts"]:
        journal.info("%(question)s %(answer)s: %(sentence)s", verdict)


def _write_fields(
    folder: Path, images: TensorSet, pictures: Mapping[str, Tensor], domain: TargetDomain
) -> FieldPanel | None:
    """Write the samples of a domain of physical fields as such; return what the page shows."""
    if domain.scale is None:
        return None
    names = write_fields(folder, images.blocks, len(images), domain.scale, unit=domain.unit)
    return FieldPanel(pictures["samples"], pictures["held_out"], domain.scale, domain.unit, names)


def _scale(domain: TargetDomain) -> dict[str, Any]:
    """How physical values became colours, where the pictures were such."""
    scale: dict[str, Any] = {}
    if domain.scale is not None:
        scale["scale"] = json.dumps(domain.scale.as_dict())
        if domain.unit is not None:
            scale["unit"] = domain.unit
        if len(domain.scale.low) == 1:
            scale["single band"] = (
                "samples are shown and saved as the mean of their three colours, figures are of "
                "the images as decoded"
            )
    if domain.clipped is not None:
        shares = (f"{100 * share:.3g}%" for share in domain.clipped)
        scale["values clipped (few-shot, held-out)"] = ", ".join(shares)
    return scale
