"""Runs of a sweep in this process: their folders, their log, what a tracker is sent."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image

from ood_sampler.command.folders import CONFIG, FAILED, finished
from ood_sampler.command.results import files
from ood_sampler.command.sweeping import SweepReport, check_continued
from ood_sampler.config import CONF
from ood_sampler.entries import study_entry
from ood_sampler.faults import CommandError
from ood_sampler.names import MULTIRUN
from ood_sampler.report import tracking
from ood_sampler.report.journal import journal
from ood_sampler.report.tracking import Table
from ood_sampler.report.verdicts import verdicts
from ood_sampler.run import run
from ood_sampler.studies.base import Measured
from tests.conftest import RESOLUTION

STARTED = ["inversion.step=300,500", "decode.eta=0,0.5", "seed=1", "output=a", "logger=none"]


def started(folder: Path, overrides: list[str], params: dict[str, str] | None = None) -> Path:
    """The folder of a sweep as Hydra leaves it at the start."""
    sweep = {"hydra": {"overrides": {"task": overrides}, "sweeper": {"params": params}}}
    OmegaConf.save(OmegaConf.create(sweep), folder / MULTIRUN)
    return folder


@pytest.mark.parametrize(
    "overrides",
    [
        [*STARTED, "sweep=last"],
        ["seed=1", "inversion.step=300,500", "decode.eta=0,0.5", "sweep=last", "dry_run=true"],
        ["output=/b", "inversion.step=300,500", "decode.eta=0,0.5", "seed=1", "logger.mode=online"],
    ],
)
def test_a_sweep_goes_on_with_the_settings_that_it_began_with(
    tmp_path: Path, overrides: list[str]
) -> None:
    check_continued(started(tmp_path, STARTED), "last", overrides, None)


@pytest.mark.parametrize(
    "overrides",
    [
        ["inversion.step=300,500", "decode.eta=0,0.3", "seed=1"],
        ["inversion.step=300,500", "decode.eta=0,0.5"],
        ["inversion.step=300,500", "decode.eta=0,0.5", "seed=1", "num_samples=9"],
        # runs would have other numbers
        ["decode.eta=0,0.5", "inversion.step=300,500", "seed=1"],
        [],
    ],
)
def test_a_sweep_with_other_settings_is_not_continued(tmp_path: Path, overrides: list[str]) -> None:
    with pytest.raises(CommandError) as caught:
        check_continued(started(tmp_path, STARTED), "last", overrides, None)
    assert str(caught.value) == (
        f"the sweep {tmp_path} has other settings: leave sweep out to begin a new one, or continue "
        "it with its own: -m sweep=last inversion.step=300,500 decode.eta=0,0.5 seed=1"
    )


def test_settings_of_an_experiment_count_too(tmp_path: Path) -> None:
    params = {"decode.eta": "0,1"}
    folder = started(tmp_path, ["experiment=step_eta"], params)
    check_continued(folder, "last", ["experiment=step_eta"], params)
    with pytest.raises(CommandError, match="other settings"):
        check_continued(folder, "last", ["experiment=step_eta"], {"decode.eta": "0,0.5"})


def test_a_run_is_finished_when_its_last_file_has_the_same_settings(tmp_path: Path) -> None:
    cfg = OmegaConf.create({"a": 1e-4, "b": "${a}", "seed": 0, "sweep": None, "output": "x"})
    assert not finished(tmp_path, cfg)
    (tmp_path / CONFIG).write_text(OmegaConf.to_yaml(cfg, resolve=True))
    cfg.sweep, cfg.output = "last", "y"
    assert finished(tmp_path, cfg)
    cfg.seed = 1
    assert not finished(tmp_path, cfg)


def test_files_that_are_there_are_named_once(tmp_path: Path) -> None:
    for name in ("a.csv", "a.png"):
        (tmp_path / name).touch()
    assert files(tmp_path, "a.csv", "a.md", "a.png") == f"{tmp_path}/a.csv (beside it a.png)"
    assert files(tmp_path, "a.csv") == f"{tmp_path}/a.csv"


def configured(at: Path, *overrides: str, number: int | None = None) -> DictConfig:
    """The configuration of a run as Hydra gives it to one, by itself or in the sweep `x`."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run", [f"output={at}", *overrides], return_hydra_config=True)
    folder = at / "run" if number is None else at / "sweeps" / "x" / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    with open_dict(cfg):
        cfg.hydra.mode = RunMode.RUN if number is None else RunMode.MULTIRUN
        if number is not None:
            cfg.hydra.job.num = number
        cfg.hydra.sweep.dir = str(folder.parent)
        cfg.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg.hydra
    return cfg


