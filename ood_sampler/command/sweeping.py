"""Sweeps: the runs of one command, in one folder in which a later command can continue."""

import logging
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from ood_sampler.command.folders import FAILED, is_free, note_failure, tidy_at_exit
from ood_sampler.command.results import merge_studies, tracker, write_table
from ood_sampler.faults import CommandError
from ood_sampler.names import ARTIFACTS, MULTIRUN

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn

log = logging.getLogger(__name__)

# the launchers' own keys have the types that their packages give them, which Hydra means to end;
# here, as workers import this file before they compose their configuration
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against")

STEP_KEY = "inversion.step"


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
        command = " ".join(shlex.quote(text) for text in texts if not is_free(text))
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
    return swept, sorted(text for text in texts if text not in swept and not is_free(text))


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
            fault = f"{_raised(returned[0])}, see {job.paths.stderr}"
        note_failure(folder / str(number), " ".join(fault.split()))
        return [JobReturn(status=JobStatus.COMPLETED)]

    Job.results = noted  # type: ignore[assignment,method-assign]


def _raised(returned: "JobReturn") -> str:
    """The error that a job raised, of any kind."""
    try:
        # Hydra tells of it on stderr, too
        with redirect_stderr(StringIO()):
            returned.return_value  # noqa: B018 it raises
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


class SweepReport(Callback):
    """Leaves no empty folders, continues sweeps, and ends each with one table and one figure."""

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
        written = write_table(folder, config)
        if "study" in config:
            written |= merge_studies(folder, config)
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
