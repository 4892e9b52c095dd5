"""Runs whose inversion begins with noise."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ood_sampler.codecs.pixels import PixelCodec
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.pipeline.estimate import work_of
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.studies.in_domain import Sources
from tests.test_pipeline import count_evaluations, inverted, pipeline
from tests.test_search import SAMPLERS, search

MakeRun = Callable[..., Pipeline]


@pytest.fixture(scope="module")
def make(
    model_folder: Path, trainer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> MakeRun:
    shared = tmp_path_factory.mktemp("artifacts")

    def run(noised_moves: int = 0, *, root: Path = shared, **changes: Any) -> Pipeline:  # noqa: ANN401
        given = {"eta": 0.0, "num_samples": 12, "round_trip": 4, "in_domain": 8, **changes}
        return pipeline(model_folder, root, trainer, noised_moves=noised_moves, **given)

    return run


def test_their_number_and_the_seed_are_in_the_key_of_latents_alone(make: MakeRun) -> None:
    runs = [make(), make(1), make(2), make(1, seed=4)]
    assert len({run.inversion.output.digest for run in runs}) == 4
    assert len({run.samples.output.digest for run in runs}) == 4
    assert len({run.in_domain.output.digest for run in runs[:3]}) == 1
    assert len({run.controls[0].samples.output.digest for run in runs[:3]}) == 1
    # without them no latent depends on the seed
    assert make(seed=4).inversion.output.digest == runs[0].inversion.output.digest
    assert runs[1].title == "cog (2), t = 400, noised moves = 1"
    assert runs[0].title == "cog (2), t = 400"


def test_each_latent_has_the_noise_of_its_number(make: MakeRun, tmp_path: Path) -> None:
    # five intervals over the chain: all moves to step 400 are replaced
    run = make(5)
    found, few_shot = inverted(run), run.domain.few_shot
    for number in (0, 15, 65):
        noise = SampleNoise(3, [number], stream=Stream.INVERT).normal(*few_shot[0].shape)[0]
        expected = run.model.schedule.diffuse(few_shot[number], noise, 400)
        torch.testing.assert_close(found[number], expected, rtol=0, atol=1e-6)
    others = inverted(make(1, root=tmp_path, batch_size=5))
    torch.testing.assert_close(others, inverted(make(1)), rtol=0, atol=1e-5)
    assert float((others - found).abs().max()) > 0.1


def test_the_cost_is_what_is_asked(
    make: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(1, root=tmp_path)
    work = {stage.name: stage.evaluations for stage in work_of(run.targets)}
    calls = count_evaluations(run, monkeypatch)
    run.session.obtain(run.inversion)
    assert sum(calls) == work["invert"] == 66
    assert run.inversion_evaluations([400]) == 1
    assert make().inversion_evaluations([400]) == 2


def test_the_models_own_domain_has_noise_of_its_own(make: MakeRun) -> None:
    sources = Sources([400], 12, None)
    run = make(5)
    own = replace(sources.in_domain(run), domain=sources.few_shot(run).domain)
    latents = []
    for each in (sources.few_shot(run), own):
        each.session.obtain(each.inversion)
        latents.append(each.inversion.output.open().take(range(12)))
    sigma = run.model.schedule.scales(400)[1]
    apart = (latents[0] - latents[1]) / sigma
    assert float(apart.std()) == pytest.approx(2**0.5, rel=0.05)


def test_a_search_inverts_the_images_to_fit_anew(make: MakeRun) -> None:
    run = make(1)
    plain = search().targets(make(), steps=(400,), samplers=SAMPLERS)
    (needed,) = search().targets(run, steps=(400,), samplers=SAMPLERS)
    assert plain == []
    assert needed.name == "invert"
    assert needed.count == 66 - round(0.4 * 66)
    assert needed.output.digest != run.inversion.output.digest


def test_what_does_not_fit_is_refused(make: MakeRun) -> None:
    with pytest.raises(ValueError, match=r"inversion\.noised_moves must be a whole number >= 0"):
        make(-1)
    run = make(1)
    without = replace(run, codec=PixelCodec(run.image_shape))
    with pytest.raises(
        ValueError, match=r"noised_moves must be 0 for a model without steps, got 1"
    ):
        replace(without, settings=replace(run.settings, step=0)).check()
