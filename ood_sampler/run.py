"""`python -m ood_sampler.run`, or `ood_sampler.run(...)`: invert, draw, decode, measure, report.

The entry point; with `api/`, `command/` and `train.py` the only one that knows Hydra. What takes
long to import is imported where it is used, so that help and mistakes in the command answer at
once. The module can be called: `ood_sampler.run` is `in_process`.
"""

import logging
import math
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypedDict

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write

from ood_sampler.cli import one_sentence, start, telling
from ood_sampler.command.folders import (
    in_sweep,
    is_finished,
    note_failure,
    of_sweep,
    run_folder,
    sweep_number,
    tidy_at_exit,
)
from ood_sampler.command.help import help_text
from ood_sampler.command.results import leave_run, leave_study, tracker
from ood_sampler.command.sweeping import swept_steps
from ood_sampler.command.values import expand_home
from ood_sampler.config import CONF
from ood_sampler.faults import INTERRUPTED
from ood_sampler.names import ARTIFACTS

if TYPE_CHECKING:
    from ood_sampler.api.result import Result
    from ood_sampler.codecs.base import Codec
    from ood_sampler.models.base import Model
    from ood_sampler.pipeline.pipeline import Pipeline
    from ood_sampler.pipeline.search import Correction, Search
    from ood_sampler.pipeline.session import Session
    from ood_sampler.pipeline.settings import Settings
    from ood_sampler.samplers.base import Sampler
    from ood_sampler.studies.base import Study

log = logging.getLogger(__name__)


def main() -> None:
    """Answer `--help`, refuse a mistaken command, else hand over to Hydra."""
    start(
        "run",
        explain=lambda command: help_text(command.options.overrides, command.configuration.folders),
        check=lambda command: command.check(),
        run=run,
        interrupted=INTERRUPTED,
    )


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="run")
def run(cfg: DictConfig) -> None:
    """One run; a mistake or a fault ends it with one sentence and exit code 1."""
    from ood_sampler.report.journal import RunLog

    folder = run_folder()
    # what joblib's workers are started by is not known to those that trainer=ddp starts in them
    if multiprocessing.get_start_method(allow_none=True) == "loky":
        multiprocessing.set_start_method("spawn", force=True)
    expand_home(cfg)
    with RunLog(folder / "run.log") as kept, one_sentence(INTERRUPTED, failed=_fail):
        if not is_finished(folder, cfg):
            execute(cfg, begin=kept.begin)


def _fail(sentence: str) -> None:
    """End a run; the other runs of a sweep go on, whose end tells of this one and exits with 1."""
    if not in_sweep():
        sys.exit(1)
    note_failure(run_folder(), sentence)


class _Options(TypedDict):
    """What a search chooses from."""

    steps: Sequence[int]
    samplers: "Sequence[Sampler]"
    corrections: "Sequence[Correction]"


@dataclass(frozen=True)
class _Prepared:
    """The objects that a configuration names, and what was said while they were made."""

    pipeline: "Pipeline"
    study: "Study | None"
    search: "Search | None"
    steps: Sequence[int]
    samplers: "Sequence[Sampler]"
    corrections: "Sequence[Correction]"
    notes: Sequence[str]

    @property
    def combinations(self) -> int:
        """Number of settings to choose from."""
        return len(self.steps) * len(self.samplers) * len(self.corrections)


def _prepare(cfg: DictConfig) -> _Prepared:
    """Build the objects that the configuration names."""
    from hydra.utils import instantiate

    from ood_sampler.modules.trainer import hush_lightning
    from ood_sampler.pipeline.pipeline import Pipeline, check_codec
    from ood_sampler.pipeline.search import Flows, asked_flows, fitting_flows

    hush_lightning()
    notes: list[str] = []
    with telling(notes):
        search = instantiate(cfg.search) if "search" in cfg else None
        steps = _steps(cfg, search)
        settings = _settings(cfg, step=max(steps))
        study = instantiate(cfg.study, _convert_="all") if "study" in cfg else None
        also = [*swept_steps(), *(() if study is None else study.steps)]
        # a mistake in it is told now
        tracker(cfg)
        solver = instantiate(cfg.solver)
        correction = instantiate(cfg.correction)
        samplers = _samplers(cfg, search)
        _check_choices(
            study,
            several=len(steps) * len(samplers) > 1,
            flows=isinstance(correction, Flows),
            searching=search is not None,
        )
        model = instantiate(cfg.model, _convert_="all")
        if cfg.dry_run:
            _check_weights(model)
        fetched = model.is_here
        if fetched:
            check_codec(model.codec(solver), settings, also, resolution=model.resolution)
        judges = instantiate(cfg.metrics)
        # late, as it reads every image; but nothing is fetched for data that are not there
        domain = instantiate(cfg.data)
        codec = model.codec(solver)
        if not fetched:
            check_codec(codec, settings, also, resolution=model.resolution)
        corrections = fitting_flows(codec, asked_flows(correction))
        samplers = _fitting(samplers, codec, cfg.inversion.step)
    pipeline = Pipeline(
        model=model,
        codec=codec,
        domain=domain,
        sampler=samplers[0],
        judges=judges,
        settings=settings,
        session=_session(cfg),
        also=also,
        correction=corrections[0],
    )
    return _Prepared(pipeline, study, search, steps, samplers, corrections, notes)


