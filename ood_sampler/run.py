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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from ood_sampler.command.arguments import read_command
from ood_sampler.command.checking import expand_home
from ood_sampler.faults import FAULTS, INTERRUPTED, CommandError, is_interrupt, printable
from ood_sampler.help import CONF, help_text
from ood_sampler.names import ARTIFACTS
from ood_sampler.sweeping import (
    CONFIG,
    FAILED,
    finished,
    note_failure,
    study_files,
    swept_steps,
    tracker,
)

if TYPE_CHECKING:
    from ood_sampler.pipeline.pipeline import Pipeline
    from ood_sampler.pipeline.search import Choice, Search
    from ood_sampler.report.tracking import Entry
    from ood_sampler.samplers.base import Sampler
    from ood_sampler.studies.base import Study

log = logging.getLogger(__name__)


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
        sys.stderr.write(f"{INTERRUPTED}\n")
        sys.exit(130)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="run")
def run(cfg: DictConfig) -> None:
    """One run; a mistake or a fault ends it with one sentence and exit code 1."""
    from ood_sampler.report.journal import RunLog

    folder = Path(HydraConfig.get().runtime.output_dir)
    # what joblib's workers are started by is not known to those that trainer=ddp starts in them
    if multiprocessing.get_start_method(allow_none=True) == "loky":
        multiprocessing.set_start_method("spawn", force=True)
    expand_home(cfg)
    with RunLog(folder / "run.log") as kept:
        try:
            if not _is_finished(folder, cfg):
                execute(cfg, begin=kept.begin)
        except (KeyboardInterrupt, SystemExit) as ended:
            if not is_interrupt(ended):
                raise
            log.error(INTERRUPTED)
            sys.exit(130)
        except (InstantiationException, *FAULTS) as error:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            sentence = printable(" ".join(str(_innermost(error)).split()))
            log.error("error: %s", sentence)
            if HydraConfig.get().mode != hydra.types.RunMode.MULTIRUN:
                sys.exit(1)
            # the other runs of the sweep go on; its end tells of this one and exits with 1
            note_failure(folder, sentence)


def _is_finished(folder: Path, cfg: DictConfig) -> bool:
    """Whether a sweep that is continued has this run already; if not, make way for it."""
    # of an earlier attempt, where the folder is one that the user chose
    (folder / FAILED).unlink(missing_ok=True)
    if HydraConfig.get().mode != hydra.types.RunMode.MULTIRUN or cfg.sweep is None:
        return False
    if finished(folder, cfg):
        log.info("run %d is finished already: %s", HydraConfig.get().job.num, folder)
        return True
    if not cfg.dry_run:
        # what tells a finished run is there again when it is one
        (folder / CONFIG).unlink(missing_ok=True)
    return False


@dataclass(frozen=True)
class _Prepared:
    """The objects that a configuration names, and what was said while they were made."""

    pipeline: "Pipeline"
    study: "Study | None"
    search: "Search | None"
    steps: Sequence[int]
    samplers: "Sequence[Sampler]"
    notes: Sequence[str]


def _prepare(cfg: DictConfig) -> _Prepared:
    """Build the objects that the configuration names."""
    from hydra.utils import instantiate

    from ood_sampler.pipeline.pipeline import Pipeline, check_codec
    from ood_sampler.pipeline.search import AUTO, Candidates
    from ood_sampler.pipeline.session import Session
    from ood_sampler.pipeline.settings import Settings
    from ood_sampler.report.progress import StageProgress

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # nothing that a user of this program could act on
    warnings.filterwarnings("ignore", module=r"lightning\.pytorch")
    notes: list[str] = []
    with _telling(notes):
        search = instantiate(cfg.search) if "search" in cfg else None
        steps = [cfg.inversion.step]
        if cfg.inversion.step == AUTO:
            if search is None:
                raise ValueError("inversion.step=auto needs the keys of search: leave ~search out")
            steps = search.steps
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
        # a mistake in it is told now
        tracker(cfg)
        solver = instantiate(cfg.solver)
        correction = instantiate(cfg.correction)
        sampler = instantiate(cfg.sampler)
        samplers = [sampler]
        if isinstance(sampler, Candidates):
            if search is None:
                raise ValueError("sampler=auto needs the keys of search: leave ~search out")
            samplers = list(sampler.samplers.values())
        if len(steps) * len(samplers) > 1 and study is not None:
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
        codec = model.codec(solver)
        fetched = model.weight_files.find() is not None
        if fetched:
            check_codec(codec, settings, also, resolution=model.resolution)
        judges = instantiate(cfg.metrics)
        # late, as it reads every picture; but nothing is fetched for data that are not there
        domain = instantiate(cfg.data)
        if not fetched:
            check_codec(codec, settings, also, resolution=model.resolution)
    pipeline = Pipeline(
        model=model,
        codec=codec,
        domain=domain,
        sampler=samplers[0],
        judges=judges,
        settings=settings,
        session=Session(
            root=Path(cfg.output) / ARTIFACTS,
            trainer=instantiate(cfg.trainer),
            progress=lambda name, images: [StageProgress(_of_sweep(name), images)],
        ),
        also=also,
        correction=correction,
    )
    return _Prepared(pipeline, study, search, steps, samplers, notes)


