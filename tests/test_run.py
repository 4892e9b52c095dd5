import csv
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf, open_dict
from PIL import Image

from ood_sampler import end_on_interrupt
from ood_sampler.command.checking import check_command, sweepable
from ood_sampler.command.help import help_text, training_help_text
from ood_sampler.config import CONF
from ood_sampler.diffusion.solvers import Solver
from ood_sampler.faults import CommandError
from ood_sampler.pipeline.search import Candidates, Search
from ood_sampler.run import execute, main, run
from ood_sampler.samplers.base import Sampler
from ood_sampler.studies.base import Study
from tests.conftest import RESOLUTION

# recipes are those of a training
GROUPS = sorted({folder.name for folder in CONF.iterdir() if folder.is_dir()} - {"recipe"})
OPTIONS = [(group, file.stem) for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]


def ood_sampler(*overrides: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ood_sampler.run", *overrides],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )


SMALL = [
    "data.few_shot=24",
    "data.held_out=24",
    "num_samples=12",
    "measure.in_domain=12",
    "measure.round_trip=4",
    "measure.film=1",
    "solver=ddim",
    "solver.steps=4",
    "inversion.step=400",
]
FAST = "metrics=features32"
"""A judge that takes little time, where the judge is not what is tested."""


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["smpler=cog"], "smpler is not known; did you mean sampler?"),
        (["sampler=cgo"], "sampler=cgo is not known; did you mean cog?; there are: auto, bands, "),
        (["inversion.stp=4"], "inversion.stp is not known; did you mean inversion.step?"),
        (["inversion.step=abc"], "inversion.step must be a whole number or auto, got abc"),
        (["num_samples=2.5"], "num_samples must be a whole number, got 2.5"),
        (["decode.eta=high"], "decode.eta must be a number, got high"),
        (["decode.clip_x_0=3"], "decode.clip_x_0 must be true or false, got 3"),
        (["data=folder"], "data.root must be set, for example data.root=/my/images"),
        (["nonsense"], "nonsense cannot be read; write KEY=VALUE"),
        (["sampler=null"], "sampler=null is not known"),
        (["experiment=null"], "experiment=null is not known"),
        (["study=null"], "study=null is not known"),
        (["inversion=5"], "inversion has keys of its own"),
        (["output=null"], "output must be set"),
        (["sampler.rank=3"], "sampler.rank is not known"),
        (
            ["sampler=lowrank,slerp", "sampler.rank=3"],
            "sampler.rank is not known with sampler=slerp",
        ),
        (["model=dog32,checkpoint"], "model.name must be set, for example model.name=mine"),
        (
            ["model=checkpoint", "model.name=mine", "model.path=x.pt"],
            "model.resolution must be set, for example model.resolution=256",
        ),
        (["data=hub"], "data.id must be set, for example data.id=OWNER/NAME"),
        (["num_samples=null"], "num_samples must be a whole number, got null"),
        (
            ["output=/dev/null/x"],
            "output=/dev/null/x cannot be written (/dev/null: Not a directory)",
        ),
        (["output=/proc/x"], "output=/proc/x cannot be written (/proc: "),
        (["sampler=cog,slrp"], "sampler=slrp is not known; did you mean slerp?"),
        (["inversion.step=400,x"], "inversion.step must be a whole number or auto, got x"),
        (["inversion.step=atuo"], "inversion.step must be a whole number or auto, got atuo"),
        (["search.keep=half"], "search.keep must be a number, got half"),
        (["search.step=[400]"], "search.step is not known; did you mean search.steps?"),
        (
            ["search.samples=64"],
            "search.samples must be a list, for example search.samples=[",
        ),
        (
            ["sampler=auto", "sampler.references=2"],
            "sampler.references is not known with sampler=auto",
        ),
        (["study=bandwith"], "study=bandwith is not known; did you mean bandwidth?"),
        (["study.steps=[300]"], "study.steps is not known"),
        (
            ["study=bandwidth", "study.stps=[300]"],
            "study.stps is not known with study=bandwidth; did you mean study.steps?",
        ),
        (["study=bandwidth", "study.steps=300"], "study.steps must be a list, for example"),
        (
            ["study=synthesis", "study.samplers.cog_2.references=two"],
            "study.samplers.cog_2.references must be a whole number, got two",
        ),
        (["experiment=frontir"], "experiment=frontir is not known; did you mean frontier?"),
        (["experiment=frontier", "study.stps=[300]"], "study.stps is not known"),
    ],
)
def test_a_mistaken_command_is_answered_in_one_sentence(command: list[str], message: str) -> None:
    with pytest.raises(CommandError) as caught:
        check_command(command)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_values_without_a_sweep_are_answered_with_what_to_add(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run", "seed=0,1"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    message = "error: seed=0,1 has several values: add -m to make a run of each\n"
    assert capsys.readouterr().err == message
    monkeypatch.setattr("sys.argv", ["run", "experiment=bandwidth", "data=galaxy32,radiation32"])
    with pytest.raises(SystemExit):
        main()
    assert "has several values: add -m" in capsys.readouterr().err
    check_command(["seed=0,1"], sweep=True)
    check_command(["seed=3"], sweep=False)


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["sampler=lowrank", "sampler.rank=3"],
        ["inversion.step=400,500", "decode.eta=0,0.1"],
        ["decode.eta=1"],
        ["data=folder", "data.root=/my/images"],
        ["experiment=step_eta"],
        ["+trainer.num_nodes=2", "hydra.run.dir=/tmp/x"],
        ["data=celeba", "data.few_shot=null", "data.held_out=null"],
        ["batch_size=null"],
        ["data=afhq_cat,afhq_dog", "data.root=/my/afhq"],
        ["inversion.step=auto", "sampler=auto", "search.steps=[400,500]", "search.novelty=1"],
        ["sampler=auto,cog", "inversion.step=500,auto"],
        ["sampler=auto", "sampler.samplers.cog_2.references=4"],
        ["study=bandwidth", "study.steps=[300]", "sampler=slerp"],
        ["experiment=frontier", "study.steps=[300]", "study.controls.cog_4.references=6"],
        ["experiment=interference", "study.etas=[0,1]", "data=folder", "data.root=/my/images"],
        *([f"{group}={option}"] for group, option in OPTIONS if group in ("study", "experiment")),
    ],
    ids=" ".join,
)
def test_a_right_command_is_let_through(command: list[str]) -> None:
    check_command(command)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_binds_to_its_target(group: str, option: str) -> None:
    import inspect

    overrides = [f"{group}={option}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run", overrides, return_hydra_config=False)
    if group == "experiment":
        group = "study" if "study" in cfg else "solver"
    nodes = [OmegaConf.to_container(cfg[group])]
    while nodes:
        node = nodes.pop()
        assert isinstance(node, dict)
        nodes += [value for value in node.values() if isinstance(value, dict)]
        if "_target_" in node:
            target = get_object(node["_target_"])
            keys = {str(key) for key in node if key not in ("_target_", "_partial_", "_convert_")}
            inspect.signature(target).bind(**dict.fromkeys(keys))


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "study"])
def test_every_study_is_made_and_called_by_the_name_of_its_file(option: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        study = instantiate(compose("run", [f"study={option}"]).study)
    assert isinstance(study, Study)
    assert study.name == option
    assert study.title
    assert len({heading.key for heading in study.headings}) == len(study.headings)
    # one inversion leaves the latents of all its steps
    assert all(0 <= step <= 999 for step in study.steps)


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "experiment"])
def test_an_experiment_is_a_study_of_its_name_or_a_sweep(option: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run", [f"experiment={option}"], return_hydra_config=True)
    if "study" in cfg:
        assert cfg.hydra.runtime.choices.study == option
        assert instantiate(cfg.solver).decoding_evaluations(500, T=1000) > 0
        for eta in cfg.study.get("etas", [0.0]):
            instantiate(cfg.solver).check_eta(eta)
    else:
        assert cfg.hydra.mode.name == "MULTIRUN"
        assert set(cfg.hydra.sweeper.params) <= {"inversion.step", "decode.eta"}


def test_auto_takes_every_candidate_of_its_file() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run", ["sampler=auto", "sampler.samplers.cog_2.references=4"])
    candidates = instantiate(cfg.sampler)
    assert isinstance(candidates, Candidates)
    names = {"cog_2", "cog_3", "cog_3_even", "cog_5", "bands", "slerp", "white"}
    assert set(candidates.samplers) == names
    assert all(isinstance(sampler, Sampler) for sampler in candidates.samplers.values())
    assert vars(candidates.samplers["cog_2"])["references"] == 4
    assert isinstance(instantiate(cfg.search), Search)


def compose_default(group: str) -> str:
    """The option of a group that a command without settings takes."""
    defaults = OmegaConf.load(CONF / "run.yaml").defaults
    return str(next(entry[group] for entry in defaults if entry != "_self_" and group in entry))


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "solver"])
def test_every_solver_is_made_and_fits_the_default_model(option: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        solver = instantiate(compose("run", [f"solver={option}"]).solver)
    assert isinstance(solver, Solver)
    solver.check(1000)
    # at most 35 evaluations each way at the default step, and 25 by default
    most = 25 if option == compose_default("solver") else 35
    assert solver.decoding_evaluations(500, T=1000) <= most
    assert solver.inversion_evaluations([500], T=1000) <= most


def test_help_explains_every_key_of_every_option() -> None:
    text = help_text(["all"])
    for group, option in OPTIONS:
        assert f"  {option}" in text
        if group == "experiment":
            # its keys are those of other groups
            continue
        cfg = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{option}.yaml"))
        assert isinstance(cfg, dict)
        for key, value in cfg.items():
            owned = not (isinstance(value, dict) or str(value).startswith("${"))
            if owned and not key.startswith("_") and key not in ("defaults", "layouts", "sources"):
                assert f"{group}.{key}=" in text, key
    for key in ("seed", "num_samples", "inversion.step", "decode.eta", "output"):
        assert f"    {key}=" in text


def test_help_fits_on_a_screen_and_tells_of_a_group_or_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = help_text().splitlines()
    assert len(lines) <= 42
    assert max(len(line) for line in [*lines, *help_text(["all"]).splitlines()]) <= 100
    for group, option in OPTIONS:
        assert re.search(rf"\b{option}\b", help_text()), (group, option)
    assert len(training_help_text().splitlines()) <= 45
    data = help_text(["data"])
    assert "\n  folder: Your own images" in data
    assert "data.held_out_root=null" in data
    assert "sampler" not in data
    assert "data.column" not in help_text(["data=folder"])
    assert help_text(["inversion.step"]).strip() in help_text(["inversion"])
    assert help_text(["inversion"]).startswith("    inversion.step=500 ")
    with pytest.raises(CommandError, match="no help for samplr; did you mean sampler"):
        help_text(["samplr"])
    with pytest.raises(CommandError, match=r"no help for data=foldr; the options are afhq_cat,"):
        help_text(["data=foldr"])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("# My images.\nroot: x # where they are\n")
    for command in (["--help", "data"], ["--help=data"], ["data", "-h"]):
        monkeypatch.setattr(sys, "argv", ["run", "--config-dir", str(tmp_path), *command])
        main()
        assert "\n  mine: My images.\n" in capsys.readouterr().out


def test_help_of_training_names_its_keys() -> None:
    text = training_help_text()
    for key in ("images=512000", "data.root=???", "network=", "module.batch_size=64"):
        assert f"    {key} " in text


def test_a_key_of_a_swept_group_is_forced() -> None:
    overrides = ["data=afhq_cat,afhq_dog", "data.root=/x", "seed=1,2", "+data.new=1"]
    expected = ["data=afhq_cat,afhq_dog", "++data.root=/x", "seed=1,2", "+data.new=1"]
    assert [sweepable(override, overrides) for override in overrides] == expected
    assert sweepable("data.root=/x", ["data=celeba", "data.root=/x"]) == "data.root=/x"


def test_help_needs_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys; sys.argv = ['run', '--help']; from ood_sampler.run import main; main();"
        "heavy = {'torch', 'lightning', 'diffusers', 'wandb', 'matplotlib'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "inversion.step" in ended.stdout


def execute_tiny(folder: Path | None, at: Path, *overrides: str) -> None:
    """A command with the tiny model, in this process; its run goes to `at / "found"`.

    Args:
        folder: of the model; None if `overrides` choose another.
        at: where to.
        overrides: of the configuration.
    """
    tiny = ["model=diffusers", "model.name=tiny", f"model.path={folder}"]
    command = [
        *([] if folder is None else tiny),
        f"model.resolution={RESOLUTION}",
        "data.few_shot=40",
        "data.held_out=24",
        "num_samples=16",
        "measure.in_domain=16",
        "measure.round_trip=4",
        "measure.film=1",
        "solver=ddim",
        "solver.steps=4",
        "trainer=cpu",
        "logger=none",
        FAST,
        f"output={at}",
        *overrides,
    ]
    check_command(command)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run", command, return_hydra_config=True)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(at / "found")
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg.hydra
    execute(cfg)


def run_in_process(at: Path, *command: str) -> int | str | None:
    """The exit code of a run whose command was composed as Hydra would."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run", [*command, "logger=none", f"output={at}"], return_hydra_config=True)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(at / "found")
        cfg.hydra.mode = "RUN"
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg.hydra
    with pytest.raises(SystemExit) as ended:
        run(cfg)
    return ended.value.code


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["model=ddpm_cifar10"], "the weights of ddpm_cifar10 are not here (143 MB to fetch)"),
        (["data=folder", "data.root=/nowhere/at/all"], "/nowhere/at/all"),
        (["data=celeba", "data.root=/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_a_dry_run_without_weights_or_data_says_so_and_fails(
    command: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for variable in ("OOD_SAMPLER_CACHE", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert run_in_process(tmp_path, "dry_run=true", *command) == 1
    assert said in caplog.text
    assert "Traceback" not in caplog.text


def test_a_run_without_pictures_tells_what_was_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "more").symlink_to(tmp_path.parent)
    command = ["data=folder", f"data.root={tmp_path}", "data.few_shot=6", "dry_run=true"]
    assert run_in_process(tmp_path, *command) == 1
    warning, error = (
        caplog.text.index(text)
        for text in ("1 linked folder (more)", "error: data.few_shot must be at most 4")
    )
    assert warning < error


def lightning_exit() -> None:
    """What Lightning makes of Ctrl-C."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


def test_an_interrupted_program_exits_with_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ood_sampler.run.execute", interrupted)
    assert run_in_process(tmp_path) == 130
    monkeypatch.setattr("ood_sampler.run.execute", lambda cfg, begin: lightning_exit())
    assert run_in_process(tmp_path) == 130
    monkeypatch.setattr("ood_sampler.run.execute", lambda cfg, begin: sys.exit(3))
    assert run_in_process(tmp_path) == 3
    # while a command is read and composed
    monkeypatch.setattr("ood_sampler.cli.read_command", interrupted)
    for module in ("run", "train"):
        monkeypatch.setattr(sys, "argv", [module])
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(f"ood_sampler.{module}").main()
        assert ended.value.code == 130
        assert "interrupted" in capsys.readouterr().err


def test_an_interrupt_of_an_import_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    others: list[object] = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: others.append(error[1]))
    end_on_interrupt()
    with pytest.raises(SystemExit) as ended:
        sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
    bug = TypeError("a bug")
    sys.excepthook(TypeError, bug, None)
    assert others == [bug]


