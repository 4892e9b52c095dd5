"""`python -m ood_sampler.run`: invert, draw, decode, measure, report.

The entry point; with `command/` and `train.py` the only one that knows Hydra. What takes long to
import is imported where it is used, so that help and mistakes in the command answer at once.
"""

import logging
import math
import multiprocessing
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from ood_sampler.command.arguments import read_command
from ood_sampler.command.checking import expand_home
from ood_sampler.faults import FAULTS, CommandError, is_interrupt, printable
from ood_sampler.help import CONF, help_text

if TYPE_CHECKING:
    from ood_sampler.pipeline import Pipeline
    from ood_sampler.studies.base import Study

log = logging.getLogger(__name__)

STEP_KEY = "inversion.step"

# the launchers' own keys have the types that their packages give them, which Hydra means to end
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against")

FAILED = "failed.txt"
"""In the folder of a run of a sweep: why it failed."""

_INTERRUPTED = "interrupted: finished shards are kept, the same command continues"


def main() -> None:
    """Answer `--help`, refuse a mistaken command, else hand over to Hydra."""
    try:
        command = read_command(sys.argv[1:], name="run")
        if command.options.help:
            sys.stdout.write(help_text(command.options.overrides, command.configuration.folders))
            return
        command.check()
        sys.argv[1:] = command.arguments()
        run()
    except CommandError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        # while runs of a sweep are waited for; one in this process tells of itself
        sys.stderr.write(f"{_INTERRUPTED}\n")
        sys.exit(130)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="run")
