"""Hydra's own options pass, or are refused in one true sentence."""

from argparse import ArgumentParser
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf

from ood_sampler.command.arguments import _OPTIONS, Command, read_command
from ood_sampler.command.values import expand_home
from ood_sampler.config import CONF
from ood_sampler.faults import CommandError


def read(*arguments: str) -> Command:
    command = read_command(arguments, name="run")
    command.check()
    return command


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with options of a user's own."""
    for group in ("data", "experiment", "mine"):
        (tmp_path / "own conf" / group).mkdir(parents=True)
    text = (CONF / "data" / "folder.yaml").read_text().replace("root: ???", "root: ~/pics")
    (tmp_path / "own conf" / "data" / "pics.yaml").write_text(text + "extra: 3 # whole\n")
    (tmp_path / "own conf" / "experiment" / "seeds.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: 1,2\n"
    )
    return tmp_path / "own conf"


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        (["seed=1", "-m", "decode.eta=0,1"], ["--multirun", "seed=1", "decode.eta=0,1"]),
        (
            ["-m", "sampler=glob(l*)"],
            ["--multirun", "sampler=lerp,lowrank"],
        ),
        (
            ["-m", "sampler=glob([l*,s*],exclude=lerp)"],
            ["--multirun", "sampler=lowrank,slerp,standard"],
        ),
        (
            ["-m", "sampler=choice(cog,slerp)", "seed=range(1,3)"],
            ["--multirun", "sampler=choice(cog,slerp)", "seed=range(1,3)"],
        ),
        (["--cfg", "job", "--resolve", "-p", "data"], ["--cfg=job", "--resolve", "--package=data"]),
        (["-c", "all", "data=folder"], ["--cfg=all", "data=folder"]),
        (["--info", "searchpath"], ["--info=searchpath"]),
        (["--hydra-help"], ["--hydra-help"]),
        (["-sc", "install=bash"], ["--shell-completion", "install=bash"]),
        (["~study"], ["~study"]),
        (["~logger", "~search"], ["~logger", "~search"]),
        (["+data.new=2024_05", "++seed=3"], ["+data.new=2024_05", "++seed=3"]),
        (["decode.eta=${oc.decode:0.5}"], ["decode.eta=${oc.decode:0.5}"]),
        (["hydra.mode=RUN", "experiment=step_eta"], ["hydra.mode=RUN", "experiment=step_eta"]),
    ],
    ids=lambda part: " ".join(part),
)
def test_a_command_reaches_hydra(typed: list[str], taken: list[str]) -> None:
    assert read(*typed).arguments() == taken


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["-m", "--cfg", "job"], "-m does not go with --cfg"),
        (["--cfg", "job", "seed=1,2"], "seed=1,2 has several values: --cfg shows a single run"),
        (["--resolve"], "--resolve goes with --cfg: add --cfg job"),
        (["--cfg", "all", "--resolve"], "--resolve goes with --cfg job alone"),
        (["--cfg", "jobs"], "invalid choice: 'jobs'"),
        (["-sc"], "--shell-completion needs the shell: add install=bash"),
        (["--confg-dir=x"], "--confg-dir=x is not an option; did you mean --config-dir?"),
        (["--config-dir", "nowhere"], "--config-dir nowhere is not there"),
        (["--config-path", "nowhere"], "--config-path nowhere is not there"),
        (["--config-name", "nothing"], "there is no nothing.yaml in"),
        (["hydra.searchpath=[file://nowhere]"], "hydra.searchpath holds file://nowhere"),
        (["~trainer"], "~trainer removes what every run needs: trainer=auto is the default"),
        (["~inversion.step"], "~inversion.step removes what every run needs"),
        (["~sed"], "Could not delete from config. 'sed' does not exist."),
        (["sampler=glob(*)"], "has several values: add -m"),
        (["-m", "sampler=glob(x*)"], "sampler=glob(x*) is none of the options: auto, bands,"),
        (["-m", "seed=glob(*)"], "glob chooses among the options of a group"),
        (["-m", "seed=interval(1,2)"], "give a list, choice(...) or a range(...)"),
        (["-m", "seed=range(1,5,0)"], "with a step other than 0"),
        (["-m", "seed=range(5,1)"], "seed=range(5,1) holds no value"),
        (["++seed=abc"], "seed must be a whole number, got abc"),
        (["seed=4~"], "seed must be a whole number, got 4~"),
        (["data.rot=/x/Galaxies (2020)"], "data.rot is not known"),
        (["output=It's, b"], '"output=\\"It\'s, b\\"" if it is one'),
        (["data=folder", "data.root=null"], "data.root must be set"),
        (
            ["data.root=${oc.env:MISSING}", "data=folder"],
            "data.root: Environment variable 'MISSING' not found",
        ),
        (["data.root=${oc.env:MISSING,''}", "data=folder"], "data.root is empty"),
        (["=x"], "=x names no key"),
        (
            ["+metrics/pictures=intra_lpis"],
            "metrics/pictures=intra_lpis is not known; did you mean intra_lpips?",
        ),
        (
            ["+metrics/pictures=intra_lpips", "metrics.pictures.intra_lpips.downlod=true"],
            "did you mean metrics.pictures.intra_lpips.download?",
        ),
        (
            ["+metrics/pictures=intra_lpips", "metrics.pictures.intra_lpips.download=1"],
            "metrics.pictures.intra_lpips.download must be true or false, got 1",
        ),
        (["trainer._partial_=${seed}"], "trainer._partial_ must be written out, got ${seed}"),
    ],
    ids=lambda part: part if isinstance(part, str) else " ".join(part),
)
def test_a_mistake_is_told_in_one_sentence(
    typed: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MISSING", raising=False)
    with pytest.raises(CommandError) as caught:
        read(*typed)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    # nothing was made
    assert list(tmp_path.iterdir()) == []


def test_options_are_those_of_hydra() -> None:
    found = {
        name: (action.dest, action.nargs, action.const, action.choices and list(action.choices))
        for action in get_args_parser()._actions
        for name in action.option_strings
    }
    parser = ArgumentParser(add_help=False)
    for names, settings in _OPTIONS.items():
        action = parser.add_argument(*names, **settings)
        taken = (action.dest, action.nargs, action.const, action.choices and list(action.choices))
        for name in names:
            assert found.pop(name) == taken
    assert found == {}


def test_an_added_option_has_keys() -> None:
    typed = ["+metrics/pictures=intra_lpips", "metrics.pictures.intra_lpips.download=true"]
    assert read(*typed).arguments() == typed
    cfg = read(*typed).configuration.compose(typed)
    assert cfg.metrics.pictures.intra_lpips.download is True


def test_options_of_a_users_own_are_known(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(own.parent))
    monkeypatch.chdir(own.parent)
    expected = [f"--config-dir={own}", "data=pics", "data.extra=4"]
    assert read("data=pics", "--config-dir", "own conf", "data.extra=4").arguments() == expected
    assert read("--config-dir=~/own conf", "data=pics", "data.extra=4").arguments() == expected
    assert read("-cd", str(own), "experiment=seeds").is_sweep
    found = read(f"hydra.searchpath=['file://{own}']", "data=pics").configuration
    assert "pics" in found.options("data")
    assert "mine" in found.groups()
    cfg = found.compose(["data=pics"])
    expand_home(cfg)
    assert cfg.data.root == f"{own.parent}/pics"
    with pytest.raises(CommandError, match=r"data=pisc is not known; did you mean pics\?"):
        read("--config-dir", str(own), "data=pisc")
    with pytest.raises(CommandError, match=r"data\.extr is not known .*mean data\.extra\?"):
        read("--config-dir", str(own), "data=pics", "data.extr=4")
    with pytest.raises(CommandError, match=r"data\.extra must be a whole number, got x"):
        read("--config-dir", str(own), "data=pics", "data.extra=x")


def test_a_folder_can_take_the_place_of_conf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    text = "output: 2024 # a number\nseed: 0\n"
    (tmp_path / "other" / "small.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    command = read_command(["--config-path=other", "-cn", "small", "seed=2"], name="run")
    assert command.arguments() == [
        f"--config-path={tmp_path}/other",
        "--config-name=small",
        "seed=2",
    ]
    with pytest.raises(CommandError, match="output must be text, got 2024: put quotes around it"):
        command.check()
    (tmp_path / "other" / "small.yaml").write_text(text.replace("2024", "[]"))
    with pytest.raises(CommandError, match=r"output must be text, got \[\]"):
        command.check()
    (tmp_path / "other" / "small.yaml").write_text(text.replace("2024", "outputs"))
    command.check()
    assert OmegaConf.to_container(command.configuration.compose(["seed=2"]))["seed"] == 2  # type: ignore[index]


def test_a_key_that_is_set_to_two_values_is_told() -> None:
    command = read("seed=1", "sampler=cog", "seed=2", "sampler=cog", "++seed=3", "output=a")
    assert command.repeated == ("++seed=3",)
    assert read("seed=1", "inversion.step=3").repeated == ()
