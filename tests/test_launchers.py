import csv
import importlib.util
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from ood_sampler.command.checking import LAUNCHER, check_command
from ood_sampler.command.folders import FAILED
from ood_sampler.command.sweeping import wait_for_all_jobs
from ood_sampler.config import CONF
from ood_sampler.faults import CommandError
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.store.lock import hold
from tests.test_pipeline import pipeline
from tests.test_run import FAST, SMALL, ood_sampler

pytestmark = pytest.mark.filterwarnings(r"ignore:\s*'hydra/launcher/\w+' is validated against")

OPTIONS = sorted(file.stem for file in (CONF / LAUNCHER).glob("*.yaml"))
ROOT = str(Path(__file__).parents[1])

SBATCH = """#!{python}
# Runs the tasks of an array one after the other, as a machine of a cluster would.
import os, re, subprocess, sys

text = open(sys.argv[1]).read()
options = dict(re.findall("#SBATCH --([a-z-]+)=(.*)", text))
print("Submitted batch job 12", flush=True)
if os.fork() == 0:
    os.setsid()
    silent = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(silent, descriptor)
    first, _, last = options["array"].partition("%")[0].partition("-")
    for task in range(int(first), int(last) + 1):
        job = {{"JOB_ID": "12", "ARRAY_JOB_ID": "12", "ARRAY_TASK_ID": task, "JOB_NUM_NODES": 1,
            "NTASKS": 1, "NTASKS_PER_NODE": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0,
            "JOB_NAME": "run", "JOB_NODELIST": "localhost", "NODELIST": "localhost"}}
        env = {{"SLURM_" + key: str(value) for key, value in job.items()}}
        subprocess.run(["bash", sys.argv[1]], env={{**os.environ, **env}})
"""

SRUN = """#!/bin/bash
# srun --unbuffered --output OUT --error ERROR COMMAND ...
fill() { sed "s/%A/12/g; s/%a/$SLURM_ARRAY_TASK_ID/g; s/%t/0/g" <<< "$1"; }
out=$(fill "$3")
mkdir -p "$(dirname "$out")"
exec "${@:6}" > "$out" 2> "$(fill "$5")"
"""

SACCT = """#!/bin/bash
echo "JobID|State|NodeList"
for task in 0 1; do echo "12_$task|RUNNING|localhost"; done
"""


def stages(folder: Path, name: str) -> list[dict[str, Any]]:
    """A stage of all runs of the sweep in a folder, in their order."""
    runs = sorted(folder.glob("*/metrics.json"), key=lambda file: int(file.parent.name))
    all_stages = [json.loads(file.read_text())["stages"] for file in runs]
    return [stage for stages in all_stages for stage in stages if stage["name"] == name]


def sweep(cwd: Path) -> Path:
    (folder,) = (cwd / "outputs" / "sweeps").iterdir()
    return folder


def check_two_runs(cwd: Path, stderr: str) -> None:
    """Two runs that need the same inversion: one has made it, and the table has both."""
    folder = sweep(cwd)
    for name in ("invert", "reconstruct", "in-domain"):
        assert sorted(stage["cached"] for stage in stages(folder, name)) == [False, True], name
    assert [stage["cached"] for stage in stages(folder, "decode")] == [False, False]
    with (folder / "sweep.csv").open() as file:
        assert [row["decode.eta"] for row in csv.DictReader(file) if row["role"] == "strategy"] == [
            "0",
            "0.1",
        ]
    assert "Sweep over decode.eta" in stderr
    assert "UserWarning" not in stderr
    assert not list(cwd.rglob("*/artifacts/**/.*"))


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize("option", OPTIONS)
def test_keys_of_a_launcher_are_known_to_its_package(option: str) -> None:
    target = str(OmegaConf.load(CONF / LAUNCHER / f"{option}.yaml")._target_)
    package = ".".join(target.split(".")[:2])
    pytest.importorskip(package)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        # Hydra merges them into what the package declares
        cfg = compose("run", [f"{LAUNCHER}={option}"], return_hydra_config=True)
    assert cfg.hydra.launcher._target_ == target