def run(cfg: DictConfig) -> None:
    """One run; a mistake or a fault ends it with one sentence and exit code 1."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    # of an earlier attempt, where the folder is one that the user chose
    (folder / FAILED).unlink(missing_ok=True)
    # what joblib's workers are started by is not known to those that trainer=ddp starts in them
    if multiprocessing.get_start_method(allow_none=True) == "loky":
        multiprocessing.set_start_method("spawn", force=True)
    expand_home(cfg)
    try:
        execute(cfg)
    except (KeyboardInterrupt, SystemExit) as ended:
        if not is_interrupt(ended):
            raise
        log.error(_INTERRUPTED)
        sys.exit(130)
    except (InstantiationException, *FAULTS) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sentence = printable(" ".join(str(_innermost(error)).split()))
        log.error("error: %s", sentence)
        if HydraConfig.get().mode != hydra.types.RunMode.MULTIRUN:
            sys.exit(1)
        # the other runs of the sweep go on; its end tells of this one and exits with 1
        _note_failure(folder, sentence)


def _note_failure(folder: Path, sentence: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAILED).write_text(sentence + "\n", encoding="utf-8")


def execute(cfg: DictConfig) -> None:
    """Build the objects that the configuration names, run them, write the folder."""
    from hydra.utils import instantiate

    from ood_sampler.pipeline import Pipeline, check_model
    from ood_sampler.plan import Settings
    from ood_sampler.record import results, write_run
    from ood_sampler.report.progress import StageProgress
    from ood_sampler.search import AUTO, Candidates

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # nothing that a user of this program could act on
    warnings.filterwarnings("ignore", module=r"lightning\.pytorch")
    folder = Path(HydraConfig.get().runtime.output_dir)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        search = instantiate(cfg.search)
        steps = search.steps if cfg.inversion.step == AUTO else [cfg.inversion.step]
        settings = Settings(
            step=max(steps),
            eta=float(cfg.decode.eta),
            clip_x_0=cfg.decode.clip_x_0,
            num_samples=cfg.num_samples,
            seed=cfg.seed,
            batch_size=cfg.batch_size,
            on_nonfinite=cfg.on_nonfinite,
            round_trip=cfg.measure.round_trip,
            in_domain=cfg.measure.in_domain,
        )
        study = instantiate(cfg.study) if "study" in cfg else None
        also = [*swept_steps(), *(() if study is None else study.steps)]
        tracker = instantiate(cfg.logger)
        solver = instantiate(cfg.solver)
        sampler = instantiate(cfg.sampler)
        samplers = [sampler]
        if isinstance(sampler, Candidates):
            samplers = list(sampler.samplers.values())
        several = len(steps) * len(samplers) > 1
        if several and study is not None:
            raise ValueError(
                "inversion.step=auto and sampler=auto choose for a run, not for a study: set both "
                "by hand, or leave study out"
            )
        model = instantiate(cfg.model, _convert_="all")
        if cfg.dry_run and model.missing_megabytes is not None:
            size = model.missing_megabytes
            raise ValueError(
                f"the weights of {model.name} are not here"
                f"{'' if math.isnan(size) else f' ({size:.0f} MB to fetch)'}, and nothing is known "
                "without them: python -m ood_sampler.models verify "
                f"{HydraConfig.get().runtime.choices['model']} fetches them"
            )
        fetched = model.weight_files.find() is not None
        if fetched:
            check_model(model, solver, settings, also)
        evaluation = instantiate(cfg.metrics)
        # late, as it reads every picture; but nothing is fetched for data that are not there
        domain = instantiate(cfg.data)
        if not fetched:
            check_model(model, solver, settings, also)
    notes = [printable(str(w.message)) for w in caught if issubclass(w.category, UserWarning)]
    for note in notes:
        log.warning("warning: %s", note)
    pipeline = Pipeline(
        model=model,
        domain=domain,
        solver=solver,
        sampler=samplers[0],
        evaluation=evaluation,
        trainer=instantiate(cfg.trainer),
        settings=settings,
        root=Path(cfg.output) / "artifacts",
        also=also,
        progress=lambda name, images: [StageProgress(name, images)],
    )
    if study is not None:
        study.check(pipeline)
        log.info(pipeline.estimate(study.work(pipeline)).text())
        if not cfg.dry_run:
            _answer(folder, cfg, pipeline, study, notes)
            tracker.record(folder, _plain(cfg), {}, folder / f"{study.name}.png")
        return
    searching = []
    if several:
        search.check(pipeline, steps=steps, samplers=samplers)
        searching = search.work(pipeline, steps=steps, samplers=samplers)
    log.info(pipeline.estimate([*searching, *pipeline.plan.work()]).text())
    if cfg.dry_run:
        return
    choice = None
    if several:
        choice = search.choose(pipeline, steps=steps, samplers=samplers)
        log.info("search: %s", choice.remark)
        settings = replace(settings, step=choice.step)
        pipeline = replace(pipeline, sampler=choice.sampler, settings=settings)
    outcome = pipeline.run()
    found = results(
        pipeline, outcome, choices=HydraConfig.get().runtime.choices, notes=notes, choice=choice
    )
    _write_configuration(folder, cfg)
    write_run(folder, pipeline, outcome, found, choice)
    figures = {
        f"test/{key}": value
        for key, value in found["rows"][0].items()
        if isinstance(value, float | int)
    }
    tracker.record(folder, _plain(cfg), figures, folder / "grid.png")
    log.info("report: %s", folder / "report.html")


def swept_steps() -> list[int]:
    """All inversion steps of the sweep that this run belongs to; none outside of one."""
    hydra_cfg = HydraConfig.get()
    file = Path(hydra_cfg.sweep.dir) / "multirun.yaml"
    if hydra_cfg.mode != hydra.types.RunMode.MULTIRUN or not file.exists():
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


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    return plain


def _answer(
    folder: Path, cfg: DictConfig, pipeline: "Pipeline", study: "Study", notes: Sequence[str]
) -> None:
    """Make a study and write its files."""
    from ood_sampler.record import protocol, settings
    from ood_sampler.studies.files import write_study

    measured = study.measure(pipeline)
    _write_configuration(folder, cfg)
    found = {**settings(pipeline, HydraConfig.get().runtime.choices), **protocol(pipeline)}
    told = [*notes, *pipeline.left_out]
    told += [f"{name}: left out, {why}" for name, why in pipeline.domain.skipped]
    if told:
        found["warnings"] = "; ".join(told)
    for sentence in write_study(folder, study, measured, found):
        log.info("%s", sentence)
    log.info("study: %s", folder / f"{study.name}.png")


def _write_configuration(folder: Path, cfg: DictConfig) -> None:
    from ood_sampler.data.artifact import write_atomically

    write_atomically(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True).encode())


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
        _note_failure(folder / str(number), " ".join(fault.split()))
        return [JobReturn(status=JobStatus.COMPLETED)]

    Job.results = noted  # type: ignore[assignment,method-assign]


class SweepReport(Callback):
    """One table and one picture over a whole sweep, at its end."""

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        if "submitit" in config.hydra.launcher._target_:
            wait_for_all_jobs(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: object) -> None:
        import json

        from rich.console import Console

        from ood_sampler.report.results import read_samples
        from ood_sampler.report.sweep import write_sweep

        folder = Path(config.hydra.sweep.dir)
        finished = [f for f in folder.glob("*/metrics.json") if f.parent.name.isdigit()]
        runs = []
        for file in sorted(finished, key=lambda f: int(f.parent.name)):
            overrides = OmegaConf.load(file.parent / ".hydra" / "overrides.yaml")
            samples = read_samples(file.parent / "samples", 12)
            runs.append((",".join(map(str, overrides)), json.loads(file.read_text()), samples))
        if runs:
            Console(stderr=True).print(write_sweep(folder, runs))
            log.info("sweep: %s", folder / "sweep.png")
        if "study" in config:
            _merge(folder, config)
        failed = sorted(folder.glob(f"*/{FAILED}"))
        for file in failed:
            sentence = file.read_text(encoding="utf-8").strip()
            log.error("error: run %s failed: %s", file.parent.name, sentence)
        if failed:
            sys.exit(1)


def _merge(folder: Path, config: DictConfig) -> None:
    """Put the answers of a sweep's studies together."""
    from hydra.utils import instantiate

    from ood_sampler.studies.files import read_studies, write_study

    study = instantiate(config.study)
    found = [f.parent for f in folder.glob(f"*/{study.name}.json") if f.parent.name.isdigit()]
    if not found:
        return
    measured, shared = read_studies(study.name, sorted(found, key=lambda f: int(f.name)))
    for sentence in write_study(folder, study, measured, shared):
        log.info("%s", sentence)
    log.info("study: %s", folder / f"{study.name}.png")


def _innermost(error: BaseException) -> BaseException:
    """The error that the constructor raised, out of Hydra's account of it."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


if __name__ == "__main__":
    main()
