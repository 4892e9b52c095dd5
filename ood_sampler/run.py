"""`python -m ood_sampler.run`: invert, draw, decode, measure, report.

The entry point, and with `train.py` the only file that knows Hydra. What takes long to import is
imported where it is used, so that help and mistakes in the command answer at once.
"""

import difflib
import importlib.util
import logging
import multiprocessing
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ood_sampler.faults import FAULTS, INTERRUPTED, CommandError, install
from ood_sampler.help import CONF, help_text, keys
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
    from ood_sampler.pipeline import Pipeline
    from ood_sampler.report.tracking import Entry
    from ood_sampler.samplers.base import Sampler
    from ood_sampler.search import Choice, Search
    from ood_sampler.studies.base import Study

log = logging.getLogger(__name__)

_EXAMPLES = {"name": "mine", "id": "OWNER/NAME", "path": "/my/model", "resolution": "256"}
"""Values of keys that must be set, for a message; those of other keys are folders of pictures."""

LAUNCHER = "hydra/launcher"
"""The group of what starts the runs of a sweep."""


def main() -> None:
    """Answer `--help`, refuse a mistaken command, else hand over to Hydra."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(help_text())
        return
    # argparse takes no overrides before and after an option
    arguments.sort(key=lambda argument: argument not in ("-m", "--multirun"))
    try:
        options = get_args_parser().parse_args(arguments)
        overrides = options.overrides
        # as can -m
        sweep = any(text.startswith("hydra.mode=") or _sweeps(text) for text in overrides)
        check_command(overrides, sweep=options.multirun or sweep)
    except CommandError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    sys.argv[1:] = [
        sweepable(argument, overrides) if argument in overrides else argument
        for argument in arguments
    ]
    try:
        run()
    except KeyboardInterrupt:
        # while runs of a sweep are waited for; one in this process tells of itself
        sys.stderr.write(f"{INTERRUPTED}\n")
        sys.exit(130)


def _sweeps(override: str) -> bool:
    """Whether a setting names an experiment that is a sweep."""
    group, _, option = override.partition("=")
    file = CONF / group / f"{option}.yaml"
    return group == "experiment" and file.is_file() and "mode: MULTIRUN" in file.read_text()


def check_command(overrides: Sequence[str], *, sweep: bool = True) -> None:
    """Compose the configuration, to say in one sentence what is wrong with a command.

    Each option of a swept group is composed once.

    Args:
        overrides: the settings of the command.
        sweep: whether a key may have several values.

    Raises:
        CommandError: an unknown group, option or key (the nearest one is named), a value of
            another kind than the key's, several where one is meant, or a key that must be set and
            is not.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        values = [
            [f"{o.key_or_group}={value}" for value in o.sweep_string_iterator()]
            if o.is_sweep_override()
            else [text]
            for o, text in zip(parsed, overrides, strict=True)
        ]
    except HydraException as error:
        raise CommandError(f"{str(error).splitlines()[0]}; write KEY=VALUE") from error
    swept = [text for o, text in zip(parsed, overrides, strict=True) if o.is_sweep_override()]
    if swept and not sweep:
        raise CommandError(f"{swept[0]} has several values: add -m to make a run of each")
    for text in chain.from_iterable(values):
        _check_option(text)
    groups = [alternatives for alternatives in values if _is_group(alternatives[0])]
    others = [alternatives for alternatives in values if not _is_group(alternatives[0])]
    first = [alternatives[0] for alternatives in groups]
    choices = [first]
    for position, alternatives in enumerate(groups):
        choices += [[*first[:position], a, *first[position + 1 :]] for a in alternatives[1:]]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for chosen in choices:
            _check_choice(chosen, others)


def _check_choice(chosen: Sequence[str], others: Sequence[Sequence[str]]) -> None:
    """Check the keys of a command for one choice of options."""
    try:
        known = compose("run", list(chosen))
        names = {key for key, _ in _leaves(known)}
        special = _special(chosen)
        for text in chain.from_iterable(others):
            _check_key(text, known, names, special, chosen)
        composed = compose("run", [*chosen, *(alternatives[0] for alternatives in others)])
    except (HydraException, OmegaConfBaseException) as error:
        raise CommandError(" ".join(str(error).split())) from error
    # as written: other keys may refer to one that is missing
    missing = sorted(key for key, node in _leaves(composed) if node._value() == "???")
    if missing:
        example = _EXAMPLES.get(missing[0].rpartition(".")[2], "/my/pictures")
        raise CommandError(f"{missing[0]} must be set, for example {missing[0]}={example}")
    if composed.output is None:
        raise CommandError("output must be set, for example output=outputs")
    _check_output(Path(str(composed.output)))


