"""The results of a run with their protocol, and its folder: tables, images and the page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ood_sampler.data.domain import TargetDomain
from ood_sampler.data.physical import as_bands, write_fields
from ood_sampler.pipeline.choice import Choice
from ood_sampler.pipeline.exploring import explorer
from ood_sampler.pipeline.keys import label
from ood_sampler.pipeline.outcome import Outcome
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.pipeline.settings import Settings
from ood_sampler.report.columns import csv_rows
from ood_sampler.report.fields import FieldPanel
from ood_sampler.report.grid import gather, overview, save_png
from ood_sampler.report.journal import journal, show
from ood_sampler.report.page import write_page
from ood_sampler.report.results import environment, write_attribution, write_json, write_samples
from ood_sampler.report.tables import csv_table, rich_table
from ood_sampler.report.verdicts import judged
from ood_sampler.store.files import write_atomically
from ood_sampler.store.sets import TensorSet

SHOWN = 64
"""Samples shown in the grid, on the page and at an experiment tracker."""

_FILES = (
    ("samples/", "all samples as PNG files"),
    ("samples/manifest.csv", "seed, number and near-copy mark of each"),
    ("samples/attribution.csv", "few-shot images that explain each sample"),
    ("samples.npy", "samples as physical fields, NumPy"),
    ("samples.fits", "samples as physical fields, FITS"),
    ("grid.png", "samples beside their nearest few-shot images"),
    ("metrics.json", "figures, protocol, verdicts"),
    ("search.csv", "what the search tried"),
)
"""Files beside the page, those that are there, and what is in them."""

_OF_SOME_RUNS = ("samples.npy", "samples.fits", "search.csv")
"""Those of them that not every run leaves."""


def protocol(pipeline: Pipeline) -> dict[str, Any]:
    """Everything that the results of a pipeline depend on."""
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
        "few-shot images": len(domain.few_shot),
        "few-shot sha256": domain.few_shot.digest,
        "held-out images": len(domain.held_out),
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
    codec = pipeline.codec
    # a model that does not diffuse has no solver
    solver = {"solver": choices["solver"]} if codec.schedule else {}
    corrected = {} if pipeline.correction is None else {"correction": pipeline.correction.label}
    return {
        "model": pipeline.model.name,
        "data": pipeline.domain.name,
        **({} if pipeline.model.has_own_domain else {"fitted": "to the few-shot images"}),
        **corrected,
        "sampler": choices["sampler"],
        **solver,
        **codec.at(pipeline.settings.step),
        **({"noised_moves": moves} if (moves := pipeline.settings.noised_moves) else {}),
        **codec.settings,
        "eta": pipeline.settings.eta,
        **_cheap(pipeline.settings),
        "seed": pipeline.settings.seed,
        "num_samples": pipeline.settings.num_samples,
    }


def _cheap(numbers: Settings) -> dict[str, float]:
    """Settings of draws and of the first move of decoding, where they are not the usual ones."""
    found: dict[str, float] = {}
    if numbers.temperature != 1:
        found["temperature"] = numbers.temperature
    if numbers.shift:
        found["shift"] = numbers.shift
    return found


def results(
    pipeline: Pipeline,
    outcome: Outcome,
    *,
    choices: Mapping[str, str],
    notes: Sequence[str],
    choice: Choice | None,
) -> dict[str, Any]:
    """The results of a run, as in `metrics.json`.

    Args:
        pipeline: the run.
        outcome: its images and metrics.
        choices: option of each group of the configuration.
        notes: warnings.
        choice: of the search that preceded it; None if there was none.
    """
    reconstruction = outcome.reconstruction
    before, after = outcome.weights
    remarks = {"weights sha256 before": before, "weights sha256 after": after} if before else {}
    if outcome.remarks:
        remarks["strategy"] = "; ".join(outcome.remarks)
    if pipeline.is_corrected:
        remarks["correction"] = pipeline.about_gaussians
    run = settings(pipeline, choices)
    if choice is not None:
        remarks["search"] = choice.remark
        run["sampler"] = label(choice.sampler)
    mean = _means(reconstruction)
    # what an autoencoder alone loses is the least that the whole can
    mean |= {f"autoencoder_{name}": value for name, value in _means(outcome.autoencoder).items()}
    return judged(
        {
            "run": run,
            "protocol": {**protocol(pipeline), **remarks},
            "rows": [row.as_dict() for row in outcome.rows],
            "reconstruction": {"images": len(reconstruction["mse"]), **mean},
            "stages": [asdict(stage) for stage in outcome.stages],
            "distributions": _distributions(outcome),
            "skipped": [list(entry) for entry in pipeline.domain.skipped],
            "warnings": [*notes, *outcome.left_out],
        }
    )


def _means(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: sum(values) / len(values) for name, values in scores.items()}


def _distributions(outcome: Outcome) -> dict[str, Any]:
    """Values of each image."""
    sets = zip(("samples", "held_out"), outcome.rows[:2], strict=True)
    return {
        "nearest_distance": outcome.nearest_distance,
        "blend_pair": {name: row.each.get("blend_pair_each", ()) for name, row in sets},
        "psnr": outcome.reconstruction["psnr"],
        "near_copies": outcome.near_copies,
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
        outcome: its images.
        found: its results, as `results` made them.
        choice: of the search that preceded it; None if there was none.
    """
    few_shot, copies = pipeline.domain.few_shot, outcome.near_copies
    for name in _OF_SOME_RUNS:
        # of another run in the same folder
        (folder / name).unlink(missing_ok=True)
    if choice is not None:
        trials = [trial.as_dict() for trial in choice.trials]
        write_atomically(folder / "search.csv", csv_rows(trials).encode())
    write_json(folder / "metrics.json", found)
    write_atomically(folder / "metrics.csv", csv_table(found["rows"]).encode())
    images = as_bands(outcome.images, pipeline.domain.scale)
    samples, numbers = folder / "samples", outcome.numbers
    write_samples(samples, images, numbers, near_copies=copies, seed=pipeline.settings.seed)
    write_attribution(samples, outcome.attribution, numbers, few_shot=few_shot.names)
    pictures = _pictures(pipeline, outcome, images)
    fields = _write_fields(folder, images, pictures, pipeline.domain)
    shown = (pictures[kind] for kind in ("samples", "nearest", "held_out"))
    save_png(overview(*shown, near_copies=copies), folder / "grid.png")
    files = [(name, about) for name, about in _FILES if (folder / name).exists()]
    explored = explorer(pipeline, outcome, images, files)
    write_page(folder / "report.html", found, pictures, fields, explored)
    show(rich_table(found))
    for verdict in found["verdicts"]:
        journal.info("%(question)s %(answer)s: %(sentence)s", verdict)


