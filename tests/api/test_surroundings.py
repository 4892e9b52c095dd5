import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.version import getbase
from omegaconf import OmegaConf

import ood_sampler
from ood_sampler.api.surroundings import apart

TINY = [
    "data.few_shot=12",
    "data.held_out=12",
    "num_samples=8",
    "measure.in_domain=8",
    "measure.round_trip=4",
    "measure.film=0",
    "solver=ddim",
    "solver.steps=2",
    "inversion.step=300",
    "metrics=features32",
    "trainer=cpu",
    "logger=none",
]


def test_a_run_within_a_program_of_hydras_leaves_it_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("number: 3\n")
    with initialize_config_dir(str(tmp_path), version_base="1.2"):
        cfg = compose("own", return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        own, before = HydraConfig.get(), (GlobalHydra.instance(), getbase())
        level = logging.getLogger("lightning.pytorch").level
        filters, handlers = list(warnings.filters), list(logging.getLogger().handlers)

        first = ood_sampler.run(*TINY, f"output={tmp_path}")
        second = ood_sampler.run(*TINY, "sampler=lerp", f"output={tmp_path}")

        assert HydraConfig.get() is own
        assert (GlobalHydra.instance(), getbase()) == before
        assert compose("own").number == 3
        assert logging.getLogger("lightning.pytorch").level == level
        assert (list(warnings.filters), list(logging.getLogger().handlers)) == (filters, handlers)
    assert first.folder != second.folder
    assert [result.table[0]["name"] for result in (first, second)] == ["cog (3)", "lerp"]
    kept = OmegaConf.load(second.folder / "config.yaml")
    assert kept.num_samples == 8
    HydraConfig.instance().cfg = None


def test_naming_run_leaves_the_version_that_a_program_asked_of_hydra() -> None:
    code = (
        "from hydra.version import getbase, setbase; setbase('1.2'); before = getbase(); "
        "import ood_sampler; ood_sampler.run; assert getbase() == before"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_a_dry_run_tells_its_cost_and_a_study_its_rows(tmp_path: Path) -> None:
    told = ood_sampler.run(*TINY, "dry_run=true", f"output={tmp_path}")
    assert "evaluations" in told.estimate
    assert told.estimate in repr(told)
    assert not told.folder.exists()
    with pytest.raises(FileNotFoundError, match="dry run"):
        _ = told.report
    with pytest.raises(FileNotFoundError, match="dry run"):
        _ = told.samples
    study = ["study=interference", "study.steps=[300]", "study.etas=[0]"]
    found = ood_sampler.run(*TINY, *study, f"output={tmp_path}")
    assert found.table[0]["step"] == 300
    assert found.report.suffix in (".md", ".html")
    assert "300" in repr(found.table)
    assert "<td>300</td>" in found.table._repr_html_()
    assert found.conclusion


def lightning_exit() -> None:
    """What Lightning makes of Ctrl-C."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


def test_errors_are_those_of_the_package_and_not_exits() -> None:
    with pytest.raises(ValueError, match=r"^rank must be >= 1, or null, got 0$"):
        ood_sampler.run("sampler=lowrank", "sampler.rank=0")
    with pytest.raises(FileNotFoundError, match="the weights of model dog32 are missing"):
        ood_sampler.run("model.path=nowhere", "dry_run=true")
    with pytest.raises(KeyboardInterrupt), apart():
        lightning_exit()
    with pytest.raises(SystemExit), apart():
        sys.exit(3)
    with pytest.raises(KeyError, match="inner"), apart():
        raise InstantiationException("about it") from KeyError("inner")