def _session(cfg: DictConfig) -> "Session":
    from hydra.utils import instantiate

    from ood_sampler.pipeline.session import Session
    from ood_sampler.report.progress import StageProgress

    # asked now: a result of a run is worked with when the run is over
    number = sweep_number()
    return Session(
        root=Path(cfg.output) / ARTIFACTS,
        trainer=instantiate(cfg.trainer),
        progress=lambda name, images: [StageProgress(of_sweep(number, name), images)],
    )


def _check_choices(study: "Study | None", *, several: bool, flows: bool, searching: bool) -> None:
    """Refuse a choice that a study would have to make, or that no search makes.

    Args:
        study: of the configuration, if any.
        several: whether there are several steps or strategies to choose from.
        flows: whether there are several flows to choose from.
        searching: whether there are settings of a search.

    Raises:
        ValueError: a choice is asked of what does not choose.
    """
    if several and study is not None:
        raise ValueError(
            "inversion.step=auto and sampler=auto choose for a run, not for a study: set both "
            "by hand, or leave study out"
        )
    # the study of the choice of flows makes that choice
    chooses = searching and (study is None or study.chooses)
    if flows and not chooses:
        raise ValueError(
            "correction=auto chooses for a run, by the keys of search: set correction=none or "
            "correction=gaussian, or leave study and ~search out"
        )


def _settings(cfg: DictConfig, *, step: int) -> "Settings":
    from ood_sampler.pipeline.settings import Settings

    return Settings(
        step=step,
        eta=float(cfg.decode.eta),
        clip_x_0=cfg.decode.clip_x_0,
        num_samples=cfg.num_samples,
        seed=cfg.seed,
        batch_size=cfg.batch_size,
        on_nonfinite=cfg.on_nonfinite,
        round_trip=cfg.measure.round_trip,
        in_domain=cfg.measure.in_domain,
        noised_moves=cfg.inversion.noised_moves,
        temperature=float(cfg.draw.temperature),
        shift=cfg.decode.shift,
        film=cfg.measure.film,
    )


def _steps(cfg: DictConfig, search: "Search | None") -> Sequence[int]:
    """The inversion step, or those that a search tries."""
    from ood_sampler.pipeline.search import AUTO

    if cfg.inversion.step != AUTO:
        return [cfg.inversion.step]
    if search is None:
        raise ValueError("inversion.step=auto needs the keys of search: leave ~search out")
    return search.steps


def _samplers(cfg: DictConfig, search: "Search | None") -> "Sequence[Sampler]":
    """The strategy, or those that a search tries."""
    from hydra.utils import instantiate

    from ood_sampler.pipeline.search import Candidates

    sampler = instantiate(cfg.sampler)
    if not isinstance(sampler, Candidates):
        return [sampler]
    if search is None:
        raise ValueError("sampler=auto needs the keys of search: leave ~search out")
    return list(sampler.samplers.values())


def _fitting(samplers: "Sequence[Sampler]", codec: "Codec", step: int | str) -> "Sequence[Sampler]":
    """Those of the strategies to choose from that the model can do; a single one is kept.

    Raises:
        ValueError: a step is to be chosen, and the model has none.
    """
    from ood_sampler.pipeline.keys import label
    from ood_sampler.pipeline.search import AUTO

    if codec.schedule is not None:
        return samplers
    if step == AUTO:
        raise ValueError("inversion.step must be a number for a model without steps, got auto")
    kept = []
    for sampler in samplers:
        unmet = sampler.unmet(codec.schedule, codec.shape(int(step)))
        if not unmet:
            kept.append(sampler)
        elif len(samplers) > 1:
            log.warning("warning: %s is left out: it needs %s", label(sampler), unmet)
    return kept or samplers


