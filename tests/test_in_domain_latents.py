"""Latents of the model's own domain, which the recipe of the paper's code asks for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ood_sampler.pipeline.X import in_domain_work
from torch import Tensor

from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.samplers.rejection import RejectionSampler
from ood_sampler.samplers.slerp import IN_DOMAIN_IMAGES
from tests.test_pipeline import artifact_bytes, count_evaluations, pipeline

SAMPLER = RejectionSampler(
    "in_domain",
    attempts=50,
    references=10,
    distance=None,
    origin_angle=None,
    pair_angle=None,
    tolerance=0.25,
    distance_tolerance=1e9,
    origin_angle_tolerance=180.0,
    pair_angle_tolerance=180.0,
)
MakeRun = Callable[..., Pipeline]


@pytest.fixture(scope="module")
def make_run(
    model_folder: Path, trainer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> MakeRun:
    root = tmp_path_factory.mktemp("artifacts")

    def run(**changes: Any) -> Pipeline:  # noqa: ANN401
        return pipeline(model_folder, root, trainer, **{"sampler": SAMPLER, **changes})

    return run


def test_they_cost_what_was_said_and_are_fitted_as_inverted(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    work = run.plan.work()
    assert [(w.name, w.images, w.evaluations_each) for w in work[3:]] == [
        ("in-domain", IN_DOMAIN_IMAGES, 5),
        ("invert in-domain", IN_DOMAIN_IMAGES, 2),
    ]
    disk = run.plan.disk()
    calls = count_evaluations(run, monkeypatch)
    run.sampled()
    assert sum(calls) == sum(w.evaluations for w in work if w.name != "reconstruct")
    assert [w.name for w in run.plan.work() if w.images] == ["reconstruct"]
    assert run.plan.disk() <= disk - 4 * IN_DOMAIN_IMAGES * 3 * 16 * 16

    pictures = torch.cat(list(run.plan.asked().in_domain().open().blocks()))
    with torch.no_grad():
        latents = run.solver.invert(run.model.denoiser, pictures, [400])[400]
    state = run.sampler.fit(run.inverted())
    torch.testing.assert_close(state["mean"], latents.mean(0), rtol=0, atol=1e-4)
    spread = latents.double().var(0).mean().sqrt().float()
    torch.testing.assert_close(state["std"], spread.expand(3, 16, 16), rtol=1e-4, atol=0)


def test_they_are_as_many_however_few_a_run_compares_with(make_run: MakeRun) -> None:
    few, many = make_run(in_domain=20).plan, make_run().plan
    assert few.in_domain().count == 20
    assert few.in_domain_inversion().count == IN_DOMAIN_IMAGES
    assert few.fit_path() == many.fit_path()
    assert few.asked().in_domain().count == IN_DOMAIN_IMAGES


def test_samples_depend_on_neither_their_number_nor_the_batch(make_run: MakeRun) -> None:
    def samples(run: Pipeline) -> Tensor:
        return torch.cat(list(run.sampled()[0].open().blocks()))

    whole = samples(make_run())
    assert torch.equal(samples(make_run(num_samples=7, batch_size=3)), whole[:7])


def test_an_interrupted_inversion_goes_on(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    run.sampled()
    latents = run.plan.in_domain_inversion()
    before = artifact_bytes(latents.folder)
    latents.shard_path(2).unlink()
    again = make_run()
    assert again.plan.work()[-1].images == latents.shard
    calls = count_evaluations(again, monkeypatch)
    again.sampled()
    assert sum(calls) == 2 * latents.shard
    assert artifact_bytes(latents.folder) == before


def test_other_strategies_do_without(make_run: MakeRun) -> None:
    other = make_run(sampler=None)
    assert other.inverted().in_domain is None
    assert "in_domain" not in other.plan.fit_key()
    assert [work.name for work in other.plan.work()][3:] == ["in-domain"]


def test_runs_that_ask_alike_are_counted_once(make_run: MakeRun) -> None:
    plans = [make_run(seed=9, sampler=None).plan]
    plans += [make_run(seed=9, step=step).plan for step in (400, 400, 800)]
    assert [(w.name, w.images, w.evaluations_each) for w in in_domain_work(plans)] == [
        ("in-domain", 256, 5),
        ("invert in-domain", 256, 2),
        ("invert in-domain", 256, 4),
    ]