@contextmanager
def _telling(notes: list[str]) -> Iterator[None]:
    """Tell of warnings and note them; they may explain the error that ends the block."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            yield
        finally:
            notes += [
                printable(str(w.message)) for w in caught if issubclass(w.category, UserWarning)
            ]
            for note in notes:
                log.warning("warning: %s", note)


def _of_sweep(name: str) -> str:
    """Name something with the run of the sweep that it belongs to, if it does to one."""
    hydra_cfg = HydraConfig.get()
    if hydra_cfg.mode != hydra.types.RunMode.MULTIRUN:
        return name
    return ", ".join(filter(None, (f"run {hydra_cfg.job.num}", name)))


def execute(cfg: DictConfig, *, begin: Callable[[], None] = lambda: None) -> None:
    """Build the objects that the configuration names, run them, write the folder.

    Args:
        cfg: the configuration.
        begin: called when all is checked and work begins.
    """
    from ood_sampler.record import settings
    from ood_sampler.report.journal import note_settings
    from ood_sampler.studies.base import check_metrics

    prepared = _prepare(cfg)
    pipeline, study, steps = prepared.pipeline, prepared.study, prepared.steps
    searching = prepared.search if len(steps) * len(prepared.samplers) > 1 else None
    targets, unstored = pipeline.targets, []
    if searching is not None:
        samplers = prepared.samplers
        searching.check(pipeline, steps=steps, samplers=samplers)
        targets = [*searching.targets(pipeline, steps=steps, samplers=samplers), *targets]
        unstored = searching.work(pipeline, steps=steps, samplers=samplers)
    if study is not None:
        check_metrics(study, pipeline)
        study.check(pipeline)
        targets, unstored = study.targets(pipeline), study.unstored(pipeline)
    about = _of_sweep("" if study is None else f"study {study.name}")
    log.info(pipeline.estimate(targets, unstored).text(of=about))
    if cfg.dry_run:
        return
    begin()
    chosen = {} if searching is None else {"step": cfg.inversion.step}
    note_settings({**settings(pipeline, HydraConfig.get().runtime.choices), **chosen})
    if study is not None:
        _answer(cfg, pipeline, study, prepared.notes)
        return
    choice = None
    if searching is not None:
        choice = searching.choose(pipeline, steps=steps, samplers=prepared.samplers)
        log.info("search: %s", choice.remark)
        changed = replace(pipeline.settings, step=choice.step)
        pipeline = replace(pipeline, sampler=choice.sampler, settings=changed)
    _run(cfg, pipeline, choice, prepared.notes)


def _run(
    cfg: DictConfig, pipeline: "Pipeline", choice: "Choice | None", notes: Sequence[str]
) -> None:
    """Make the images of a run and write its files."""
    from ood_sampler.entries import run_entry
    from ood_sampler.record import results, write_run

    folder, choices = _folder(), HydraConfig.get().runtime.choices
    outcome = pipeline.run()
    found = results(pipeline, outcome, choices=choices, notes=notes, choice=choice)
    write_run(folder, pipeline, outcome, found, choice)
    _write_configuration(folder, cfg)
    with TemporaryDirectory() as scratch:
        _track(
            cfg,
            run_entry(
                folder, Path(scratch), pipeline, outcome, found, _plain(cfg), group=_sweep_name()
            ),
        )
    log.info("report: %s", folder / "report.html")


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    return plain


def _answer(cfg: DictConfig, pipeline: "Pipeline", study: "Study", notes: Sequence[str]) -> None:
    """Make a study and write its files."""
    from ood_sampler.entries import study_entry
    from ood_sampler.record import protocol, settings
    from ood_sampler.studies.files import write_study

    folder = _folder()
    measured = study.measure(pipeline)
    found = {**settings(pipeline, HydraConfig.get().runtime.choices), **protocol(pipeline)}
    told = [*notes, *pipeline.session.left_out]
    told += [f"{name}: left out, {why}" for name, why in pipeline.domain.skipped]
    if told:
        found["warnings"] = "; ".join(told)
    conclusion = write_study(folder, study, measured, found)
    _write_configuration(folder, cfg)
    for sentence in conclusion:
        log.info("%s", sentence)
    _track(
        cfg,
        study_entry(folder, study.name, measured, conclusion, _plain(cfg), group=_sweep_name()),
    )
    log.info("study: %s", study_files(folder, study.name))


def _track(cfg: DictConfig, entry: "Entry") -> None:
    """Send what a run found to the experiment tracker; its sweep tells how to upload all runs."""
    used = tracker(cfg)
    used.record(_folder(), entry)
    command = None if _sweep_name() else used.upload(_folder())
    if command is not None:
        log.info("wandb: offline; to upload: %s", command)


def _folder() -> Path:
    return Path(HydraConfig.get().runtime.output_dir)


def _sweep_name() -> str | None:
    hydra_cfg = HydraConfig.get()
    in_sweep = hydra_cfg.mode == hydra.types.RunMode.MULTIRUN
    return Path(hydra_cfg.sweep.dir).name if in_sweep else None


def _write_configuration(folder: Path, cfg: DictConfig) -> None:
    from ood_sampler.store.files import write_atomically

    write_atomically(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True).encode())


def _innermost(error: BaseException) -> BaseException:
    """The error that the constructor raised, out of Hydra's account of it."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


if __name__ == "__main__":
    main()