def test_a_study_leaves_its_answer(
    model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    command = ["study=interference", "study.steps=[300]", "study.etas=[0]", "inversion.step=300"]
    execute_tiny(model_folder, tmp_path, *command, "dry_run=true")
    assert "estimate" in caplog.text
    assert not (tmp_path / "found").exists()
    execute_tiny(model_folder, tmp_path, *command)
    names = {file.name for file in (tmp_path / "found").iterdir()}
    assert names == {f"interference.{end}" for end in ("json", "csv", "md", "png", "svg")} | {
        "strips.safetensors",
        "report.html",
        "pictures.safetensors",
        "config.yaml",
    }
    assert OmegaConf.load(tmp_path / "found" / "config.yaml").study.steps == [300]
    found = json.loads((tmp_path / "found" / "interference.json").read_text())
    assert [(row["model"], row["domain"], row["step"]) for row in found["rows"]] == [
        ("tiny", "galaxy32", 300)
    ]
    assert found["protocol"]["seed"] == 0
    assert found["protocol"]["few-shot images"] == 40
    assert found["conclusion"][0] in caplog.text


@pytest.mark.slow
def test_a_run_leaves_its_results_and_a_second_one_is_cached(tmp_path: Path) -> None:
    ended = ood_sampler(*SMALL, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    assert folder.name.endswith("_dog32_galaxy32_cog")
    assert f"wandb sync {folder}/wandb/offline-run-" in ended.stderr
    assert "stage decode: cog (3), t = 400; 12 images, " in (folder / "run.log").read_text()
    results = json.loads((folder / "metrics.json").read_text())
    assert results["run"]["step"] == 400
    assert [row["name"] for row in results["rows"] if row["role"] == "control"] == [
        "lerp in pixels",
        "cog (2) in pixels",
        "cog (3) in pixels",
    ]
    assert OmegaConf.load(folder / "config.yaml").data.resolution == 32
    # 12 samples are too few to say that they are new, whatever their authenticity
    new = next(verdict for verdict in results["verdicts"] if verdict["key"] == "new")
    assert new["outcome"] in ("unclear", "refuted")
    assert results["conclusion"]
    assert "search" not in results["protocol"]
    assert not (folder / "search.csv").exists()
    samples = sorted(folder.glob("samples/*.png"))
    assert len(samples) == 12
    with Image.open(samples[0]) as sample:
        assert sample.size == (32, 32)
    manifest = (folder / "samples" / "manifest.csv").read_text().splitlines()
    assert manifest[1] == "00000.png,0,0,0"
    for name in ("grid.png", "report.html", "metrics.csv"):
        assert (folder / name).stat().st_size > 100
    assert list(folder.glob("wandb/offline-run-*"))

    again = ood_sampler(*SMALL, "logger=none", "hydra.run.dir=again", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    second = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert all(stage["cached"] for stage in second["stages"] if stage["evaluations"])
    assert second["rows"] == results["rows"]
    for sample in samples:
        assert (tmp_path / "again" / "samples" / sample.name).read_bytes() == sample.read_bytes()


@pytest.mark.slow
def test_a_sweep_inverts_once_and_ends_with_one_table_and_one_picture(tmp_path: Path) -> None:
    ended = ood_sampler(
        "-m",
        "inversion.step=300,600",
        "decode.eta=0,0.5",
        "logger=none",
        FAST,
        *[key for key in SMALL if "step=" not in key],
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    runs = [json.loads((folder / str(i) / "metrics.json").read_text()) for i in range(4)]
    inversions = [
        stage["cached"] for run in runs for stage in run["stages"] if stage["name"] == "invert"
    ]
    assert inversions == [False, True, True, True]
    assert [(run["run"]["step"], run["run"]["eta"]) for run in runs] == [
        (300, 0),
        (300, 0.5),
        (600, 0),
        (600, 0.5),
    ]
    with (folder / "sweep.csv").open() as file:
        assert [row["role"] for row in csv.DictReader(file)].count("strategy") == 4
    assert (folder / "sweep.png").stat().st_size > 100


@pytest.mark.slow
def test_a_mistake_ends_the_program_with_one_sentence_and_no_traceback(tmp_path: Path) -> None:
    ended = ood_sampler("data=folder", "data.root=nowhere", "logger=none", cwd=tmp_path)
    assert ended.returncode == 1
    assert "nowhere" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len([line for line in ended.stderr.splitlines() if "error" in line]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["inversion.step=1000"], "inversion.step must be in 0..999"),
        (["decode.eta=-1"], "decode.eta must be >= 0 and finite, got -1"),
        (["data.held_out=0"], "held_out must be >= 2 or null for all, got 0; raise data.held_out"),
        (["model.path=nowhere"], "the weights of model dog32 are missing"),
        (["sampler=lowrank", "sampler.rank=0"], "rank must be >= 1, or null, got 0"),
        (
            ["metrics=inception", "metrics.spaces.inception.weights=nowhere"],
            "inception-2015-12-05.pt",
        ),
        pytest.param(
            ["trainer=gpu"],
            "trainer does not fit this machine",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_a_mistake_ends_the_run_with_one_sentence(
    tmp_path: Path, overrides: list[str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert run_in_process(tmp_path, *overrides) == 1
    (error,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert error.message.startswith("error: ")
    assert message in error.message
    assert "\n" not in error.message
    assert error.exc_info is None
    assert list(tmp_path.iterdir()) == []


OWN_METRIC = '''
from ood_sampler.metrics.base import SetMetric
from ood_sampler.statistics.intervals import mean_interval, with_bounds


class Brightness(SetMetric):
    """Mean value of new images less that of the few-shot images."""

    sets = ("new", "few_shot")

    def __init__(self, *, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def figures(self, *, new, few_shot):
        apart = new.mean(dim=1) - few_shot.mean()
        return with_bounds({"brightness": mean_interval(apart, seed=self.seed)})
'''
OWN_CONFIG = """
defaults:
  - features32
  - _self_
pictures:
  brightness: {_target_: own_metric.Brightness, seed: 0}
"""


@pytest.mark.slow
def test_a_metric_of_the_users_own_is_a_file_and_a_line(tmp_path: Path) -> None:
    (tmp_path / "own_metric.py").write_text(OWN_METRIC)
    config = tmp_path / "own" / "metrics" / "mine.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(OWN_CONFIG)
    ended = ood_sampler(
        *("--config-dir", "own", "metrics=mine", *SMALL, "logger=none"),
        cwd=tmp_path,
        PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    )
    assert ended.returncode == 0, ended.stderr
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    assert all(-1 < row["brightness_low"] <= row["brightness"] for row in rows)
    assert "brightness" in (folder / "metrics.csv").read_text().splitlines()[0]
    assert "brightness" in ended.stderr
    assert '<th scope="row">brightness</th>' in (folder / "report.html").read_text()
