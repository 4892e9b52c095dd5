"""Sweeps: the runs of one command, in one folder in which a later command can continue."""

import logging
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from ood_sampler.command.folders import tidy_at_exit
from ood_sampler.faults import CommandError
from ood_sampler.names import ARTIFACTS, MULTIRUN

if TYPE_CHECKING:
    from ood_sampler.report.tracking import Tracker

log = logging.getLogger(__name__)

# the launchers' own keys have the types that their packages give them, which Hydra means to end;
# here, as workers import this file before they compose their configuration
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against")

STEP_KEY = "inversion.step"

CONFIG = "config.yaml"
"""In the folder of a run: its resolved configuration, written when all else is there."""

FAILED = "failed.txt"
"""In the folder of a run of a sweep: why it failed."""

_FREE = frozenset({"sweep", "output", "dry_run", "logger"})
"""Settings that no result depends on."""


def note_failure(folder: Path, sentence: str) -> None:
    """Say in the folder of a run why it failed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAILED).write_text(sentence + "\n", encoding="utf-8")


def finished(folder: Path, cfg: DictConfig) -> bool:
    """Tell whether the folder of a run holds all results of a configuration."""
    file = folder / CONFIG
    return file.exists() and _results_depend_on(OmegaConf.load(file)) == _results_depend_on(
        # as it comes back from a file
        OmegaConf.create(OmegaConf.to_yaml(cfg, resolve=True))
    )


def _results_depend_on(cfg: Any) -> dict[str, Any]:  # noqa: ANN401 what OmegaConf returns
    return {key: value for key, value in OmegaConf.to_container(cfg).items() if key not in _FREE}  # type: ignore[union-attr,misc]


def check_continued(
    folder: Path, sweep: str, overrides: Sequence[str], params: Mapping[str, Any] | None
) -> None:
    """Make sure that a sweep goes on with the settings that it was started with.

    Args:
        folder: of the sweep.
        sweep: how the command names it.
        overrides: settings of the command.
        params: further ones, of the sweeper.

    Raises:
        CommandError: they differ.
    """
    before = OmegaConf.load(folder / MULTIRUN)
    texts = list(before.hydra.overrides.task)
    if _settings(texts, before.hydra.sweeper.get("params")) != _settings(overrides, params):
        command = " ".join(shlex.quote(text) for text in texts if not _is_free(text))
        raise CommandError(
            f"the sweep {folder} has other settings: leave sweep out to begin a new one, or "
            f"continue it with its own: -m sweep={sweep} {command}".rstrip()
        )


def _settings(
    overrides: Sequence[str], params: Mapping[str, Any] | None
) -> tuple[list[str], list[str]]:
    """The swept settings in their order, which numbers the runs, and the others in any order."""
    texts = [*(f"{key}={value}" for key, value in (params or {}).items()), *overrides]
    parsed = OverridesParser.create().parse_overrides(texts)
    swept = [text for o, text in zip(parsed, texts, strict=True) if o.is_sweep_override()]
    return swept, sorted(text for text in texts if text not in swept and not _is_free(text))


def _is_free(override: str) -> bool:
    return override.lstrip("+~").partition("=")[0].partition(".")[0] in _FREE


def swept_steps() -> list[int]:
    """All inversion steps of the sweep that this run belongs to; none outside of one."""
    hydra_cfg = HydraConfig.get()
    if hydra_cfg.mode != RunMode.MULTIRUN:
        return []
    file = Path(hydra_cfg.sweep.dir) / MULTIRUN
    if not file.exists():
        return []
    sweep = OmegaConf.load(file)
    params = OmegaConf.select(sweep, "hydra.sweeper.params") or {}
    texts = [f"{key}={value}" for key, value in params.items()]
    texts += OmegaConf.select(sweep, "hydra.overrides.task") or []
    steps: set[int] = set()
    for text in texts:
        if not text.startswith(f"{STEP_KEY}="):
            continue
        override = OverridesParser.create().parse_override(text)
        if override.is_sweep_override():
            steps |= {int(v) for v in override.sweep_string_iterator() if v.isdecimal()}
    return sorted(steps)


def wait_for_all_jobs(folder: Path) -> None:
    """Have a sweep by submitit wait for each of its jobs, and note those that died.

    Hydra's launcher leaves at the first job that was killed or ran out of time, with others still
    at work.

    Args:
        folder: of the sweep.
    """
    from hydra.core.utils import JobReturn, JobStatus
    from submitit.core.core import Job
    from submitit.core.utils import FailedJobError, UncompletedJobError

    results = Job.results

    def noted(job: Job[JobReturn]) -> list[JobReturn]:
        number = job.submission().args[2]
        try:
            returned = results(job)
        except (FailedJobError, UncompletedJobError):
            fault = f"its job left no result (state {job.state}), see {job.paths.stderr}"
        else:
            if returned[0].status == JobStatus.COMPLETED:
                return returned
            error = returned[0]._return_value
            fault = f"{type(error).__name__}: {error}, see {job.paths.stderr}"
        note_failure(folder / str(number), " ".join(fault.split()))
        return [JobReturn(status=JobStatus.COMPLETED)]

    Job.results = noted  # type: ignore[assignment,method-assign]


class SweepReport(Callback):
    """Leaves no empty folders, continues sweeps, and ends each with one table and one picture."""

    def on_run_start(self, config: DictConfig, **kwargs: object) -> None:
        if config.sweep is not None:
            _refuse(
                f"sweep={config.sweep} continues a sweep: add -m and the settings of that sweep"
            )
        # what Hydra does next, and a folder of the user's may refer to
        HydraConfig.instance().set_config(config)
        tidy_at_exit(Path(config.hydra.run.dir), Path(str(config.output), ARTIFACTS))

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        try:
            folder = Path(config.hydra.sweep.dir)
            if config.sweep is not None:
                params = config.hydra.sweeper.get("params")
                check_continued(folder, config.sweep, config.hydra.overrides.task, params)
        except InterpolationResolutionError as error:
            # OmegaConf's account of it comes before and after
            _refuse(str(error).splitlines()[0].rpartition("interpolation: ")[2])
        except CommandError as error:
            _refuse(str(error))
        tidy_at_exit(folder, Path(str(config.output), ARTIFACTS))
        if "submitit" in config.hydra.launcher._target_:
            wait_for_all_jobs(folder)

    def on_multirun_end(self, config: DictConfig, **kwargs: object) -> None:
        folder = Path(config.hydra.sweep.dir)
        written = _write_table(folder, config)
        if "study" in config:
            written |= _merge(folder, config)
        command = tracker(config).upload(folder) if written else None
        if command is not None:
            log.info("wandb: offline; to upload all runs of the sweep: %s", command)
        failed = sorted(folder.glob(f"*/{FAILED}"))
        for file in failed:
            sentence = file.read_text(encoding="utf-8").strip()
            log.error("error: run %s failed: %s", file.parent.name, sentence)
            if config.dry_run:
                # all that a dry run would leave
                file.unlink()
        if failed:
            sys.exit(1)


def _refuse(sentence: str) -> None:
    sys.stderr.write(f"error: {' '.join(sentence.split())}\n")
    sys.exit(2)


def _finished_runs(folder: Path, result: str) -> list[Path]:
    """Folders of a sweep's runs that left a result, in their order."""
    found = [file.parent for file in folder.glob(f"*/{result}")]
    runs = [run for run in found if run.name.isdecimal() and (run / CONFIG).exists()]
    return sorted(runs, key=lambda run: int(run.name))


