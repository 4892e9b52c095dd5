"""The driver of the paper's tables: which runs it makes, and that their answers become one."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.paper import __main__ as paper
from ood_sampler.command.checking import check_command
from ood_sampler.config import CONF

STUDIES = sorted(file.stem for file in (CONF / "study").glob("*.yaml"))


def overrides(
    study: str, scale: str, domains: list[str], models: list[str] | None = None
) -> dict[str, tuple[str, ...]]:
    return {run.folder: run.overrides for run in paper.runs(study, scale, domains, models or [])}


def test_every_model_has_the_shipped_domains_first_and_then_the_folders(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "b.zip").touch()
    found = overrides("frontier", "embedded", [str(tmp_path / "cats"), f"birds={tmp_path}/b.zip"])
    domains = ["galaxy32", "radiation32", "cats", "birds"]
    assert list(found) == [f"{model}_{d}" for model in ("dog32", "ship32") for d in domains]
    assert found["dog32_galaxy32"] == ("experiment=frontier", "model=dog32", "data=galaxy32")
    assert found["ship32_birds"] == (
        "experiment=frontier",
        "model=ship32",
        "data=folder",
        "data.name='birds'",
        f"data.root='{tmp_path}/b.zip'",
    )


def test_naming_a_shipped_domain_leaves_the_others_out(tmp_path: Path) -> None:
    cats = tmp_path / "cats.v2"
    cats.mkdir()
    domains = ["galaxy32", str(cats)]
    assert list(overrides("frontier", "embedded", domains)) == [
        f"{model}_{domain}" for model in ("dog32", "ship32") for domain in ("galaxy32", "cats.v2")
    ]
    assert list(overrides("frontier", "embedded", ["radiation32"], ["dog32"])) == [
        "dog32_radiation32"
    ]
    # a model without the domain has no run
    assert list(overrides("frontier", "paper", ["celeba"])) == [
        f"{model}_celeba" for model in ("iddpm_afhqdog", "ddpm_church", "ddpm_bedroom")
    ]


def test_only_leaves_all_shipped_domains_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cats").mkdir()
    domains = ["only", str(tmp_path / "cats")]
    assert list(overrides("frontier", "embedded", domains, ["dog32"])) == ["dog32_cats"]
    # astro has nothing to measure then, which is no fault of make paper
    assert paper.main(["astro", "--domains", *domains, "--output", str(tmp_path)]) == 0
    assert "astro leaves folders out" in capsys.readouterr().err


def test_models_are_chosen_from_those_of_the_scale() -> None:
    chosen = overrides("frontier", "paper", [], ["ddpm_church"])
    assert list(chosen) == ["ddpm_church_celeba", "ddpm_church_bedroom", "ddpm_church_afhq_dog"]
    with pytest.raises(ValueError, match="MODELS must be some of dog32 ship32, got cat32"):
        overrides("frontier", "embedded", [], ["cat32"])


def test_a_table_without_a_domain_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert paper.main(["astro", "--scale", "paper", "--models", "ddpm_church"]) == 1
    assert "error: astro has no domain with these models" in capsys.readouterr().err


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"/no/such does not exist: DOMAINS takes"):
        list(paper.runs("frontier", "embedded", ["/no/such"]))
    with pytest.raises(FileNotFoundError, match=r"galxy32 does not exist: .* galaxy32, radiation"):
        list(paper.runs("frontier", "embedded", ["galxy32"]))


def test_any_path_and_name_is_a_command(tmp_path: Path) -> None:
    odd = tmp_path / "it's, (a=b)"
    (odd / "2023").mkdir(parents=True)
    (run,) = list(paper.runs("frontier", "embedded", [str(odd / "2023")], ["ship32"]))[2:]
    check_command(run.overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("run", list(run.overrides))
    assert cfg.data.name == "2023"
    assert cfg.data.root == str(odd / "2023")


def test_two_domains_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.zip").touch()
    paths = [str(tmp_path / name / "train.zip") for name in ("a", "b")]
    with pytest.raises(ValueError, match="two domains are called train"):
        list(paper.runs("frontier", "embedded", paths))
    assert paper.main(["frontier", "--domains", *paths]) == 1


def test_fields_have_a_table_of_their_own() -> None:
    assert list(overrides("astro", "embedded", [], ["dog32"])) == [
        "dog32_galaxy32",
        "dog32_radiation32",
    ]
    assert list(overrides("astro", "paper", [])) == [
        "iddpm_afhqdog_galaxyzoo",
        "iddpm_afhqdog_radiation",
    ]


def test_attributes_are_those_of_labelled_domains(tmp_path: Path) -> None:
    found = [run.folder for run in paper.runs("attribute", "embedded", [str(tmp_path)])]
    assert [folder for folder in found if tmp_path.name not in folder] == [
        "dog32_galaxy32",
        "ship32_galaxy32",
    ]
    # with ARGS="data.labels=..."
    assert list(overrides("attribute", "paper", [], ["iddpm_afhqdog"])) == [
        "iddpm_afhqdog_celeba",
        "iddpm_afhqdog_galaxyzoo",
    ]


def test_only_a_model_with_a_gan_beside_it_has_a_table_of_inversion() -> None:
    assert list(overrides("inversion", "embedded", [])) == ["dog32_galaxy32", "dog32_radiation32"]


def test_reconstruction_is_repeated_with_every_solver() -> None:
    solvers = {file.stem for file in (CONF / "solver").glob("*.yaml")}
    found = overrides("reconstruction", "embedded", [])
    assert len(found) == 4 * len(solvers)
    assert {text for given in found.values() for text in given if "solver" in text} == {
        f"solver={name}" for name in solvers
    }


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("scale", ["embedded", "paper"])
def test_every_run_is_a_command_that_composes(study: str, scale: str) -> None:
    found = list(paper.runs(study, scale, []))
    # the paper's models have no GAN beside them
    assert bool(found) == ((study, scale) != ("inversion", "paper"))
    for run in (*found[:1], *found[-1:]):
        check_command(run.overrides)


def test_the_paper_has_its_sizes() -> None:
    for run in paper.runs("synthesis", "paper", []):
        assert {"num_samples=5000", "data.few_shot=1000", "metrics=inception"} <= set(run.overrides)


class Done:
    returncode = 0


def test_answers_of_all_models_and_domains_become_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Done:  # noqa: ANN401
        commands.append(command)
        check_command([text for text in command[3:] if not text.startswith("hydra.")])
        place = next(text for text in command if text.startswith("hydra.run.dir="))
        folder = Path(str(OverridesParser.create().parse_override(place).value()))
        folder.mkdir(parents=True)
        model, _, domain = folder.name.partition("_")
        rows = [row(model, domain, eta, captured) for eta, captured in ((0.0, 0.1), (1.0, 0.6))]
        protocol = {"seed": 0, "model": model, "few-shot sha256": domain}
        text = json.dumps({"rows": rows, "protocol": protocol})
        (folder / "interference.json").write_text(text)
        save_file({}, folder / "pictures.safetensors")
        return Done()

    monkeypatch.setattr(subprocess, "run", run)
    output = tmp_path / "it's (mine), Vögel"
    assert paper.main(["interference", "--output", str(output), "--set", "seed=0"]) == 0
    assert len(commands) == 4
    assert all("seed=0" in command for command in commands)
    merged = json.loads((output / "paper/embedded/interference/interference.json").read_text())
    assert [row["domain"] for row in merged["rows"]] == [
        f"{domain} from {model}"
        for model in ("dog32", "ship32")
        for domain in ("galaxy32", "galaxy32", "radiation32", "radiation32")
    ]
    assert merged["protocol"] == {"seed": 0}
    assert (output / "paper/embedded/interference/interference.png").stat().st_size > 1000


def test_settings_of_the_scale_are_known_before_and_after_the_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command) or Done())
    # the domains of the paper have a folder, those that ship have none
    sets = ["--set", "dry_run=true", "data.root=/my/images"]
    assert paper.main(["frontier", "--scale", "paper", *sets]) == 0
    assert commands
    commands.clear()
    assert paper.main(["frontier", *sets]) == 1
    assert not commands
    assert "data.root" in capsys.readouterr().err


def row(model: str, domain: str, eta: float, captured: float) -> dict[str, Any]:
    return {
        "model": model,
        "domain": domain,
        "strategy": "cog (3)",
        "step": 500,
        "eta": eta,
        "captured": captured,
        "captured_low": captured - 0.05,
        "captured_high": captured + 0.05,
        "real_captured": 0.01,
        "kid": 0.1,
        "precision": 0.5,
        "authenticity": 0.5,
    }


def test_a_run_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failed:
        returncode = 1

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: Failed())
    assert paper.main(["frontier", "--output", str(tmp_path)]) == 1
    assert "error: frontier of dog32_galaxy32 failed" in capsys.readouterr().err
