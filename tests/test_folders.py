from pathlib import Path

from ood_sampler.command.folders import tidy

RECORDS = ("config.yaml", "hydra.yaml", "overrides.yaml")


def begun(run: Path) -> Path:
    """The folder of a run as Hydra leaves it before the run begins."""
    (run / ".hydra").mkdir(parents=True)
    for name in RECORDS:
        (run / ".hydra" / name).touch()
    return run


def test_a_run_without_a_result_leaves_no_folder(tmp_path: Path) -> None:
    run = begun(tmp_path / "outputs" / "runs" / "now")
    tidy(run, present=(), missing=[run.parents[1], run, run.parent])
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_there_or_hold_something_stay(tmp_path: Path) -> None:
    run = begun(tmp_path / "outputs" / "runs" / "now")
    (tmp_path / "outputs" / "artifacts").mkdir()
    tidy(run, present=(), missing=[run.parents[1], run, run.parent])
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["artifacts"]

    run = begun(tmp_path / "runs" / "now")
    tidy(run, present=(), missing=[run])
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_result_keeps_its_record(tmp_path: Path) -> None:
    run = begun(tmp_path / "now")
    (run / "run.log").touch()
    tidy(run, present=(), missing=[run])
    assert {path.name for path in run.iterdir()} == {".hydra", "run.log"}


def test_a_folder_that_a_user_chose_keeps_the_files_that_it_had(tmp_path: Path) -> None:
    run = begun(tmp_path)
    (run / "notes.txt").touch()
    (run / "7").mkdir()
    tidy(run, present=("notes.txt", "7"), missing=[])
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "7"}
    begun(tmp_path)
    tidy(run, present=("notes.txt", "7", ".hydra"), missing=[])
    assert {path.name for path in (tmp_path / ".hydra").iterdir()} == set(RECORDS)


def test_a_sweep_without_a_result_leaves_no_folder(tmp_path: Path) -> None:
    sweep = tmp_path / "sweeps" / "now"
    for number in ("0", "1"):
        begun(sweep / number)
    (sweep / "multirun.yaml").touch()
    tidy(sweep, present=(), missing=[sweep, sweep.parent])
    assert list(tmp_path.iterdir()) == []


def test_of_a_sweep_the_runs_with_a_result_stay(tmp_path: Path) -> None:
    for number in ("0", "1", "2"):
        begun(tmp_path / number)
    (tmp_path / "1" / "failed.txt").touch()
    (tmp_path / "multirun.yaml").touch()
    tidy(tmp_path, present=("2",), missing=[tmp_path])
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2", "multirun.yaml"}


def test_what_cannot_be_removed_ends_nothing(tmp_path: Path) -> None:
    begun(tmp_path / "now")
    (tmp_path / "now" / ".hydra" / "mine").touch()
    tidy(tmp_path / "now", present=(), missing=[tmp_path / "now"])
    assert (tmp_path / "now" / ".hydra" / "config.yaml").exists()
    tidy(tmp_path / "not there", present=(), missing=[])