def _pictures(pipeline: Pipeline, outcome: Outcome, images: TensorSet) -> dict[str, Tensor]:
    """The images that the page shows, by their kind; `images` are the samples."""
    domain = pipeline.domain
    shown = range(min(SHOWN, len(images)))
    generator = torch.Generator().manual_seed(pipeline.settings.seed)
    some = torch.randperm(len(domain.held_out), generator=generator)[: len(shown)].tolist()
    originals = range(min(16, len(outcome.originals)))
    reconstructions, own = as_bands(outcome.reconstructions, domain.scale), outcome.in_domain
    return {
        "samples": gather(images, shown),
        "nearest": gather(domain.few_shot, [outcome.nearest_index[i] for i in shown]),
        "held_out": gather(domain.held_out, some),
        "originals": gather(outcome.originals, originals),
        "reconstructions": gather(reconstructions, originals),
        **({"in_domain": gather(own, shown[: len(own)])} if len(own) else {}),
    }


def _write_fields(
    folder: Path, images: TensorSet, pictures: Mapping[str, Tensor], domain: TargetDomain
) -> FieldPanel | None:
    """Write samples as physical fields; return those of the page, None for other domains."""
    if domain.scale is None:
        return None
    names = write_fields(folder, images.blocks, len(images), domain.scale, unit=domain.unit)
    return FieldPanel(pictures["samples"], pictures["held_out"], domain.scale, domain.unit, names)


def _scale(domain: TargetDomain) -> dict[str, Any]:
    """How physical values became colours; empty for other domains."""
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