def _write_table(folder: Path, config: DictConfig) -> bool:
    """Put the results of a sweep's runs together, if there are any."""
    import json

    from ood_sampler.entries import sweep_entry
    from ood_sampler.report.journal import show
    from ood_sampler.report.results import read_samples
    from ood_sampler.report.sweep import write_sweep

    runs = []
    for run in _finished_runs(folder, "metrics.json"):
        overrides = OmegaConf.load(run / ".hydra" / "overrides.yaml")
        told = [str(text) for text in overrides if not str(text).startswith("sweep=")]
        results = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        runs.append((",".join(told), results, read_samples(run / "samples", 12)))
    if not runs:
        return False
    show(write_sweep(folder, runs))
    log.info("sweep: %s", files(folder, "sweep.csv", "sweep.md", "sweep.png", "sweep_curves.png"))
    tracker(config).record(folder, sweep_entry(folder, runs, _plain(config)))
    return True


def _merge(folder: Path, config: DictConfig) -> bool:
    """Put the answers of a sweep's studies together, if there are any."""
    from hydra.utils import instantiate

    from ood_sampler.entries import study_entry
    from ood_sampler.studies.files import read_studies, write_study

    study = instantiate(config.study)
    found = _finished_runs(folder, f"{study.name}.json")
    if not found:
        return False
    measured, shared = read_studies(study.name, found)
    conclusion = write_study(folder, study, measured, shared)
    for sentence in conclusion:
        log.info("%s", sentence)
    log.info("study: %s", study_files(folder, study.name))
    entry = study_entry(folder, study.name, measured, conclusion, _plain(config), group=folder.name)
    tracker(config).record(folder, entry)
    return True


def tracker(cfg: DictConfig) -> "Tracker":
    """The experiment tracker of a configuration, which may have been deleted from it."""
    from hydra.utils import instantiate

    from ood_sampler.report.tracking import NoTracker

    made: Tracker = instantiate(cfg.logger) if "logger" in cfg else NoTracker()
    return made


def study_files(folder: Path, name: str) -> str:
    """Name what a study left."""
    return files(folder, f"{name}.png", f"{name}.svg", f"{name}.md", f"{name}.csv")


def files(folder: Path, first: str, *others: str) -> str:
    """Name files of a folder, those that are there: one with its path, the others beside it."""
    beside = [name for name in others if (folder / name).exists()]
    return f"{folder / first}" + (f" (beside it {', '.join(beside)})" if beside else "")


def _plain(config: DictConfig) -> dict[str, Any]:
    plain: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
        OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]), resolve=True
    )
    return plain