def sweepable(override: str, overrides: Sequence[str]) -> str:
    """Write the setting of a key so that Hydra takes it where the key's group is swept.

    Hydra first composes a sweep with the default option of each group, which may not have the key.
    """
    swept = {text.partition("=")[0] for text in overrides if _is_group(text) and "," in text} - {
        "experiment"
    }
    group, dot, _ = override.partition("=")[0].partition(".")
    return f"++{override}" if dot and group in swept else override


def _is_group(text: str) -> bool:
    return (CONF / text.partition("=")[0]).is_dir()


def _check_option(text: str) -> None:
    group, _, option = text.partition("=")
    options = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
    if text == f"{LAUNCHER}=basic":
        # Hydra's own: one run after the other
        return
    if _is_group(text) and option not in options:
        raise CommandError(
            f"{group}={option} is not known{_nearest(option, options)}; there are: "
            + ", ".join(options)
        )
    if group == LAUNCHER:
        _check_launcher(option)


def _check_launcher(option: str) -> None:
    """Refuse a launcher whose package is not installed, or whose cluster is not there."""
    target = str(OmegaConf.load(CONF / LAUNCHER / f"{option}.yaml")._target_)
    try:
        found = importlib.util.find_spec(".".join(target.split(".")[:2]))
    except ModuleNotFoundError:
        found = None
    if found is None:
        extra = "ray" if option == "ray" else "launchers"
        raise CommandError(f"{LAUNCHER}={option} is not installed: {install(extra)}")
    if option == "submitit_slurm" and shutil.which("srun") is None:
        raise CommandError(
            f"{LAUNCHER}={option} needs Slurm's commands, and there is no srun here: start the "
            f"sweep where jobs are submitted, or take {LAUNCHER}=submitit_local"
        )


def _check_output(folder: Path) -> None:
    """Refuse an output folder that cannot be made, which Hydra would answer with a traceback."""
    places = (folder.absolute(), *folder.absolute().parents)
    # os.path.exists: that of pathlib raises where a parent may not be read
    there = next(path for path in places if os.path.exists(path))
    if not (os.path.isdir(there) and os.access(there, os.W_OK)):
        raise CommandError(
            f"output={folder} cannot be written, {there} is no folder or not yours: set output to "
            "a folder that can"
        )


def _special(chosen: Sequence[str]) -> set[tuple[str, str]]:
    """Keys with the words that they may be beside values of their kind, as their comments say."""
    options = dict(text.split("=", 1) for text in chosen)
    files = [(CONF / "run.yaml", "")]
    files += [(CONF / group / f"{option}.yaml", f"{group}.") for group, option in options.items()]
    return {
        (key, word)
        for file, prefix in files
        if file.exists()
        for key, _, words in keys(file, prefix=prefix)
        for word in re.findall(r"\b(?:null|auto)\b", words)
    }


def _check_key(
    text: str,
    known: DictConfig,
    names: set[str],
    special: set[tuple[str, str]],
    chosen: Sequence[str],
) -> None:
    key, _, value = text.partition("=")
    if key.startswith(("+", "~", "hydra")) or _is_group(text):
        return
    if key not in names:
        groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
        options = [text for text in chosen if text.startswith(f"{key.partition('.')[0]}=")]
        raise CommandError(
            f"{key} is not known{''.join(f' with {option}' for option in options)}"
            f"{_nearest(key, sorted(names | groups))}; --help lists the keys"
        )
    default = OmegaConf.select(known, key, throw_on_missing=False)
    given = OmegaConf.create({"value": OverridesParser.create().parse_override(text).value()})
    if isinstance(default, DictConfig) and len(default):
        raise CommandError(f"{key} has keys of its own, {key}.{next(iter(default))!s} for example")
    kinds = {int: "a whole number", float: "a number", bool: "true or false"}
    allowed = (int, float) if type(default) is float else (type(default),)
    if (key, "null" if given.value is None else given.value) in special:
        return
    if isinstance(default, ListConfig) and not isinstance(given.value, ListConfig):
        example = "".join(str(default).split()).replace("'", "")
        raise CommandError(f"{key} must be a list, for example {key}={example}, got {value}")
    if type(default) in kinds and type(given.value) not in allowed:
        raise CommandError(f"{key} must be {kinds[type(default)]}, got {value}")


