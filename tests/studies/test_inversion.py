import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ood_sampler.metrics.reconstruction import reconstruction
from ood_sampler.models.gan import GanModel, save_generator
from ood_sampler.models.style_generator import StyleGenerator
from ood_sampler.pipeline.estimate import work_of
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.samplers.gaussian import GaussianSampler
from ood_sampler.studies.base import Measured
from ood_sampler.studies.files import write_study
from ood_sampler.studies.inversion import InversionStudy, rounded
from tests.conftest import RESOLUTION
from tests.studies.conftest import TinyRun, drawn, lacking, moved
from tests.test_run import execute_tiny

COUNT = 6
METHODS = [
    ("diffusion, t = 400", ""),
    ("diffusion, t = 999", ""),
    ("GAN, w", "equal time"),
    ("GAN, w", "converged"),
    ("GAN, w+", "equal time"),
    ("GAN, w+", "converged"),
]


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> GanModel:
    folder = tmp_path_factory.mktemp("gan")
    torch.manual_seed(0)
    save_generator(StyleGenerator(channels=[6, 6, 4], width=4, mapping=1), folder)
    return GanModel(
        name="tiny_gan",
        resolution=RESOLUTION,
        path=str(folder),
        space="w",
        steps=2,
        starts=1,
        learning_rate=0.1,
        pixels=1.0,
        features=0.0,
    )


def study(gan: GanModel, **changes: Any) -> InversionStudy:  # noqa: ANN401
    given: dict[str, Any] = {
        "steps": [400, 999],
        "count": COUNT,
        "in_domain_root": None,
        "beside": gan,
        "converged": 20,
        "equal": 2,
    }
    return InversionStudy(**{**given, **changes})


@pytest.fixture(scope="module")
def run(tiny_run: TinyRun) -> Pipeline:
    made = tiny_run(num_samples=8, in_domain=8)
    return replace(made, sampler=GaussianSampler("diagonal"))


@pytest.fixture(scope="module")
def measured(run: Pipeline, gan: GanModel) -> Measured:
    asked = study(gan)
    asked.check(run)
    return asked.measure(run)


def test_both_sets_are_inverted_by_each_method(measured: Measured) -> None:
    assert [(r["set"], r["method"], r["budget"]) for r in measured.rows] == [
        (name, *method) for name in ("few-shot", "in-domain") for method in METHODS
    ]
    assert all(row["images"] == COUNT for row in measured.rows)
    assert [row["evaluations_in"] for row in measured.rows[2:6]] == [6, 60, 12, 120]


def test_the_figures_are_those_of_the_pictures(run: Pipeline, measured: Measured) -> None:
    pictures, rows = measured.pictures, measured.rows[:6]
    x_0 = pictures["smooth/few-shot: images"]
    for row in rows:
        label = ", ".join(part for part in (row["method"], row["budget"]) if part)
        x = pictures[f"smooth/few-shot: {label}"]
        assert row["psnr"] == pytest.approx(float(reconstruction(x, x_0).psnr.mean()), rel=1e-3)
        extractor = run.judges.headline.extractor
        apart = extractor(x).double() - extractor(x_0).double()
        pairs = torch.cdist(extractor(x_0).double(), extractor(x_0).double())
        typical = (pairs.square().sum() / (COUNT * (COUNT - 1))).sqrt()
        assert row["distance"] == pytest.approx(float(apart.norm(dim=1).mean() / typical), rel=0.02)


def test_more_steps_come_nearer(measured: Measured) -> None:
    for name in ("few-shot", "in-domain"):
        w, more, plus, most = (r["psnr"] for r in measured.rows[2:6] if name)
        assert more > w
        assert most > plus


def test_latents_are_placed_in_the_prior_of_their_model(measured: Measured) -> None:
    noise = measured.rows[1]
    # pure noise: the two distances are one
    assert noise["mahalanobis"] == noise["radius"]
    assert measured.rows[0]["mahalanobis"] is None
    for row in measured.rows:
        assert 0 <= row["radius"] <= 1
        assert row["ratio"] > 0


def test_only_samples_around_settled_latents_of_the_target_are_counted(measured: Measured) -> None:
    counted = [row.get("captured") is not None for row in measured.rows]
    assert counted == [True, True, False, True, False, True, *[False] * 6]


def test_the_conclusion_follows_the_numbers(measured: Measured, gan: GanModel) -> None:
    def changed(psnr: dict[tuple[str, str], float]) -> list[dict[str, Any]]:
        rows = []
        for row in measured.rows:
            kind = "GAN" if row["budget"] else "diffusion"
            value = psnr[row["set"], kind]
            rows.append({**row, "psnr": value, "psnr_low": value - 0.2, "psnr_high": value + 0.2})
        return rows

    said = study(gan).conclude(
        changed(
            {
                ("few-shot", "diffusion"): 30.0,
                ("few-shot", "GAN"): 15.0,
                ("in-domain", "diffusion"): 31.0,
                ("in-domain", "GAN"): 25.0,
            }
        )
    )
    assert said[0].startswith("smooth, few-shot: equal time: diffusion, t = 400 30.0 dB")
    assert said[0].count("the diffusion model is nearer by 15.0 dB") == 2
    assert (
        "own domain to the target: GAN, w +10.0 dB [+9.6, +10.4], diffusion, t = 400 +1.0 dB"
        in said[2]
    )
    assert said[2].endswith("the GAN loses more.")
    assert "diffusion model's own samples" in said[-1]
    gained = {("few-shot", "diffusion"): 35.0, ("few-shot", "GAN"): 27.0}
    own = {("in-domain", "diffusion"): 31.0, ("in-domain", "GAN"): 25.0}
    assert study(gan).conclude(changed({**gained, **own}))[2] == (
        "smooth: neither model loses PSNR from the own domain to the target: "
        "GAN, w -2.0 dB [-2.4, -1.6], diffusion, t = 400 -4.0 dB [-4.4, -3.6]."
    )


