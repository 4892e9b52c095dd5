"""What a run leaves behind: its figures with their protocol, tables, pictures and the page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ood_sampler.data.artifact import write_atomically
from ood_sampler.data.domain import TargetDomain
from ood_sampler.data.fields import write_physical
from ood_sampler.pipeline import Outcome, Pipeline, label
from ood_sampler.report.grid import gather, overview, save_png
from ood_sampler.report.journal import journal, show
from ood_sampler.report.page import write_page
from ood_sampler.report.results import environment, write_json, write_samples
from ood_sampler.report.tables import csv_table, rich_table
from ood_sampler.report.verdicts import verdicts
from ood_sampler.search import Choice
from ood_sampler.studies.files import csv_rows

SHOWN = 64
"""Samples in the grid, on the page and at an experiment tracker."""


def protocol(pipeline: Pipeline) -> dict[str, Any]:
    """What the figures of a pipeline depend on."""
    extractor, domain = pipeline.evaluation.extractor, pipeline.domain
    return {
        "features": extractor.protocol,
        "features sha256": extractor.digest,
        "model sha256": pipeline.model.digest,
        "few-shot pictures": len(domain.few_shot),
        "few-shot sha256": domain.few_shot.digest,
        "held-out pictures": len(domain.held_out),
        "held-out sha256": domain.held_out.digest,
        **_scale(domain),
        "nearest k": pipeline.evaluation.nearest_k,
        **environment(),
    }


def settings(pipeline: Pipeline, choices: Mapping[str, str]) -> dict[str, Any]:
    """Names and numbers of a run.

    Args:
        pipeline: the run.
        choices: option of each group of the configuration.
    """
    return {
        "model": pipeline.model.name,
        "data": pipeline.domain.name,
        "sampler": choices["sampler"],
        "solver": choices["solver"],
        "step": pipeline.settings.step,
        **vars(pipeline.solver),
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
    run = settings(pipeline, choices)
    if choice is not None:
        remarks["search"] = choice.remark
        run["sampler"] = label(choice.sampler)
    return {
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
                "samples": list(outcome.rows[0].blend_pair),
                "held_out": list(outcome.rows[1].blend_pair),
            },
            "psnr": reconstruction["psnr"],
        },
        "skipped": [list(entry) for entry in pipeline.domain.skipped],
        "warnings": [*notes, *outcome.left_out],
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
    pictures = {
        "samples": gather(outcome.images, shown),
        "nearest": gather(few_shot, [outcome.nearest_index[i] for i in shown]),
        "held_out": gather(held_out, some),
        "originals": gather(outcome.originals, originals),
        "reconstructions": gather(outcome.reconstructions, originals),
        "in_domain": gather(outcome.in_domain, shown),
    }
    if choice is not None:
        trials = [trial.as_dict() for trial in choice.trials]
        write_atomically(folder / "search.csv", csv_rows(trials).encode())
    write_json(folder / "metrics.json", found)
    write_atomically(folder / "metrics.csv", csv_table(found["rows"]).encode())
    write_samples(folder / "samples", outcome.images, outcome.numbers, seed=seed)
    if scale is not None:
        write_physical(folder / "samples.npy", outcome.images.blocks(), len(outcome.images), scale)
    save_png(
        overview(pictures["samples"], pictures["nearest"], pictures["held_out"]),
        folder / "grid.png",
    )
    write_page(folder / "report.html", found, pictures)
    # six sets of figures do not fit into the 80 columns of a pipe
    show(rich_table(found), width=100)
    for verdict in verdicts(found):
        journal.info("%s %s: %s", verdict.question, verdict.answer, verdict.sentence)


def _scale(domain: TargetDomain) -> dict[str, Any]:
    """How physical values became colours, where the pictures were such."""
    scale: dict[str, Any] = {}
    if domain.scale is not None:
        scale["scale"] = json.dumps(domain.scale.as_dict())
    if domain.clipped is not None:
        shares = (f"{100 * share:.3g}%" for share in domain.clipped)
        scale["values clipped (few-shot, held-out)"] = ", ".join(shares)
    return scale