def _nearest(word: str, words: Sequence[str]) -> str:
    found = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


def _leaves(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key in cfg:
        path = f"{prefix}{key!s}"
        value = cfg._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none():
            yield path, value
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


@hydra.main(version_base="1.3", config_path="../conf", config_name="run")
def run(cfg: DictConfig) -> None:
    """One run; a mistake or a fault ends it with one sentence and exit code 1."""
    from ood_sampler.report.journal import RunLog

    folder = Path(HydraConfig.get().runtime.output_dir)
    # what joblib's workers are started by is not known to those that trainer=ddp starts in them
    if multiprocessing.get_start_method(allow_none=True) == "loky":
        multiprocessing.set_start_method("spawn", force=True)
    with RunLog(folder / "run.log") as kept:
        try:
            if not _is_finished(folder, cfg):
                execute(cfg, begin=kept.begin)
        except KeyboardInterrupt:
            log.error(INTERRUPTED)
            sys.exit(130)
        except (InstantiationException, *FAULTS) as error:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            sentence = " ".join(str(_innermost(error)).split())
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


def _prepare(cfg: DictConfig) -> _Prepared | None:
    """Build the objects that the configuration names; None if a dry run cannot go on."""
    from hydra.utils import instantiate

    from ood_sampler.pipeline import Pipeline, check_model
    from ood_sampler.plan import Settings
    from ood_sampler.report.progress import StageProgress
    from ood_sampler.search import AUTO, Candidates

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # nothing that a user of this program could act on
    warnings.filterwarnings("ignore", module=r"lightning\.pytorch")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
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
        )
        study = instantiate(cfg.study) if "study" in cfg else None
        also = [*swept_steps(), *(() if study is None else study.steps)]
        # a mistake in it is told now
        tracker(cfg)
        solver = instantiate(cfg.solver)
        sampler = instantiate(cfg.sampler)
        samplers = [sampler]
        if isinstance(sampler, Candidates):
            samplers = list(sampler.samplers.values())
        if len(steps) * len(samplers) > 1 and study is not None:
            raise ValueError(
                "inversion.step=auto and sampler=auto choose for a run, not for a study: set both "
                "by hand, or leave study out"
            )
        model = instantiate(cfg.model, _convert_="all")
        if cfg.dry_run and model.missing_megabytes is not None:
            log.info(
                "estimate: the weights of %s are not here (%.0f MB to fetch), and without them "
                "nothing more is known: python -m ood_sampler.models verify %s",
                model.name,
                model.missing_megabytes,
                HydraConfig.get().runtime.choices["model"],
            )
            return None
        fetched = model.weight_files.find() is not None
        if fetched:
            check_model(model, solver, settings, also)
        evaluation = instantiate(cfg.metrics)
        # late, as it reads every picture; but nothing is fetched for data that are not there
        domain = instantiate(cfg.data)
        if not fetched:
            check_model(model, solver, settings, also)
    notes = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
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
        root=Path(cfg.output) / ARTIFACTS,
        also=also,
        progress=lambda name, images: [StageProgress(_of_sweep(name), images)],
    )
    return _Prepared(pipeline, study, search, steps, samplers, notes)


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

    prepared = _prepare(cfg)
    if prepared is None:
        return
    pipeline, study, steps = prepared.pipeline, prepared.study, prepared.steps
    searching = prepared.search if len(steps) * len(prepared.samplers) > 1 else None
    work = []
    if searching is not None:
        searching.check(pipeline, steps=steps, samplers=prepared.samplers)
        work = searching.work(pipeline, steps=steps, samplers=prepared.samplers)
    if study is not None:
        study.check(pipeline)
    work += pipeline.plan.work() if study is None else study.work(pipeline)
    about = _of_sweep("" if study is None else f"study {study.name}")
    log.info(pipeline.estimate(work).text(of=about))
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
    told = [*notes, *pipeline.left_out]
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
    from ood_sampler.data.artifact import write_atomically

    write_atomically(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True).encode())


def _innermost(error: BaseException) -> BaseException:
    """The error that the constructor raised, out of Hydra's account of it."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


if __name__ == "__main__":
    main()
