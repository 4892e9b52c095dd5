"""A run of a GAN, which has no steps."""

import json
from pathlib import Path

import pytest

from ood_sampler.entries import run_title
from ood_sampler.report.tables import title_of
from tests.test_run import execute_tiny

LATENTS = "w+ (2 steps, 1 starts)"
GAN = ["model=dog32_gan", "model.resolution=32", "model.steps=2", "model.starts=1"]
CHEAP = ["model.features=0", "metrics=features32"]


@pytest.mark.filterwarnings("ignore")
def test_a_run_of_a_gan_tells_its_codes_where_others_tell_their_step(tmp_path: Path) -> None:
    execute_tiny(None, tmp_path, *GAN, *CHEAP)
    folder = tmp_path / "found"
    run = json.loads((folder / "metrics.json").read_text())["run"]
    assert not {"step", "solver"} & set(run)
    assert run["latents"] == LATENTS
    assert title_of(run) == f"galaxy32 from dog32_gan: {run['sampler']}, {LATENTS}"
    assert run_title(run) == f"dog32_gan_galaxy32_{run['sampler']}_w+-2-steps-1-starts"
    page = (folder / "report.html").read_text()
    assert f"few-shot images were inverted to {LATENTS}, the strategy" in page
    assert "step 500" not in page
    assert "t = 500" not in page


def test_a_run_of_a_diffusion_model_tells_its_step() -> None:
    run = {"model": "dog32", "data": "galaxy32", "sampler": "cog", "step": 500, "eta": 0.0}
    assert title_of(run) == "galaxy32 from dog32: cog, step 500"
    assert run_title(run) == "dog32_galaxy32_cog_t500_eta0"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("study", ["geodesic", "synthesis"])
def test_a_study_of_a_gan_tells_its_codes_where_others_tell_their_step(
    study: str, tmp_path: Path
) -> None:
    fast = {
        "geodesic": ["study.pairs=4", "study.frames=5"],
        "synthesis": ["~study.samplers.rejection", "~study.samplers.paper_code"],
    }
    execute_tiny(None, tmp_path, *GAN, *CHEAP, f"experiment={study}", *fast[study])
    told = (tmp_path / "found" / f"{study}.md").read_text()
    assert f"galaxy32, {LATENTS}: " in told
    assert "step t" not in told
    assert "t = 500" not in told


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("noised", "NoisedSampler needs the noise schedule"),
        ("standard", "StandardSampler needs the noise schedule"),
        ("bands", r"BandsSampler needs latents with rows and columns, not of shape \(8, 128\)"),
        ("permutation", "PermutationSampler needs latents with rows and columns"),
    ],
)
def test_a_strategy_that_codes_do_not_fit_is_refused_before_a_gan_inverts(
    sampler: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        execute_tiny(None, tmp_path, *GAN, *CHEAP, f"sampler={sampler}")
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("inversion.step=auto", "inversion.step must be a number for a model without steps"),
        ("inversion.noised_moves=1", "inversion.noised_moves must be 0 .* got 1"),
        ("decode.shift=-40", "decode.shift must be 0 .* got -40"),
        ("decode.clip_x_0=true", "decode.clip_x_0 must be false .* got true"),
        ("decode.eta=0.5", "decode.eta must be 0 for a GAN"),
        ("correction=gaussian", "correction must be none for this model"),
    ],
)
def test_a_setting_of_steps_is_refused_by_a_gan_before_it_inverts(
    setting: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        execute_tiny(
            None, tmp_path, *GAN, *CHEAP, "search.samples=[16]", "search.validation=0.4", setting
        )
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_search_leaves_out_strategies_that_codes_do_not_fit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    search = ["search.samples=[16]", "search.validation=0.4", "data.few_shot=48"]
    execute_tiny(None, tmp_path, *GAN, *CHEAP, "sampler=auto", *search)
    assert "bands (4) is left out: it needs latents with rows and columns" in caplog.text
    tried = (tmp_path / "found" / "search.csv").read_text()
    assert "cog (3)" in tried
    assert "bands" not in tried


def test_interference_refuses_a_gan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a diffusion model for this study, got dog32_gan"):
        execute_tiny(None, tmp_path, *GAN, *CHEAP, "experiment=interference", "correction=none")


@pytest.mark.parametrize(
    "study",
    [
        "bandwidth",
        "frontier",
        "gaussianity",
        "inversion",
        "reconstruction",
        "search",
        "separability",
    ],
)
def test_a_study_of_steps_refuses_a_gan(study: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a diffusion model for this study, got dog32_gan"):
        execute_tiny(None, tmp_path, *GAN, *CHEAP, f"experiment={study}")