def test_a_job_of_a_cluster_may_run_for_a_day_and_goes_on_when_its_time_is_over() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    overrides = [f"{LAUNCHER}=submitit_slurm", "hydra.launcher.partition=gpu", "output=/shared"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        launcher = compose("run", overrides, return_hydra_config=True).hydra.launcher
    assert (launcher.timeout_min, launcher.max_num_timeout) == (1440, 3)
    assert (launcher.partition, launcher.gpus_per_node, launcher.array_parallelism) == ("gpu", 1, 8)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["hydra/launcher=jobib"], "hydra/launcher=jobib is not known; did you mean joblib?"),
        (["hydra/launcher=submitit_slurm", "hydra.launcher.partiton=gpu"], "partiton"),
    ],
)
def test_a_mistaken_launcher_is_answered_in_one_sentence(
    command: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    with pytest.raises(CommandError) as caught:
        check_command(command)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_right_launcher_is_let_through(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    pytest.importorskip("hydra_plugins.hydra_ray_launcher" if option == "ray" else "hydra")
    check_command(["hydra/launcher=basic"])
    check_command([f"hydra/launcher={option}", "decode.eta=0,0.1"])


@pytest.mark.parametrize(("option", "extra"), [("joblib", "launchers"), ("ray", "ray")])
@pytest.mark.parametrize("some", [True, False], ids=["other plugins", "no plugin"])
def test_a_launcher_that_is_not_installed_is_answered_with_what_to_install(
    option: str, extra: str, monkeypatch: pytest.MonkeyPatch, *, some: bool
) -> None:
    def find_spec(name: str) -> None:
        if not some:
            raise ModuleNotFoundError("No module named 'hydra_plugins'")

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    install = rf"pip install -e '\.\[{extra}\]' in the project's folder"
    message = rf"^hydra/launcher={option} is not installed: {install}$"
    with pytest.raises(CommandError, match=message):
        check_command([f"hydra/launcher={option}"])


def test_slurm_without_its_commands_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CommandError, match="there is no srun here: start the sweep where jobs are"):
        check_command(["hydra/launcher=submitit_slurm"])


@pytest.mark.parametrize("stages_before", [0, 1, 2, 3])
def test_what_another_process_made_meanwhile_is_used(
    model_folder: Path,
    trainer: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stages_before: int,
) -> None:
    def work(run: Pipeline) -> None:
        run.session.obtain(run.samples)

    held: list[Sequence[Path]] = []

    def late(folders: Sequence[Path], **settings: Any) -> Any:  # noqa: ANN401
        # a stage asks again for what the one before it made
        asked_first = folders not in held
        held.extend([folders] if asked_first else [])
        if asked_first and len(held) == stages_before + 1:
            # another process takes and gives back the lease before this one asks for it
            with monkeypatch.context() as patch:
                patch.setattr("ood_sampler.pipeline.session.hold", hold)
                work(pipeline(model_folder, tmp_path, trainer))
        return hold(folders, **settings)

    monkeypatch.setattr("ood_sampler.pipeline.session.hold", late)
    run = pipeline(model_folder, tmp_path, trainer)
    work(run)
    cached = {stage.name: stage.cached for stage in run.session.stages}
    made = ["invert", "fit", "draw", "decode"][:stages_before]
    assert [name for name, was_cached in cached.items() if not was_cached] == made
    assert "decode" in cached


@pytest.mark.slow
def test_two_jobs_that_need_the_same_inversion_do_it_once(tmp_path: Path) -> None:
    # submitit's jobs do so in the test of a cluster below
    ended = ood_sampler(
        "-m",
        "hydra/launcher=joblib",
        "decode.eta=0,0.1",
        "logger=none",
        *SMALL,
        FAST,
        cwd=tmp_path,
        PYTHONPATH=ROOT,
    )
    assert ended.returncode == 0, ended.stderr
    check_two_runs(tmp_path, ended.stderr)


@pytest.mark.slow
def test_a_cluster_runs_the_jobs_of_a_sweep_in_one_array(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    executable(programs / "sbatch", SBATCH.format(python=sys.executable))
    executable(programs / "srun", SRUN)
    executable(programs / "sacct", SACCT)
    ended = ood_sampler(
        "-m",
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.partition=gpu",
        "hydra.launcher.array_parallelism=5",
        "decode.eta=0,0.1",
        "logger=none",
        *SMALL,
        FAST,
        cwd=tmp_path,
        PYTHONPATH=ROOT,
        PATH=f"{programs}:{os.environ['PATH']}",
    )
    assert ended.returncode == 0, ended.stderr
    check_two_runs(tmp_path, ended.stderr)
    script = next(sweep(tmp_path).glob(".submitit/**/*submission.sh")).read_text()
    for option in ("partition=gpu", "array=0-1%2", "time=1440", "gpus-per-node=1"):
        assert f"#SBATCH --{option}\n" in script


@pytest.mark.slow
def test_a_sweep_waits_for_all_jobs_and_reports_those_that_died(tmp_path: Path) -> None:
    ended = ood_sampler(
        "-m",
        "hydra/launcher=submitit_local",
        "logger._target_=os.abort,os.strerror,ood_sampler.report.tracking.NoTracker",
        "logger=none",
        *SMALL,
        FAST,
        cwd=tmp_path,
        PYTHONPATH=ROOT,
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 1, said
    assert "error: run 0 failed: its job left no result (state FINISHED), see /" in said
    assert "error: run 1 failed: posix.strerror() takes exactly one argument (0 given)" in said
    assert "Traceback" not in said
    # the third was waited for
    assert "Sweep of one run" in said
    assert (sweep(tmp_path) / "2" / "metrics.json").exists()


def test_a_job_that_died_or_has_a_bug_is_noted_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = pytest.importorskip("submitit.core.core")
    died = pytest.importorskip("submitit.core.utils").UncompletedJobError("many\nlines")
    done = JobReturn(status=JobStatus.COMPLETED)
    bug = JobReturn(status=JobStatus.FAILED, _return_value=TypeError("a\nb"))
    outcomes: list[Any] = [[done], died, [bug]]

    def results(job: Any) -> Any:  # noqa: ANN401
        outcome = outcomes[job.number]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def job(number: int) -> Any:  # noqa: ANN401
        submission = SimpleNamespace(args=([], "hydra.sweep.dir", number))
        return SimpleNamespace(
            number=number,
            state="TIMEOUT",
            submission=lambda: submission,
            paths=SimpleNamespace(stderr=Path("/logs/err")),
        )

    monkeypatch.setattr(core.Job, "results", results)
    wait_for_all_jobs(tmp_path)
    assert core.Job.results(job(0)) == [done]
    for number in (1, 2):
        (returned,) = core.Job.results(job(number))
        assert returned.return_value is None
    assert {file.parent.name: file.read_text() for file in tmp_path.rglob(FAILED)} == {
        "1": "its job left no result (state TIMEOUT), see /logs/err\n",
        "2": "TypeError: a b, see /logs/err\n",
    }
