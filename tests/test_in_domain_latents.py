"""Latents of the model's own domain, which the recipe of the paper's code asks for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ood_sampler.pipeline.estimate import work_of
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.samplers.rejection import RejectionSampler
from ood_sampler.samplers.slerp import IN_DOMAIN_IMAGES
from ood_sampler.store.node import Node
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


def own(run: Pipeline) -> Node:
    """Latents of the model's own domain that the strategy asks for."""
    assert run.in_domain_inversion is not None
    return run.in_domain_inversion


def asked(run: Pipeline) -> Node:
    """The samples that these are latents of."""
    (node,) = own(run).inputs
    return node


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
    work = work_of(run.targets)
    asked_for = {w.name: (w.images, w.evaluations_each) for w in work}
    assert asked_for["in-domain"] == (IN_DOMAIN_IMAGES, 5)
    assert asked_for["invert in-domain"] == (IN_DOMAIN_IMAGES, 2)
    disk = run.estimate().disk
    calls = count_evaluations(run, monkeypatch)
    run.sampled()
    assert sum(calls) == sum(w.evaluations for w in work if w.name != "reconstruct")
    assert [w.name for w in work_of(run.targets) if w.images] == ["reconstruct"]
    assert run.estimate().disk <= disk - 4 * IN_DOMAIN_IMAGES * 3 * 16 * 16

    pictures = torch.cat(list(asked(run).output.open().blocks()))
    with torch.no_grad():
        latents = run.codec.encode(pictures, [400])[400]
    state = run.sampler.fit(run.inverted)
    torch.testing.assert_close(state["mean"], latents.mean(0), rtol=0, atol=1e-4)
    spread = latents.double().var(0).mean().sqrt().float()
    torch.testing.assert_close(state["std"], spread.expand(3, 16, 16), rtol=1e-4, atol=0)


def test_they_are_as_many_however_few_a_run_compares_with(make_run: MakeRun) -> None:
    few, many = make_run(in_domain=20), make_run()
    assert few.in_domain.count == 20
    assert own(few).count == IN_DOMAIN_IMAGES
    assert few.fit.output.path == many.fit.output.path
    assert asked(few).count == IN_DOMAIN_IMAGES


def test_samples_depend_on_neither_their_number_nor_the_batch(make_run: MakeRun) -> None:
    def samples(run: Pipeline) -> Tensor:
        return torch.cat(list(run.sampled().images.blocks()))

    whole = samples(make_run())
    assert torch.equal(samples(make_run(num_samples=7, batch_size=3)), whole[:7])


def test_an_interrupted_inversion_goes_on(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    run.sampled()
    latents = own(run).output
    before = artifact_bytes(latents.folder)
    latents.shard_path(2).unlink()
    again = make_run()
    assert [w.images for w in work_of([own(again)])][-1] == latents.shard
    calls = count_evaluations(again, monkeypatch)
    again.sampled()
    assert sum(calls) == 2 * latents.shard
    assert artifact_bytes(latents.folder) == before


def test_other_strategies_do_without(make_run: MakeRun) -> None:
    other = make_run(sampler=None)
    assert other.inverted.in_domain is None
    assert other.in_domain_inversion is None
    assert [work.name for work in work_of(other.targets)][3:] == ["in-domain"]


def test_runs_that_ask_alike_are_counted_once(make_run: MakeRun) -> None:
    runs = [make_run(seed=9, step=step) for step in (400, 400, 800)]
    nodes = [make_run(seed=9, sampler=None).in_domain, *map(own, runs)]
    assert [(w.images, w.evaluations_each) for w in work_of(nodes)] == [
        (256, 5),
        (256, 2),
        (256, 4),
    ]
