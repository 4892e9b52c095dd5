"""Runs along the corrected flow."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ood_sampler.codecs.base import Codec
from ood_sampler.data.domain import Part
from ood_sampler.diffusion.correction import CorrectedDenoiser
from ood_sampler.diffusion.gaussian import fit_gaussian
from ood_sampler.pipeline.correction import GaussianCorrection
from ood_sampler.pipeline.estimate import work_of
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.pipeline.search import Search
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.store.node import Node
from ood_sampler.store.sets import InMemory
from tests.conftest import RESOLUTION, make_correction, smooth_images
from tests.test_pipeline import count_evaluations, domain, inverted, pipeline
from tests.test_run import execute_tiny
from tests.test_search import SETTINGS

MakeRun = Callable[..., Pipeline]


@pytest.fixture(scope="module")
def make(
    model_folder: Path, trainer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> MakeRun:
    shared = tmp_path_factory.mktemp("artifacts")

    def run(
        correction: GaussianCorrection | None = None,
        *,
        root: Path = shared,
        **changes: Any,  # noqa: ANN401
    ) -> Pipeline:
        given = {"eta": 0.0, "num_samples": 12, "round_trip": 4, "in_domain": 8, **changes}
        made = pipeline(model_folder, root, trainer, **given)
        return replace(made, correction=correction)

    return run


def digests(run: Pipeline) -> dict[str, list[str]]:
    return {
        node.title: [output.digest for output in node.outputs.values()]
        for node in (run.inversion, run.fit, run.draws, run.samples, run.in_domain)
    }


def test_a_run_without_a_correction_is_what_it_was(make: MakeRun) -> None:
    plain = make()
    assert plain.flow is plain.codec
    assert plain.plain is plain
    assert plain.gaussians == []
    # a weight of 0 is no correction, and has the same results
    none = make(make_correction(weight=0.0))
    assert not none.is_corrected
    assert digests(none) == digests(plain)
    assert none.title == plain.title == "cog (2), t = 400"


def test_what_the_correction_depends_on_is_in_the_key(make: MakeRun) -> None:
    corrections = [
        None,
        make_correction(),
        make_correction(weight=0.5),
        make_correction(fade=0),
        make_correction(in_domain=10),
    ]
    runs = [make(correction) for correction in corrections]
    fewer = replace(domain(), few_shot=domain().held_out)
    runs.append(replace(make(make_correction()), domain=fewer))
    for name in ("inversion", "samples"):
        found = [getattr(run, name).output.digest for run in runs]
        assert len(set(found)) == len(found)
    # but the model's own domain is what it is, and so is the control
    assert len({run.in_domain.output.digest for run in runs}) == 1
    assert len({run.controls[0].samples.output.digest for run in runs[:-1]}) == 1
    assert runs[1].title == "cog (2), t = 400, correction 1"


def test_the_seed_of_a_run_does_not_change_its_flow(make: MakeRun) -> None:
    runs = [make(make_correction(), seed=seed) for seed in (0, 5)]
    assert len({run.inversion.output.digest for run in runs}) == 1


def test_the_estimate_counts_the_samples_that_the_correction_needs(
    make: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(make_correction(in_domain=10), root=tmp_path)
    work = work_of(run.targets)
    # samples for the Gaussian have the seed 0, those to compare with that of the run
    assert [(stage.name, stage.images) for stage in work] == [
        ("in-domain", 10),
        ("invert", 66),
        ("reconstruct", 4),
        ("decode", 12),
        ("in-domain", 8),
    ]
    calls = count_evaluations(run, monkeypatch)
    outcome = run.run()
    assert sum(calls) == sum(stage.evaluations for stage in work)
    names = [stage.name for stage in outcome.stages]
    assert names.count("fit Gaussian") == 2
    again = work_of(make(make_correction(in_domain=10), root=tmp_path).targets)
    assert sum(stage.evaluations for stage in again) == 0
    # with the seed of the Gaussian the same samples serve both
    shared = work_of(make(make_correction(in_domain=10), root=tmp_path / "0", seed=0).targets)
    assert [stage.images for stage in shared if stage.name == "in-domain"] == [10]
    # the plain flow has latents of its own
    left = work_of(make(root=tmp_path).targets)
    assert [s.name for s in left if s.evaluations] == ["invert", "reconstruct", "decode"]


def test_the_estimate_times_the_operator_of_the_correction(
    make: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: dict[type, tuple[int, ...]] = {}

    def seconds(codec: Codec, *_: object, **__: object) -> float:
        denoiser = codec.networks["denoiser"]
        if isinstance(denoiser, CorrectedDenoiser):
            noise = torch.randn(2, 3, RESOLUTION, RESOLUTION)
            assert codec.probe(noise).isfinite().all()
            counts = (len(denoiser.target.deviations), len(denoiser.own.deviations))
            timed[CorrectedDenoiser] = counts
            return 3.0
        timed[type(denoiser)] = ()
        return 1.0

    monkeypatch.setattr("ood_sampler.pipeline.pipeline.seconds_per_evaluation", seconds)
    estimate = make(make_correction(in_domain=10), root=tmp_path).estimate()
    # before there is any Gaussian, ones of as many images stand in for them
    assert timed.pop(CorrectedDenoiser) == (66, 10)
    assert len(timed) == 1
    assert estimate.seconds_per_evaluation == 1
    assert estimate.others == {"tiny, corrected": 3}
    corrected = [w.name for w in estimate.work if w.network and w.network.name != "tiny"]
    assert corrected == ["invert", "reconstruct", "decode"]
    assert "evaluations of tiny, corrected" in estimate.text()


def test_the_gaussians_are_those_of_the_pictures_and_of_samples(make: MakeRun) -> None:
    run = make(make_correction(), seed=0)
    run.session.obtain(run.inversion)
    few_shot = torch.stack([run.domain.few_shot[i] for i in range(66)])
    own = run.in_domain
    run.session.obtain(own)
    alpha, sigma = run.model.schedule.scales(50)
    for node, images in zip(
        run.gaussians, (few_shot, own.output.open().take(range(8))), strict=True
    ):
        expected = fit_gaussian(InMemory(images), noise=(sigma / alpha) ** 2)
        found = load_file(node.output.path)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    assert run.about_gaussians.startswith("Gaussian of the target: 66 images, shrinkage 0.")


def test_pictures_of_the_models_own_domain_take_the_place_of_samples(
    make: MakeRun, tmp_path: Path
) -> None:
    for i, pixels in enumerate(smooth_images(9, 4)):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    correction = make_correction(in_domain_root=str(tmp_path))
    run = make(correction, root=tmp_path / "artifacts")
    run.check()
    own = run.gaussians[1]
    assert (own.of, own.count) == ("the model's own domain", 8)
    assert list(own.inputs) == []
    run.session.obtain(own)
    assert own.missing_items() == 0
    assert run.inversion.output.digest != make(make_correction()).inversion.output.digest


def test_a_part_of_the_pictures_is_searched_along_a_flow_of_its_own(
    make: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(make_correction(), root=tmp_path, num_samples=16)
    steps, samplers = [100, 400], [CogSampler(references=2), CogSampler(references=3)]
    search = Search(**{**SETTINGS, "samples": [16]})
    targets: list[Node] = [
        *search.targets(run, steps=steps, samplers=samplers),
        run.in_domain,
    ]
    promised = sum(stage.evaluations for stage in work_of(targets))
    calls = count_evaluations(run, monkeypatch)
    choice = search.choose(run, steps=steps, samplers=samplers)
    assert sum(calls) == promised + choice.evaluations
    fit, _ = search.split(66, seed=run.settings.seed)
    whole = replace(run, settings=replace(run.settings, step=400))
    run.session.obtain(whole.inversion)
    part = search._candidates(run, steps, samplers)[-1]
    latents = part.inversion.outputs["400"].open().take(range(len(fit)))
    of_whole = whole.inversion.output.open().take(fit)
    assert float((latents - of_whole).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": -1.0}, r"correction\.weight must be >= 0 and finite, got -1\.0"),
        ({"weight": float("nan")}, r"correction\.weight must be >= 0 and finite, got nan"),
        ({"fade": 1.5}, r"correction\.fade must be a whole number >= 0, got 1\.5"),
        ({"in_domain": 3}, r"correction\.in_domain must be a whole number >= 4, got 3"),
    ],
)
def test_impossible_numbers_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_correction(**changes)


def test_what_does_not_fit_model_or_data_is_refused(make: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"correction\.fade must be in 0\.\.998, got 999"):
        make(make_correction(fade=999)).check()
    three = replace(domain(), few_shot=Part(domain().few_shot, range(3)))
    with pytest.raises(ValueError, match="needs at least 4 few-shot images, got 3: add"):
        replace(make(make_correction()), domain=three).check()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        make(make_correction(in_domain_root="nowhere")).check()
    Image.new("RGB", (RESOLUTION, RESOLUTION)).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match=r"in_domain_root must hold at least 4 .* got 1 in"):
        make(make_correction(in_domain_root=str(tmp_path))).check()


def test_latents_differ_and_decode_back(make: MakeRun) -> None:
    plain, corrected = make(), make(make_correction())
    assert float((inverted(plain) - inverted(corrected)).abs().max()) > 0.01
    errors = []
    for run in (plain, corrected):
        originals, decoded = run.reconstructed()
        errors.append(float((originals.take(range(4)) - decoded.take(range(4))).square().mean()))
    assert errors[1] < 3 * errors[0]


def test_another_process_takes_the_flow_as_it_is(make: MakeRun) -> None:
    run = make(make_correction())
    x_0 = torch.stack([run.domain.few_shot[i] for i in range(2)])
    run.session.obtain(run.inversion)
    there: Codec = pickle.loads(pickle.dumps(run.flow))  # noqa: S301 made here
    assert there.identity == run.flow.identity
    assert torch.equal(there.encode(x_0, [400])[400], run.flow.encode(x_0, [400])[400])


def test_a_command_with_a_correction_names_it(model_folder: Path, tmp_path: Path) -> None:
    command = ["inversion.step=300", "measure.round_trip=4", "data=galaxy32"]
    given = ["correction=gaussian", "correction.in_domain=8", "sampler=white"]
    execute_tiny(model_folder, tmp_path, *command, *given)
    found = json.loads((tmp_path / "found" / "metrics.json").read_text())
    assert found["run"]["correction"] == "gaussian (weight 1, fade 100)"
    assert found["run"]["sampler"] == "white"
    assert "Gaussian of the target: 40 images" in found["protocol"]["correction"]
    assert "gaussian (weight 1, fade 100)" in (tmp_path / "found" / "report.html").read_text()
    execute_tiny(model_folder, tmp_path, *command)
    found = json.loads((tmp_path / "found" / "metrics.json").read_text())
    assert "correction" not in {**found["run"], **found["protocol"]}