def tiny(model: Path) -> list[str]:
    return [
        *("model=diffusers", "model.name=tiny", f"model.path={model}"),
        *(f"model.resolution={RESOLUTION}", "data.few_shot=40", "data.held_out=24"),
        *("num_samples=16", "solver=ddim", "solver.steps=4", "trainer=cpu", "decode.eta=0.5"),
    ]


@pytest.fixture(scope="module")
def level() -> Iterator[None]:
    """As Hydra sets it for a run."""
    before = logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)
    yield
    logging.getLogger().setLevel(before)


@pytest.fixture(scope="module")
def sent() -> Iterator[list[dict[str, Any]]]:
    """What goes to wandb, while all its images are there."""
    requests: list[dict[str, Any]] = []

    def note(request: dict[str, Any]) -> None:
        for row in request["tables"].get("samples", {"rows": []})["rows"]:
            for place in (1, 2):
                with Image.open(row[place]) as image:
                    assert image.size == (RESOLUTION, RESOLUTION)
        requests.append(request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "_fault_of_sending", note)
        yield requests


@pytest.fixture(scope="module")
def sweep(
    model_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    sent: list[dict[str, Any]],
    level: None,
) -> Path:
    """A sweep with run 3 and, as run 4, the same one with other settings."""
    at = tmp_path_factory.mktemp("sweep")
    run(configured(at, *tiny(model_folder), number=3))
    folder = at / "sweeps" / "x"
    shutil.copytree(folder / "3", folder / "4")
    for number, step in ((3, 500), (4, 600)):
        (folder / str(number) / ".hydra").mkdir()
        told = [f"inversion.step={step}", "sweep=last"]
        OmegaConf.save(OmegaConf.create(told), folder / str(number) / ".hydra" / "overrides.yaml")
    return folder


def test_a_run_keeps_what_it_said(sweep: Path) -> None:
    lines = (sweep / "3" / "run.log").read_text().splitlines()
    text = "\n".join(lines)
    assert "estimate of run 3, from two timed calls of " in lines[0]
    assert "settings: model=tiny, data=galaxy32, sampler=cog, solver=ddim, step=500" in text
    for stage in (
        "invert; 40",
        "reconstruct: t = 500; 40",
        "decode: cog (3), t = 500, eta = 0.5; 16",
    ):
        assert f"stage {stage} images, " in text
    assert "galaxy32 from tiny: cog, step 500, eta 0.5, 16 samples, seed 0" in text
    judged = verdicts(json.loads((sweep / "3" / "metrics.json").read_text()))
    assert judged
    assert all(f"{verdict.question} {verdict.answer}: " in text for verdict in judged)
    assert lines[-1].endswith(f"report: {sweep / '3' / 'report.html'}")


def test_a_tracker_is_told_of_a_run_by_name_with_samples_beside_the_nearest_pictures(
    sweep: Path, sent: list[dict[str, Any]]
) -> None:
    request, results = sent[0], json.loads((sweep / "3" / "metrics.json").read_text())
    assert request["name"] == "tiny_galaxy32_cog_t500_eta0.5"
    assert request["group"] == "x"
    assert request["tags"] == ["tiny", "galaxy32", "cog"]
    assert request["figures"]["test/fid"] == results["rows"][0]["fid"]
    assert request["figures"]["test/reconstruction/psnr"] == results["reconstruction"]["psnr"]
    assert all(name.startswith("test/") for name in request["figures"])
    assert request["config"]["data"]["name"] == "galaxy32"
    table = request["tables"]["samples"]
    assert table["columns"] == ["number", "sample", "nearest", "name of nearest", "distance"]
    assert [row[0] for row in table["rows"]] == list(range(16))
    assert table["rows"][5][1] == sweep / "3" / "samples" / "00005.png"
    assert [row[4] for row in table["rows"]] == results["distributions"]["nearest_distance"][
        "samples"
    ]
    number = int(table["rows"][0][3].removeprefix("galaxy32/"))
    assert number < 40
    rows = request["tables"]["test/table"]
    assert [row[0] for row in rows["rows"]] == [row["name"] for row in results["rows"]]