def _check_weights(model: "Model") -> None:
    """Refuse to estimate what a model costs whose weights are not here."""
    size = model.missing_megabytes
    if size is not None:
        raise ValueError(
            f"the weights of {model.name} are not here"
            f"{'' if math.isnan(size) else f' ({size:.0f} MB to fetch)'}, and nothing is known "
            "without them: python -m ood_sampler.models verify "
            f"{HydraConfig.get().runtime.choices['model']} fetches them"
        )


def execute(cfg: DictConfig, *, begin: Callable[[], None] = lambda: None) -> "Result":
    """Build the objects that the configuration names, run them, write the folder.

    Args:
        cfg: the configuration.
        begin: called when all is checked and work begins.
    """
    from ood_sampler.api import result
    from ood_sampler.record import settings
    from ood_sampler.report.journal import note_settings
    from ood_sampler.studies.base import check_metrics

    prepared = _prepare(cfg)
    pipeline, study = prepared.pipeline, prepared.study
    searching = prepared.search if prepared.combinations > 1 and study is None else None
    options = _Options(
        steps=prepared.steps, samplers=prepared.samplers, corrections=prepared.corrections
    )
    targets, unstored = pipeline.targets, []
    if searching is not None:
        searching.check(pipeline, **options)
        targets = [*searching.targets(pipeline, **options), *targets]
        unstored = searching.work(pipeline, **options)
    if study is not None:
        check_metrics(study, pipeline)
        study.check(pipeline)
        targets, unstored = study.targets(pipeline), study.unstored(pipeline)
    about = of_sweep(sweep_number(), "" if study is None else f"study {study.name}")
    estimate = pipeline.estimate(targets, unstored).text(of=about)
    log.info(estimate)
    if cfg.dry_run:
        return result.dry(run_folder(), estimate)
    begin()
    chosen = {} if searching is None else {"step": cfg.inversion.step}
    note_settings({**settings(pipeline, HydraConfig.get().runtime.choices), **chosen})
    if study is not None:
        measured = study.measure(pipeline)
        told = leave_study(cfg, pipeline, study, measured, notes=prepared.notes)
        return result.of_study(run_folder(), estimate, study, measured, told)
    choice = None
    if searching is not None:
        choice = searching.choose(pipeline, **options)
        log.info("search: %s", choice.remark)
        pipeline = choice.of(pipeline)
    outcome = pipeline.run()
    found = leave_run(cfg, pipeline, outcome, choice=choice, notes=prepared.notes)
    return result.of_run(run_folder(), estimate, pipeline, outcome, found)


def in_process(*overrides: str) -> "Result":
    """Make a run or a study in this process, as `python -m ood_sampler.run` does.

    Results are the same, and so are the artifacts: what one has computed the other finds. Nothing
    of Hydra, logging or warnings is changed for the program around it; what the command line tells
    is logged by the loggers below `ood_sampler`.

    Args:
        overrides: settings as on the command line: `"data=galaxy32"`, `"sampler=white"`,
            `"inversion.step=500"`. `python -m ood_sampler.run --help` lists them.

    Returns:
        Table, samples, report and folder.

    Raises:
        ValueError: a setting is not known, is out of range or does not fit the others.
        FileNotFoundError: weights or data are missing.
        OSError: the disk is full or not writable.

    Example:
        >>> import ood_sampler
        >>> ood_sampler.run("num_samples=-1")
        Traceback (most recent call last):
        ValueError: num_samples must be >= 1, got -1
    """
    from ood_sampler.api.configuration import composed
    from ood_sampler.api.surroundings import apart
    from ood_sampler.report.journal import RunLog

    with apart():
        cfg = composed(overrides)
        if cfg.sweep is not None:
            raise ValueError("sweep is of the command line alone: leave it out")
        HydraConfig.instance().set_config(cfg)
        folder = Path(cfg.hydra.run.dir).absolute()
        with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
            cfg.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        expand_home(cfg)
        tidy_at_exit(folder, Path(str(cfg.output), ARTIFACTS))
        with RunLog(folder / "run.log") as kept:

            def begin() -> None:
                folder.mkdir(parents=True, exist_ok=True)
                kept.begin()

            return execute(cfg, begin=begin)


class _Callable(ModuleType):
    """This module, which Python gives the name of the function."""

    __call__ = staticmethod(in_process)


sys.modules[__name__].__class__ = _Callable


if __name__ == "__main__":
    main()
