"""Temperature of draws and the first move of decoding."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.pipeline.estimate import work_of
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.samplers.base import Fitted, InvertedSet, Sampler
from ood_sampler.samplers.gaussian import GaussianSampler
from tests.conftest import make_correction
from tests.test_pipeline import count_evaluations, inverted, pipeline
from tests.test_run import execute_tiny

MakeRun = Callable[..., Pipeline]


class FirstSampler(Sampler):
    """A strategy of a user's own, which knows of no temperature."""

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        return inverted.latents.take([0 for _ in noise.indices])


@pytest.fixture(scope="module")
def make(
    model_folder: Path, trainer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> MakeRun:
    shared = tmp_path_factory.mktemp("artifacts")

    def run(*, root: Path = shared, **changes: Any) -> Pipeline:  # noqa: ANN401
        given = {"eta": 0.0, "num_samples": 12, "round_trip": 4, "in_domain": 8, **changes}
        return pipeline(model_folder, root, trainer, **given)

    return run


def drawn(run: Pipeline) -> Tensor:
    for node in (*run.inversions, run.fit, run.draws):
        run.session.obtain(node)
    latents: Tensor = run.draws.output.open().take(range(run.draws.count))
    return latents


def decoded(run: Pipeline) -> Tensor:
    run.sampled()
    images: Tensor = run.samples.output.open().take(range(run.samples.count))
    return images


def keys(run: Pipeline) -> list[str]:
    nodes = (run.inversion, run.fit, run.draws, run.samples, run.reconstructions, run.in_domain)
    controls = [control.samples for control in run.controls]
    return [node.output.digest for node in (*nodes, *controls)]


def changed(run: Pipeline, other: Pipeline) -> list[str]:
    names = ["inversion", "fit", "draws", "samples", "reconstructions", "in_domain"]
    names += ["control"] * len(run.controls)
    return [name for name, a, b in zip(names, keys(run), keys(other), strict=True) if a != b]


def test_what_depends_on_a_setting_has_another_key_and_nothing_else(make: MakeRun) -> None:
    usual = make()
    assert changed(usual, make(temperature=1.0, shift=0)) == []
    assert changed(usual, make(temperature=0.9)) == ["draws", "samples"]
    assert changed(make(temperature=0.9), make(temperature=1.1)) == ["draws", "samples"]
    assert changed(usual, make(shift=50)) == ["samples"]
    assert usual.title == "cog (2), t = 400"
    assert make(temperature=0.9, shift=-50, eta=0.3).title == (
        "cog (2), t = 400, eta = 0.3, temperature = 0.9, shift = -50"
    )


@pytest.mark.parametrize("sampler", [None, FirstSampler(), GaussianSampler(covariance="scalar")])
def test_draws_of_any_strategy_lie_nearer_to_the_mean(
    make: MakeRun, sampler: Sampler | None
) -> None:
    usual, cooler = (drawn(make(sampler=sampler, temperature=tau)) for tau in (1.0, 0.8))
    mean = inverted(make()).double().mean(0)
    expected = mean + 0.8 * (usual.double() - mean)
    torch.testing.assert_close(cooler.double(), expected, rtol=1e-5, atol=1e-5)
    assert float((cooler - usual).abs().max()) > 0.01


def test_a_shift_decodes_draws_as_latents_of_another_step(
    make: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the grid of 5 intervals has 199 and 399 below 400, and 599 below 700
    run = make(shift=300)
    work = {stage.name: stage.evaluations_each for stage in work_of([run.samples])}
    asked = run.codec.decoding_evaluations(700)
    assert work["decode"] == asked > run.codec.decoding_evaluations(400)
    z = drawn(run)
    calls = count_evaluations(run, monkeypatch)
    images = decoded(run)
    assert sum(calls) == 12 * asked
    expected = run.codec.decode(z, 700).clamp(-1, 1)
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(z, drawn(make()))


def test_the_first_move_alone_differs_within_an_interval(make: MakeRun) -> None:
    # from 400 and 430 the next point is 199: of the moves that follow, the input alone differs
    run = make(shift=30)
    z = drawn(run)
    denoiser, schedule = run.model.denoiser, run.model.schedule
    alpha, sigma = schedule.scales(430)
    below, noise = schedule.scales(199)
    with torch.no_grad():
        eps = denoiser.eps(z, torch.tensor(430))
        x_s = below * (z - sigma * eps) / alpha + noise * eps
    expected = run.codec.decode(x_s, 199).clamp(-1, 1)
    torch.testing.assert_close(decoded(run), expected, rtol=1e-4, atol=1e-4)


def test_both_go_with_the_corrected_flow(make: MakeRun) -> None:
    run = replace(make(temperature=0.9, shift=30), correction=make_correction())
    assert decoded(run).isfinite().all()
    expected = run.flow.decode(drawn(run), 430).clamp(-1, 1)
    torch.testing.assert_close(decoded(run), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, r"draw\.temperature must be > 0 and finite, got 0"),
        ({"temperature": float("inf")}, r"draw\.temperature must be > 0 and finite, got inf"),
        ({"shift": 600}, r"decode\.shift=600 leads from step 400 to 1000, where decoding cannot"),
        ({"shift": -401}, r"decode\.shift=-401 leads from step 400 to -1, where decoding cannot"),
    ],
)
def test_settings_out_of_range_are_refused(
    make: MakeRun, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes).check()


def test_a_command_names_them(model_folder: Path, tmp_path: Path) -> None:
    command = ["inversion.step=300", "measure.round_trip=4", "data=galaxy32"]
    execute_tiny(model_folder, tmp_path, *command, "draw.temperature=0.9", "decode.shift=-40")
    found = json.loads((tmp_path / "found" / "metrics.json").read_text())
    assert (found["run"]["temperature"], found["run"]["shift"]) == (0.9, -40)
    execute_tiny(model_folder, tmp_path, *command)
    found = json.loads((tmp_path / "found" / "metrics.json").read_text())
    assert not {"temperature", "shift"} & found["run"].keys()