def test_a_finished_run_of_a_sweep_is_not_repeated(
    sweep: Path,
    model_folder: Path,
    sent: list[dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
    level: None,
) -> None:
    at, before = sweep.parents[1], (sweep / "3" / "metrics.json").stat().st_mtime_ns
    number = len(sent)
    run(configured(at, *tiny(model_folder), "sweep=last", number=3))
    assert caplog.messages == [f"run 3 is finished already: {sweep / '3'}"]
    assert (sweep / "3" / "metrics.json").stat().st_mtime_ns == before
    assert len(sent) == number
    # nor would a dry run of other settings undo it
    run(configured(at, *tiny(model_folder), "sweep=last", "seed=1", "dry_run=true", number=3))
    assert "estimate of run 3" in caplog.text
    assert (sweep / "3" / CONFIG).exists()


def test_the_end_of_a_sweep_names_its_files_and_sends_its_curves(
    sweep: Path, sent: list[dict[str, Any]], caplog: pytest.LogCaptureFixture, level: None
) -> None:
    (sweep / "5").mkdir()
    (sweep / "5" / "metrics.json").write_text("interrupted before its configuration was there")
    (sweep / "4" / "wandb" / "offline-run-x").mkdir(parents=True)
    cfg = configured(sweep.parents[1], number=0)
    with open_dict(cfg):
        cfg.hydra = {"sweep": {"dir": str(sweep)}}
    SweepReport().on_multirun_end(cfg)
    # the table is in colour on the console, and said for a log alone
    assert [record.message for record in caplog.records if record.name != journal.name] == [
        f"report: {sweep}/report.html",
        f"sweep: {sweep}/sweep.csv (beside it sweep.md, sweep.png, sweep_curves.png)",
        "wandb: offline; to upload all runs of the sweep: wandb sync "
        f"{sweep}/4/wandb/offline-run-x",
    ]
    request = sent[-1]
    assert request["name"] == "sweep_x"
    assert request["group"] == "x"
    assert set(request["pictures"]) == {"sweep", "sweep_curves"}
    fid = json.loads((sweep / "3" / "metrics.json").read_text())["rows"][0]["fid"]
    assert request["curves"]["test/fid over inversion.step"] == {
        "axis": "inversion.step",
        "lines": {"samples": [(500.0, fid), (600.0, fid)]},
    }
    rows = request["tables"]["test/sweep"]["rows"]
    assert [row[0] for row in rows[:2]] == ["step=500", "step=600"]
    shutil.rmtree(sweep / "5")


def test_a_dry_run_and_a_mistake_leave_no_file(
    model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, level: None
) -> None:
    run(configured(tmp_path, *tiny(model_folder), "dry_run=true"))
    assert "estimate, from two timed calls" in caplog.text
    mistake = ["data=folder", f"data.root={tmp_path}/nowhere"]
    with pytest.raises(SystemExit) as ended:
        run(configured(tmp_path, *mistake, "logger=none"))
    assert ended.value.code == 1
    assert "nowhere does not exist" in caplog.text
    assert list((tmp_path / "run").iterdir()) == []
    # the end of a sweep tells of it
    run(configured(tmp_path, *mistake, "logger=none", number=0))
    (file,) = (tmp_path / "sweeps" / "x" / "0").iterdir()
    assert file.name == FAILED
    cfg = configured(tmp_path, "dry_run=true", number=0)
    with open_dict(cfg):
        cfg.hydra = {"sweep": {"dir": str(tmp_path / "sweeps" / "x")}}
    with pytest.raises(SystemExit):
        SweepReport().on_multirun_end(cfg)
    assert "error: run 0 failed" in caplog.text
    assert not file.exists()


def test_groups_that_a_run_can_do_without_may_be_deleted(
    model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, level: None
) -> None:
    deleted = ["~logger", "~search"]
    run(configured(tmp_path, *tiny(model_folder), *deleted, "dry_run=true"))
    assert "estimate, from two timed calls" in caplog.text
    with pytest.raises(SystemExit):
        run(configured(tmp_path, *tiny(model_folder), *deleted, "inversion.step=auto"))
    assert "inversion.step=auto needs the keys of search: leave ~search out" in caplog.text
    with pytest.raises(SystemExit):
        run(configured(tmp_path, *tiny(model_folder), *deleted, "sampler=auto"))
    assert "sampler=auto needs the keys of search: leave ~search out" in caplog.text


def test_a_tracker_is_told_of_a_study_by_its_name_with_figure_and_table(tmp_path: Path) -> None:
    measured = Measured(
        [
            {"model": "dog32", "domain": "my galaxies", "step": 300, "kid": 0.5, "usable": True},
            {"model": "dog32", "domain": "my galaxies", "step": 500, "kid": float("nan")},
        ]
    )
    entry = study_entry(tmp_path, "bandwidth", measured, ["Both."], {"seed": 0}, group="x")
    assert entry.name == "dog32_my-galaxies_bandwidth"
    assert entry.group == "x"
    assert entry.tags == ["dog32", "my galaxies", "bandwidth"]
    assert entry.pictures == {"bandwidth": tmp_path / "bandwidth.png"}
    assert entry.tables["test/bandwidth"] == Table(
        ["model", "domain", "step", "kid", "usable"],
        [
            ["dog32", "my galaxies", 300, 0.5, True],
            ["dog32", "my galaxies", 500, None, None],
        ],
    )
    assert entry.tables["conclusion"].rows == [["Both."]]
