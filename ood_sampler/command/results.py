"""What a run, a study and a sweep leave in their folders, and what a tracker is told of them."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ood_sampler.command.folders import (
    CONFIG,
    in_sweep,
    resolved,
    run_folder,
    sweep_name,
    write_configuration,
)

if TYPE_CHECKING:
    from ood_sampler.pipeline.choice import Choice
    from ood_sampler.pipeline.outcome import Outcome
    from ood_sampler.pipeline.pipeline import Pipeline
    from ood_sampler.report.tracking import Entry, Tracker
    from ood_sampler.studies.base import Measured, Study

log = logging.getLogger(__name__)

PAGE = "report.html"
"""The page of a run, a study or a sweep, in its folder."""


def leave_run(
    cfg: DictConfig,
    pipeline: "Pipeline",
    outcome: "Outcome",
    *,
    choice: "Choice | None",
    notes: Sequence[str],
) -> dict[str, Any]:
    """Write the files of a run.

    Args:
        cfg: its configuration.
        pipeline: the run.
        outcome: its images.
        choice: of a search before it.
        notes: warnings of its preparation.

    Returns:
        Its results, as in `metrics.json`.
    """
    from ood_sampler.entries import run_entry
    from ood_sampler.record import results, write_run

    folder, choices = run_folder(), HydraConfig.get().runtime.choices
    found = results(pipeline, outcome, choices=choices, notes=notes, choice=choice)
    write_run(folder, pipeline, outcome, found, choice)
    write_configuration(folder, cfg)
    config, group = resolved(cfg), sweep_name()
    with TemporaryDirectory() as scratch:
        _track(cfg, run_entry(folder, Path(scratch), pipeline, outcome, found, config, group=group))
    log.info("report: %s", folder / PAGE)
    return found


def leave_study(
    cfg: DictConfig,
    pipeline: "Pipeline",
    study: "Study",
    measured: "Measured",
    *,
    notes: Sequence[str],
) -> tuple[str, ...]:
    """Write the files of a study.

    Args:
        cfg: the configuration of its run.
        pipeline: the run.
        study: the question.
        measured: the answer.
        notes: warnings of its preparation.

    Returns:
        The conclusion.
    """
    from ood_sampler.record import protocol, settings

    found = {**settings(pipeline, HydraConfig.get().runtime.choices), **protocol(pipeline)}
    told = [*notes, *pipeline.session.left_out]
    told += [f"{name}: left out, {why}" for name, why in pipeline.domain.skipped]
    if told:
        found["warnings"] = "; ".join(told)
    entry = _conclude(run_folder(), cfg, study, measured, found, group=sweep_name())
    write_configuration(run_folder(), cfg)
    _track(cfg, entry)
    return tuple(str(sentence) for (sentence,) in entry.tables["conclusion"].rows)


def write_table(folder: Path, config: DictConfig) -> bool:
    """Put the results of a sweep's runs together, if there are any."""
    from ood_sampler.entries import sweep_entry
    from ood_sampler.report.journal import show
    from ood_sampler.report.results import read_samples
    from ood_sampler.report.sweep import Sweep, SweptRun
    from ood_sampler.report.sweep_files import write_sweep
    from ood_sampler.report.sweep_page import write_sweep_page

    runs, links = [], []
    for run in _finished_runs(folder, "metrics.json"):
        overrides = OmegaConf.load(run / ".hydra" / "overrides.yaml")
        told = [str(text) for text in overrides if not str(text).startswith("sweep=")]
        results = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        runs.append(SweptRun(",".join(told), results, read_samples(run / "samples", 12)))
        links.append(f"{run.name}/{PAGE}" if (run / PAGE).exists() else "")
    if not runs:
        return False
    sweep = Sweep(runs)
    show(write_sweep(folder, sweep))
    write_sweep_page(folder / PAGE, sweep, links)
    log.info("report: %s", folder / PAGE)
    log.info("sweep: %s", files(folder, "sweep.csv", "sweep.md", "sweep.png", "sweep_curves.png"))
    tracker(config).record(folder, sweep_entry(folder, sweep, resolved(config)))
    return True


def merge_studies(folder: Path, config: DictConfig) -> bool:
    """Put the answers of a sweep's studies together, if there are any."""
    from hydra.utils import instantiate

    from ood_sampler.studies.files import read_studies

    study = instantiate(config.study, _convert_="all")
    found = _finished_runs(folder, f"{study.name}.json")
    if not found:
        return False
    measured, shared = read_studies(study.name, found, joins=study.joins)
    entry = _conclude(folder, config, study, measured, shared, group=folder.name)
    tracker(config).record(folder, entry)
    return True


def _conclude(
    folder: Path,
    cfg: DictConfig,
    study: "Study",
    measured: "Measured",
    found: Mapping[str, Any],
    *,
    group: str | None,
) -> "Entry":
    """Write the answer to a study, tell what follows from it, and describe it for a tracker."""
    from ood_sampler.entries import study_entry
    from ood_sampler.studies.files import write_study
    from ood_sampler.studies.page import write_study_page

    conclusion = write_study(folder, study, measured, found)
    write_study_page(folder, study, measured, conclusion, found)
    for sentence in conclusion:
        log.info("%s", sentence)
    name = study.name
    log.info("report: %s", folder / PAGE)
    log.info("study: %s", files(folder, f"{name}.png", f"{name}.svg", f"{name}.md", f"{name}.csv"))
    return study_entry(folder, name, measured, conclusion, resolved(cfg), group=group)


def tracker(cfg: DictConfig) -> "Tracker":
    """The experiment tracker of a configuration, which may have been deleted from it."""
    from hydra.utils import instantiate

    from ood_sampler.report.tracking import NoTracker

    made: Tracker = instantiate(cfg.logger) if "logger" in cfg else NoTracker()
    return made


def _track(cfg: DictConfig, entry: "Entry") -> None:
    """Send the results of a run to the experiment tracker; a sweep says how to upload all runs."""
    used = tracker(cfg)
    used.record(run_folder(), entry)
    command = None if in_sweep() else used.upload(run_folder())
    if command is not None:
        log.info("wandb: offline; to upload: %s", command)


def files(folder: Path, first: str, *others: str) -> str:
    """Name files of a folder: the first with its path, then those of the others that exist."""
    beside = [name for name in others if (folder / name).exists()]
    return f"{folder / first}" + (f" (beside it {', '.join(beside)})" if beside else "")


def _finished_runs(folder: Path, result: str) -> list[Path]:
    """Folders of those runs of a sweep that have a result, in order."""
    found = [file.parent for file in folder.glob(f"*/{result}")]
    runs = [run for run in found if run.name.isdecimal() and (run / CONFIG).exists()]
    return sorted(runs, key=lambda run: int(run.name))
