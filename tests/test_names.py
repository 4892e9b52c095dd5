import os
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict

from ood_sampler.config import CONF
from ood_sampler.names import MULTIRUN, data_name, file_name


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("run", list(overrides), return_hydra_config=True)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("/my/trucks", "trucks"),
        ("/my/trucks/", "trucks"),
        ("/my/trucks.v2", "trucks.v2"),
        ("/my/trucks.ZIP", "trucks"),
        ("fields.fits.gz", "fields"),
        ("~/Vögel im Park", "Vögel im Park"),
        ("OWNER/NAME", "NAME"),
        ("/my/new\nline\t", "new line"),
        ("/", "images"),
        (os.fsdecode(b"/my/caf\xe9"), "caf\ufffd"),
    ],
)
def test_a_domain_is_called_like_its_folder_or_file(place: str, name: str) -> None:
    assert data_name(place) == name


def test_the_current_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "birds").mkdir()
    monkeypatch.chdir(tmp_path / "birds")
    assert data_name(".") == "birds"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("trucks.v2", "trucks.v2"),
        ("a/b: c*?", "a-b-c"),
        ("Vo\u0308gel", "Vögel"),
        ("हिन्दी", "हिन्दी"),
        ("../..", ""),
        ("🐱", ""),
        (os.fsdecode(b"caf\xe9s"), "caf-s"),
        ("é" * 100, "é" * 30),
    ],
)
def test_a_name_becomes_part_of_a_file_name(text: str, name: str) -> None:
    assert file_name(text) == name


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["data=folder", "data.root=/my/trucks.zip"], "trucks"),
        (["data=folder", "data.root=/my/trucks", "data.name=mine"], "mine"),
        (["data=radiation", "data.root=/my/clouds.fits"], "clouds"),
        (["data=radiation"], "radiation"),
        (["data=hub", "data.id=OWNER/NAME"], "NAME"),
        (["data=folder"], "images"),
        (["data=celeba", "data.root=/my/faces"], "celeba"),
    ],
)
def test_the_name_of_the_data_comes_from_where_they_are(overrides: list[str], name: str) -> None:
    assert composed(*overrides).data.name == name


@pytest.mark.parametrize(
    ("overrides", "ending"),
    [
        ([], "_dog32_galaxy32_cog"),
        (["sampler=slerp", "data=folder", "data.root='/my/two words'"], "_dog32_two-words_slerp"),
        (["experiment=bandwidth"], "_dog32_galaxy32_bandwidth"),
        (["study=frontier", "model=ship32"], "_ship32_galaxy32_frontier"),
    ],
)
def test_the_folder_of_a_run_says_what_it_is_about(overrides: list[str], ending: str) -> None:
    cfg = composed(*overrides, "output=/out")
    found = Path(cfg.hydra.run.dir)
    assert found.parent == Path("/out/runs")
    date, name = found.name[:26], found.name[26:]
    assert name == ending
    assert date.replace("-", "").replace("_", "").isdecimal()


@pytest.mark.parametrize(
    ("overrides", "ending"),
    [
        (["decode.eta=0,0.1"], "_dog32_galaxy32_cog"),
        (["sampler=cog,slerp"], "_dog32_galaxy32"),
        (["model=dog32,ship32", "study=bandwidth", "study.steps=[300,500]"], "_galaxy32_bandwidth"),
        (["experiment=bandwidth,frontier"], "_dog32_galaxy32"),
        (["data=glob(*32)"], "_dog32_cog"),
    ],
)
def test_the_folder_of_a_sweep_says_what_its_runs_share(overrides: list[str], ending: str) -> None:
    fixed = [text for text in overrides if "glob" not in text]
    cfg = composed(*(text for text in fixed if "," not in text or "[" in text))
    with open_dict(cfg):
        cfg.hydra.overrides.task = overrides
    folder = Path(cfg.hydra.sweep.dir)
    assert folder.parent == Path("outputs/sweeps")
    assert folder.name[26:] == ending
    # all runs of the sweep are told the same
    assert Path(cfg.hydra.sweep.dir) == folder


def test_a_sweep_to_continue_is_the_last_one_or_the_named_one(tmp_path: Path) -> None:
    folders = [tmp_path / "sweeps" / name for name in ("b", "a", "c")]
    for number, folder in enumerate(folders[:2]):
        folder.mkdir(parents=True)
        (folder / MULTIRUN).touch()
        os.utime(folder / MULTIRUN, (number, number))
    folders[2].mkdir()

    def chosen(name: str) -> str:
        return str(composed(f"output={tmp_path}", f"sweep={name}").hydra.sweep.dir)

    assert chosen("last") == str(folders[1])
    assert chosen("b") == str(folders[0])
    assert chosen(str(folders[0])) == str(folders[0])
    for name in ("c", "d"):
        with pytest.raises(Exception, match=rf"there is no sweep {tmp_path}/sweeps/{name}: set"):
            chosen(name)
    with pytest.raises(Exception, match="there is no sweep in /nowhere/sweeps that sweep=last"):
        _ = composed("output=/nowhere", "sweep=last").hydra.sweep.dir
