"""Runs with a closed-form denoiser of the few-shot images in the place of a frozen network."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ood_sampler.codecs.few_shot import FewShotCodec
from ood_sampler.data.domain import Part
from ood_sampler.diffusion.closed_form import PatchDenoiser
from ood_sampler.diffusion.solvers import DdimSolver, MultistepSolver, Solver
from ood_sampler.models.analytic import AnalyticModel, GaussianModel, PatchModel
from ood_sampler.models.base import Model
from ood_sampler.pipeline.estimate import work_of
from ood_sampler.pipeline.keys import taken
from ood_sampler.pipeline.measure import REAL
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.pipeline.search import Search
from ood_sampler.pipeline.settings import Settings
from ood_sampler.samplers.base import Sampler
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.samplers.slerp import SlerpSampler
from ood_sampler.samplers.standard import StandardSampler
from ood_sampler.studies.base import check_metrics
from ood_sampler.studies.frontier import FrontierStudy
from ood_sampler.studies.search import SearchStudy
from tests.conftest import RESOLUTION, make_correction, make_judges, make_pipeline
from tests.test_pipeline import domain
from tests.test_run import execute_tiny
from tests.test_search import SETTINGS as SEARCH
from tests.test_search_flows import ExactModel

GAUSSIAN = GaussianModel("analytic_gaussian", RESOLUTION, 3)
PATCHES = PatchModel("analytic_patches", RESOLUTION, 3, least=1, growth=2, shift=0)

MakeRun = Callable[..., Pipeline]


@pytest.fixture(scope="module")
def make(trainer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    root = tmp_path_factory.mktemp("artifacts")

    def run(
        model: Model = PATCHES,
        *,
        sampler: Sampler | None = None,
        few_shot: int = 20,
        solver: Solver | None = None,
        **changes: Any,  # noqa: ANN401
    ) -> Pipeline:
        given = domain()
        given = replace(given, few_shot=Part(given.few_shot, range(few_shot)))
        settings = {"step": 400, "eta": 0.0, "clip_x_0": False, "num_samples": 8, "seed": 0}
        return make_pipeline(
            model=model,
            domain=given,
            solver=solver or DdimSolver(steps=5, power=1),
            sampler=sampler or CogSampler(references=2),
            judges=make_judges(),
            trainer=trainer,
            settings=Settings(**{**settings, "batch_size": 5, "round_trip": 4, **changes}),
            root=root,
        )

    return run


@pytest.mark.parametrize("model", [GAUSSIAN, PATCHES], ids=lambda model: model.name)
def test_a_run_measures_samples_and_controls_but_no_domain_of_its_own(
    make: MakeRun, model: AnalyticModel
) -> None:
    run = make(model)
    promised = sum(stage.evaluations for stage in work_of(run.targets))
    assert promised == (20 + 4 + 8) * 2
    assert "in all 64 evaluations" in run.estimate().text()
    outcome = run.run()
    names = [row.name for row in outcome.rows]
    assert names == ["cog (2)", REAL, "lerp in pixels", "cog (2) in pixels"]
    assert all("captured" not in row.figures for row in outcome.rows)
    assert outcome.rows[0].figures["kid"] is not None
    assert len(outcome.in_domain) == 0
    assert outcome.weights == ("", "")
    assert [stage.name for stage in outcome.stages].count("fit model") == 1
    assert not any(stage.images for stage in work_of(make(model).targets))


@pytest.mark.parametrize("model", [GAUSSIAN, PATCHES], ids=lambda model: model.name)
def test_pure_noise_is_decoded(make: MakeRun, model: AnalyticModel) -> None:
    run = make(model, sampler=StandardSampler(), step=999, eta=0.5)
    images = run.sampled().images.take(range(8))
    assert images.isfinite().all()
    assert float(images.std(0).mean()) > 0.01


def test_mixtures_along_the_linear_flow_of_a_gaussian_are_mixtures_of_pixels(
    make: MakeRun,
) -> None:
    run = make(
        GAUSSIAN, sampler=CogSampler(references=3), solver=MultistepSolver(steps=100, power=2)
    )
    made = run.sampled().images.take(range(8))
    (control,) = (each for each in run.controls if each.sampler is run.sampler)
    torch.testing.assert_close(made, control.sampled().images.take(range(8)), rtol=0, atol=0.01)


def test_the_fit_is_of_the_few_shot_images_alone(make: MakeRun) -> None:
    run = make()
    run.session.obtain(run.inversion)
    denoiser = run.flow.networks["denoiser"]
    assert isinstance(denoiser, PatchDenoiser)
    few_shot = torch.stack([run.domain.few_shot[i] for i in range(20)])
    assert torch.equal(denoiser.images.permute(3, 0, 1, 2), few_shot)
    assert run.codec.networks == {}
    with pytest.raises(TypeError, match="before it is fitted"):
        _ = PATCHES.denoiser


def test_what_it_is_fitted_to_and_its_settings_are_in_the_key(make: MakeRun) -> None:
    others = [replace(PATCHES, **change) for change in ({"least": 2}, {"growth": 1}, {"shift": 1})]
    runs = [make(), make(few_shot=19), *(make(model) for model in others), make(GAUSSIAN)]
    for name in ("inversion", "samples", "draws"):
        digests = [getattr(run, name).output.digest for run in runs]
        assert len(set(digests)) == len(digests)
    # the settings do not change what is stored of the images
    fits = [run.fitted_model[0].output.digest for run in runs]
    assert len(set(fits)) == 3
    assert make().inversion.output.digest == make(seed=5).inversion.output.digest
    renamed = replace(PATCHES, name="mine")
    assert renamed.digest == PATCHES.digest


def test_a_batch_changes_no_sample(make: MakeRun, tmp_path: Path) -> None:
    one = make().sampled().images.take(range(8))
    run = make(batch_size=2)
    other = replace(run, session=replace(run.session, root=tmp_path)).sampled().images
    assert torch.equal(one, other.take(range(8)))


def test_another_process_takes_the_flow_as_it_is(make: MakeRun) -> None:
    run = make()
    run.session.obtain(run.inversion)
    x_0 = torch.stack([run.domain.few_shot[i] for i in range(2)])
    there = pickle.loads(pickle.dumps(run.flow))  # noqa: S301 made here
    assert there.identity == run.flow.identity
    assert torch.equal(there.encode(x_0, [400])[400], run.flow.encode(x_0, [400])[400])


def test_a_part_of_the_images_is_searched_along_a_flow_of_its_own(make: MakeRun) -> None:
    run = make(few_shot=50, num_samples=16)
    steps, samplers = [400], [CogSampler(references=2), CogSampler(references=3)]
    choice = Search(**{**SEARCH, "samples": [16]}).choose(run, steps=steps, samplers=samplers)
    assert {trial.point.retention for trial in choice.trials} == {1.0}
    assert choice.step == 400


def test_a_frontier_is_measured(make: MakeRun) -> None:
    run, samplers = make(num_samples=12), {"cog_2": CogSampler(references=2)}
    study = FrontierStudy(steps=[400], samplers=samplers, controls=samplers, etas=[0.0])
    check_metrics(study, run)
    study.check(run)
    measured = study.measure(run)
    assert all("captured" not in row for row in measured.rows)
    assert study.conclude(measured.rows)
    assert study.draw(measured.rows, measured.pictures).axes


def test_what_needs_a_domain_of_its_own_is_refused(make: MakeRun) -> None:
    run = make()
    with pytest.raises(ValueError, match="correction must be none for analytic_patches: it is"):
        _ = replace(run, correction=make_correction()).targets
    # a weight of 0 is no correction
    none = replace(run, correction=make_correction(weight=0.0))
    assert none.samples.output.digest == run.samples.output.digest
    asking = make(sampler=SlerpSampler("in_domain", 20))
    with pytest.raises(ValueError, match="analytic_patches has no domain of its own"):
        _ = asking.targets
    study = SearchStudy.__new__(SearchStudy)
    with pytest.raises(ValueError, match="study search needs a model with a domain of its own"):
        check_metrics(study, run)


def test_any_model_may_say_that_it_has_no_domain_of_its_own(make: MakeRun) -> None:
    class Untrained(ExactModel):
        has_own_domain = False

    run = make(Untrained(0.0, 1.0))
    assert run.in_domain_nodes == []
    assert [row.name for row in run.references()] == [REAL]
    assert "captured" not in run.sample_row().figures
    with pytest.raises(ValueError, match="exact has no domain of its own"):
        _ = run.in_domain
    assert make(ExactModel(0.0, 1.0)).in_domain_nodes


def test_impossible_numbers_are_refused(make: MakeRun) -> None:
    for change, message in (
        ({"least": -1}, r"model\.least must be >= 0 and finite, got -1"),
        ({"growth": float("inf")}, r"model\.growth must be >= 0 and finite, got inf"),
        ({"shift": 16}, r"model\.shift must be a whole number in 0\.\.15, got 16"),
        ({"resolution": 0}, r"model\.resolution must be a whole number >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(PATCHES, **change)
    three = make(GAUSSIAN, few_shot=5)
    small = replace(three, domain=replace(three.domain, few_shot=Part(three.domain.few_shot, [0])))
    with pytest.raises(ValueError, match="needs at least 4 few-shot images, got 1: add"):
        small.session.obtain(small.fitted_model[0])


def test_a_stand_in_is_timed(make: MakeRun) -> None:
    for model in (GAUSSIAN, PATCHES):
        codec = make(model).codec
        assert isinstance(codec, FewShotCodec)
        timed, z = codec.timed(7), torch.randn(2, 3, RESOLUTION, RESOLUTION)
        assert timed.probe(z).shape == z.shape
        shapes = [
            {name: value.shape for name, value in state.items()}
            for state in (model.stand_in(20), model.fit(taken(make(model).domain.few_shot)))
        ]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ["analytic_gaussian", "analytic_patches"])
def test_a_command_reports_without_a_domain_of_its_own(tmp_path: Path, name: str) -> None:
    settings = [f"model={name}", "data=galaxy32", "inversion.step=400", "measure.round_trip=4"]
    execute_tiny(None, tmp_path, *settings)
    found = json.loads((tmp_path / "found" / "metrics.json").read_text())
    assert found["run"]["model"] == name
    assert "in-domain samples" not in [row["name"] for row in found["rows"]]
    assert "weights sha256 before" not in found["protocol"]
    page = (tmp_path / "found" / "report.html").read_text()
    # it was fitted to these images, and has no samples of its own
    assert "own samples" not in page
    assert "never saw" not in page
    assert "trained on other images" not in page
    assert "frozen" not in page.partition("<script")[0]
    assert f"The control {name} was fitted to the few-shot images themselves" in page