def test_equal_time_is_found_by_timing(run: Pipeline, gan: GanModel) -> None:
    asked = study(gan, equal=None)
    steps = asked._steps_at_equal_time(run)
    assert steps >= 1
    assert steps == rounded(steps)
    assert [rounded(n) for n in (0.3, 1.3, 90, 100, 120)] == [1, 1, 91, 91, 128]


def test_the_estimate_counts_the_generator(
    run: Pipeline, gan: GanModel, measured: Measured, tmp_path: Path
) -> None:
    def work(run: Pipeline) -> dict[str, tuple[int, int]]:
        stages = work_of(study(gan).targets(run))
        return {
            stage.name: (stage.images, stage.evaluations_each)
            for stage in stages
            if stage.network is not None and stage.network.name == gan.name
        }

    fresh = replace(run, session=replace(run.session, root=tmp_path))
    both = 2 * COUNT
    assert work(fresh) == {
        "GAN, w, equal time: invert, forward and backward": (both, 6),
        "GAN, w, converged: invert, forward and backward": (both, 60),
        "GAN, w+, equal time: invert, forward and backward": (both, 12),
        "GAN, w+, converged: invert, forward and backward": (both, 120),
        "GAN: reconstruct": (4 * both, 1),
        "GAN: decode": (2 * (8 + 8), 1),
    }
    text = fresh.estimate(study(gan).targets(fresh)).text()
    assert f"({both * 198 + 4 * both + 32:,} of tiny_gan)" in text
    assert all(images == 0 for images, _ in work(run).values())


def test_steps_at_equal_time_are_expected_before_any_inversion(
    run: Pipeline, gan: GanModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = study(gan, equal=None)
    monkeypatch.setattr(Pipeline, "seconds_per_evaluation", lambda *_: 1.0)
    monkeypatch.setattr(InversionStudy, "_seconds", lambda *_: 0.1)
    evaluations = run.inversion_evaluations([999])
    assert asked._expected_steps(run) == rounded(10 * evaluations)


def test_a_setting_that_does_not_fit_is_refused(run: Pipeline, gan: GanModel) -> None:
    with pytest.raises(ValueError, match=r"study\.converged must be at least 1, got 0"):
        study(gan, converged=0).check(run)
    with pytest.raises(ValueError, match=r"study\.beside\.resolution must be 16, .* got 32"):
        study(replace(gan, resolution=32)).check(run)
    of_gan = replace(run, model=gan, codec=gan.codec(run.codec.solver))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"model must be a diffusion model.*got tiny_gan"):
        study(gan).check(of_gan)


def test_the_run_is_told_apart_by_its_settings_alone(run: Pipeline, gan: GanModel) -> None:
    first = study(gan).about(run)
    _ = gan.generator
    assert study(gan).about(run) == first
    assert study(gan, converged=21).about(run) != first
    assert study(replace(gan, learning_rate=0.2)).about(run) != first


def test_files_and_figure_are_written(measured: Measured, gan: GanModel, tmp_path: Path) -> None:
    asked = study(gan)
    write_study(tmp_path, asked, measured, {"judges": ["features32"]})
    table = (tmp_path / "inversion.md").read_text()
    assert "GAN, w+" in table
    assert lacking(asked, measured.rows[1]) == set()
    drawn(asked, [*measured.rows, *moved(measured.rows, "another")], measured.pictures)


def test_the_shipped_gan_is_set_beside_the_shipped_model(tmp_path: Path) -> None:
    sizes = ["study.count=12", "study.equal=1", "study.converged=1", "study.steps=[500]"]
    model = ["model=dog32", "model.resolution=32", "measure.in_domain=12", "measure.round_trip=4"]
    execute_tiny(None, tmp_path, "experiment=inversion", *model, *sizes)
    rows = json.loads((tmp_path / "found" / "inversion.json").read_text())
    assert {row["method"] for row in rows["rows"]} == {"diffusion, t = 500", "GAN, w", "GAN, w+"}


def test_another_gan_makes_another_run(run: Pipeline, gan: GanModel, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_generator(StyleGenerator(channels=[6, 6, 4], width=4, mapping=1), tmp_path)
    other = replace(gan, path=str(tmp_path))
    assert study(gan).about(run) == study(replace(gan)).about(run)
    assert study(gan).about(run)["run"] != study(other).about(run)["run"]
