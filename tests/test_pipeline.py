import functools
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ood_sampler.data.domain import TargetDomain, TensorImages, embedded_domain
from ood_sampler.diffusion.noise import SampleNoise, Stream
from ood_sampler.diffusion.solvers import (
    BdiaSolver,
    DdimSolver,
    FixedPointSolver,
    HeunSolver,
    MultistepSolver,
    Solver,
)
from ood_sampler.metrics.kernel import jackknife
from ood_sampler.metrics.opinions import as_judged, of_judge, plain
from ood_sampler.models.frozen import FrozenModel, checksum
from ood_sampler.modules.prediction import ShardWriter
from ood_sampler.modules.trainer import lightning_trainer
from ood_sampler.pipeline.estimate import work_of
from ood_sampler.pipeline.measure import REAL
from ood_sampler.pipeline.pipeline import Pipeline, check_codec
from ood_sampler.pipeline.session import Session
from ood_sampler.pipeline.settings import Settings
from ood_sampler.record import results, write_run
from ood_sampler.report.tables import IN_DOMAIN
from ood_sampler.samplers.base import Sampler
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.samplers.slerp import SlerpSampler
from ood_sampler.store.artifacts import SHARD
from tests.conftest import RESOLUTION, make_judges, make_pipeline, smooth_images
from tests.faults.processes import end, start

SETTINGS: dict[str, Any] = {
    "step": 400,
    "eta": 0.3,
    "clip_x_0": False,
    "num_samples": 70,
    "seed": 3,
    "batch_size": 16,
}


def domain() -> TargetDomain:
    few_shot, held_out = smooth_images(66, 0), smooth_images(40, 1)
    return TargetDomain(
        name="smooth",
        few_shot=TensorImages(few_shot, [f"few{i}" for i in range(66)], resolution=RESOLUTION),
        held_out=TensorImages(held_out, [f"held{i}" for i in range(40)], resolution=RESOLUTION),
    )


def pipeline(
    folder: Path,
    root: Path,
    trainer: Callable[..., Any],
    *,
    sampler: Sampler | None = None,
    solver: Solver | None = None,
    also: tuple[int, ...] = (),
    **changes: Any,  # noqa: ANN401
) -> Pipeline:
    return make_pipeline(
        model=FrozenModel(name="tiny", path=str(folder), resolution=RESOLUTION),
        domain=domain(),
        solver=solver or DdimSolver(steps=5, power=1),
        sampler=sampler or CogSampler(references=2),
        judges=make_judges(nearest_k=5),
        trainer=trainer,
        settings=Settings(**{**SETTINGS, **changes}),
        root=root,
        also=also,
    )


def count_evaluations(run: Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by the batch size at each call of the network."""
    calls: list[int] = []
    original = run.model.denoiser.eps

    def counted(x_t: Tensor, t: Tensor) -> Tensor:
        calls.append(len(x_t))
        return original(x_t, t)

    monkeypatch.setattr(run.model.denoiser, "eps", counted)
    return calls


def all_images(run: Pipeline) -> Tensor:
    return torch.cat(list(run.run().images.blocks()))


def inverted(run: Pipeline) -> Tensor:
    run.session.obtain(run.inversion)
    latents: Tensor = run.inversion.output.open().take(range(66))
    return latents


def anew(run: Pipeline) -> Session:
    """A session that has recorded nothing, in the same folder."""
    return Session(run.session.root, run.session.trainer)


def artifact_bytes(root: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in sorted(root.rglob("*.safetensors"))
    }


@pytest.fixture(scope="module")
def reference(
    model_folder: Path, trainer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Artifacts of an undisturbed run."""
    root = tmp_path_factory.mktemp("reference")
    pipeline(model_folder, root, trainer).run()
    return root


def test_a_run_measures_the_strategy_both_references_and_the_controls(
    model_folder: Path, trainer: Callable[..., Any], reference: Path
) -> None:
    outcome = pipeline(model_folder, reference, trainer).run()

    assert [row.name for row in outcome.rows] == [
        "cog (2)",
        REAL,
        IN_DOMAIN,
        "lerp in pixels",
        "cog (2) in pixels",
    ]
    assert len(outcome.images) == 70
    for row in outcome.rows:
        assert all(value is not None for value in row.figures.values())
    assert outcome.rows[1].figures["kid"] < outcome.rows[2].figures["kid"]
    assert len(outcome.reconstruction["psnr"]) == 66


def test_references_cost_no_more_than_is_asked_for(
    model_folder: Path,
    trainer: Callable[..., Any],
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = pipeline(model_folder, tmp_path, trainer, round_trip=9, in_domain=20)
    expected = [stage.evaluations for stage in work_of(run.targets)]
    calls = count_evaluations(run, monkeypatch)
    outcome = run.run()
    assert expected == [66 * 2, 9 * 2, 70 * 2, 20 * 5]
    assert sum(calls) == sum(expected)

    whole = pipeline(model_folder, reference, trainer).run()
    few, many = ([row.figures for row in made.rows] for made in (outcome, whole))
    assert outcome.reconstruction["psnr"] == pytest.approx(whole.reconstruction["psnr"][:9])
    # on some processors a small batch has other last digits
    few_own, own = (made.in_domain.take(range(20)) for made in (outcome, whole))
    torch.testing.assert_close(few_own, own, rtol=0, atol=1e-4)
    assert [row.samples for row in outcome.rows] == [70, 66, 20, 70, 70]
    # fewer images make FID, recall and coverage worse: rows of fewer than the samples have none
    biased = {
        f"{key}{end}" for key in ("fid", "recall", "coverage") for end in ("", "_low", "_high")
    }
    assert many[2].keys() - few[2].keys() == biased
    assert few[0].keys() - few[1].keys() == biased
    # of the strategy's scores, capture alone refers to the in-domain samples
    differing = {key for key in few[0] if few[0][key] != many[0][key]}
    assert {key.removesuffix("_low").removesuffix("_high") for key in differing} <= {"captured"}


def test_a_run_of_few_samples_makes_no_more_of_its_own_domain(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    run = pipeline(model_folder, tmp_path, trainer, num_samples=12, in_domain=128)
    assert run.in_domain.count == 12


def test_evaluations_are_those_of_the_grid_and_no_more(
    model_folder: Path,
    trainer: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = pipeline(model_folder, tmp_path, trainer)
    expected = [stage.evaluations for stage in work_of(run.targets)]
    calls = count_evaluations(run, monkeypatch)
    run.run()
    assert expected == [66 * 2, 66 * 2, 70 * 2, 70 * 5]
    # T=1000 in 5 intervals: step 400 is two away from clean data, step 999 five
    assert sum(calls) == 66 * 2 + 66 * 2 + 70 * 2 + 70 * 5


def test_a_repeated_run_computes_nothing_and_finds_the_same(
    model_folder: Path,
    trainer: Callable[..., Any],
    reference: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = artifact_bytes(reference)
    run = pipeline(model_folder, reference, trainer)
    monkeypatch.setattr("ood_sampler.pipeline.session.compute", None)
    outcome = run.run()
    assert all(stage.cached for stage in outcome.stages if stage.name != "measure")
    assert artifact_bytes(reference) == before


def test_a_control_in_pixels_is_compared_with_the_models_own_domain(
    model_folder: Path, trainer: Callable[..., Any], reference: Path
) -> None:
    run = pipeline(model_folder, reference, trainer)
    control = run.in_pixels(CogSampler(references=2))
    assert control.in_domain.output.digest == run.in_domain.output.digest
    features = run.in_domain_features
    assert set(features) == {"features32"}
    assert torch.equal(control.in_domain_features["features32"], features["features32"])
    # as a run measures its controls, with the samples of the model
    expected = run.measure.row(control.title, "control", control.sampled().described)
    assert control.sample_row() == expected


def test_the_estimate_is_of_what_is_left_to_do(
    model_folder: Path, trainer: Callable[..., Any], reference: Path, tmp_path: Path
) -> None:
    fresh = pipeline(model_folder, tmp_path, trainer).estimate()
    assert [stage.name for stage in fresh.work] == ["invert", "reconstruct", "decode", "in-domain"]
    assert fresh.batch_size == 16
    assert fresh.seconds_per_evaluation > 0
    # all files of a run but the PNGs, which hold a byte a value, and headers and keys
    stored = sum(len(data) for data in artifact_bytes(reference).values())
    pngs = 70 * 3 * RESOLUTION**2
    assert fresh.disk - pngs == pytest.approx(stored, rel=0.1)

    # of 140 samples there are 70 in one whole shard and one that is too short
    more = pipeline(model_folder, reference, trainer, num_samples=140).estimate()
    assert [stage.images for stage in more.work] == [0, 0, 76, 76]
    done = pipeline(model_folder, reference, trainer).estimate()
    assert sum(stage.evaluations for stage in done.work) == 0
    assert done.seconds_per_evaluation == 0
    assert done.disk == pngs


@pytest.mark.parametrize(
    ("resolution", "machine", "expected"),
    [
        (32, "cpu 32-true", 64),
        (32, "cuda 32-true", 64),
        (64, "cpu 32-true", 16),
        (256, "cpu bf16-mixed", 1),
        (256, "cuda bf16-mixed", 16),
        (512, "cpu 32-true", 1),
    ],
)
def test_the_batch_size_suits_resolution_and_device(
    model_folder: Path,
    trainer: Callable[..., Any],
    tmp_path: Path,
    resolution: int,
    machine: str,
    expected: int,
) -> None:
    run = pipeline(model_folder, tmp_path, trainer, batch_size=None)
    run = replace(run, model=replace(run.model, resolution=resolution))  # type: ignore[type-var]
    vars(run.session)["machine"] = machine
    assert run.batch_size == expected
    given = replace(run.settings, batch_size=7)
    assert replace(run, settings=given).batch_size == 7


def test_a_sweep_over_steps_inverts_once(
    model_folder: Path,
    trainer: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = pipeline(model_folder, tmp_path, trainer, also=(300, 400, 700))
    calls = count_evaluations(first, monkeypatch)
    first.session.obtain(first.inversion)
    assert sum(calls) == 66 * 4  # as many as step 700 alone: -1, 199, 399, 599

    for step in (300, 700):
        later = pipeline(model_folder, tmp_path, trainer, step=step)
        calls = count_evaluations(later, monkeypatch)
        stored = inverted(later)
        assert calls == []
        alone = pipeline(model_folder, tmp_path / "alone", trainer, step=step)
        assert torch.equal(stored, inverted(alone))


@pytest.mark.parametrize(
    "solver",
    [
        FixedPointSolver(steps=5, power=1, iterations=2),
        MultistepSolver(steps=5, power=1),
        BdiaSolver(steps=5, power=1),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_evaluations_of_a_sweep_are_those_of_the_solver(
    model_folder: Path,
    trainer: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    solver: Solver,
) -> None:
    run = pipeline(
        model_folder, tmp_path, trainer, solver=solver, also=(300, 420, 700), eta=0.0, batch_size=64
    )
    expected = [stage.evaluations for stage in work_of(run.targets)]
    calls = count_evaluations(run, monkeypatch)
    run.session.obtain(run.inversion)
    assert sum(calls) == expected[0]
    run.session.obtain(run.reconstructions)
    assert sum(calls) == sum(expected[:2])


def test_results_of_another_solver_are_not_taken_for_its_own(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    solvers = [
        DdimSolver(steps=5, power=1),
        DdimSolver(steps=5, power=2),
        DdimSolver(steps=5, power=1, noise_at="target"),
        HeunSolver(steps=5, power=1),
        BdiaSolver(steps=5, power=1),
        BdiaSolver(steps=5, power=1, gamma=0.5),
    ]
    runs = [pipeline(model_folder, tmp_path, trainer, solver=solver) for solver in solvers]
    assert len({run.inversion.output.digest for run in runs}) == len(solvers)
    assert len({run.in_domain.output.digest for run in runs}) == len(solvers)


def test_all_that_images_depend_on_is_in_their_key(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"eta": 0.0},
        {"eta": 0.6},
        {"clip_x_0": True},
        {"step": 500},
        {"seed": 4},
        {"sampler": CogSampler(references=3)},
    ]
    runs = [pipeline(model_folder, tmp_path, trainer, **change) for change in changes]
    assert len({run.samples.output.digest for run in runs}) == len(changes)
    elsewhere = pipeline(model_folder, tmp_path, trainer)
    vars(elsewhere.session)["machine"] = "cuda 32-true"
    assert elsewhere.inversion.output.digest != runs[0].inversion.output.digest
    assert elsewhere.in_domain.output.digest != runs[0].in_domain.output.digest
    # neither the number of images nor of those in a forward pass
    more = pipeline(model_folder, tmp_path, trainer, num_samples=90, batch_size=3)
    assert more.samples.output.digest == runs[0].samples.output.digest


def test_each_latent_is_drawn_from_the_noise_of_its_number(
    model_folder: Path, trainer: Callable[..., Any], reference: Path
) -> None:
    run = pipeline(model_folder, reference, trainer)
    run.session.obtain(run.draws)
    drawn = run.draws.output.open()
    for number in (0, 63, SHARD, 69):
        noise = SampleNoise(run.settings.seed, [number], stream=Stream.LATENT)
        expected = run.sampler.draw(run.fitted, run.inverted, noise)
        torch.testing.assert_close(drawn.take([number]), expected, rtol=0, atol=1e-5)


def embedded_samples(root: Path, trainer: Callable[..., Any], batch_size: int) -> Tensor:
    run = make_pipeline(
        model=FrozenModel(name="dog32", path="dog32", resolution=32),
        domain=embedded_domain(name="galaxy32", resolution=32, few_shot=66, held_out=10),
        solver=DdimSolver(steps=5, power=1),
        sampler=CogSampler(references=2),
        judges=make_judges(nearest_k=5),
        trainer=trainer,
        settings=Settings(**{**SETTINGS, "batch_size": batch_size}),
        root=root,
    )
    run.session.obtain(run.samples)
    return torch.cat(list(run.samples.output.open().blocks()))


def test_samples_do_not_depend_on_the_batch_size(
    trainer: Callable[..., Any], tmp_path: Path
) -> None:
    # the shipped model: rounding differs with the batch, and a trained network does not amplify it
    one, seven, all_at_once = (
        embedded_samples(tmp_path / str(size), trainer, size) for size in (1, 7, 64)
    )
    torch.testing.assert_close(one, all_at_once, rtol=0, atol=1e-5)
    torch.testing.assert_close(seven, all_at_once, rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_gives_the_samples_of_the_cpu(trainer: Callable[..., Any], tmp_path: Path) -> None:
    gpu = functools.partial(lightning_trainer, accelerator="gpu", devices=1, tf32=False)
    expected = embedded_samples(tmp_path / "cpu", trainer, 64)
    found = embedded_samples(tmp_path / "gpu", gpu, 64)
    # float32 sums in another order, through 2 evaluations and as many back
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_samples(
    model_folder: Path, trainer: Callable[..., Any], reference: Path, tmp_path: Path
) -> None:
    pipeline(model_folder, tmp_path / "same", trainer).run()
    assert artifact_bytes(tmp_path / "same") == artifact_bytes(reference)
    expected = all_images(pipeline(model_folder, reference, trainer))
    other = all_images(pipeline(model_folder, tmp_path / "other", trainer, seed=4))
    assert (other - expected).abs().max() > 0.05


def test_more_samples_continue_the_samples_that_are_there(
    model_folder: Path, trainer: Callable[..., Any], reference: Path, tmp_path: Path
) -> None:
    expected = all_images(pipeline(model_folder, reference, trainer))
    all_images(pipeline(model_folder, tmp_path, trainer, num_samples=SHARD))
    grown = all_images(pipeline(model_folder, tmp_path, trainer, num_samples=70))
    torch.testing.assert_close(grown, expected, rtol=0, atol=1e-5)


class Noting(nn.Module):
    """Write down the step and the image of each question, from whatever process."""

    def __init__(self, network: nn.Module, file: Path) -> None:
        super().__init__()
        self.network = network
        self.file = file

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        images = [hashlib.sha256(x.numpy().tobytes()).hexdigest() for x in x_t.contiguous()]
        with self.file.open("a") as lines:
            lines.writelines(f"{int(t[0])} {image}\n" for image in images)
        prediction: Tensor = self.network(x_t, t)
        return prediction


@pytest.mark.slow
def test_two_processes_give_the_samples_of_one_and_compute_nothing_twice(
    model_folder: Path, trainer: Callable[..., Any], reference: Path, tmp_path: Path
) -> None:
    two = functools.partial(
        trainer.func,  # type: ignore[attr-defined]
        accelerator="cpu",
        devices=2,
        strategy="ddp_spawn",
        precision="32-true",
    )
    expected = all_images(pipeline(model_folder, reference, trainer))
    # two shards to invert, one for each; one shard to decode, none for the second process
    run = pipeline(model_folder, tmp_path, two, num_samples=40)
    denoiser: Any = run.model.denoiser
    denoiser.network = Noting(denoiser.network, tmp_path / "asked.txt")
    run.session.obtain(run.samples)
    samples = run.samples.output.open()
    asked = [line.split() for line in (tmp_path / "asked.txt").read_text().splitlines()]
    for step, images in (("0", 66), ("400", 40)):
        of_step = [image for at, image in asked if at == step]
        assert len(of_step) == len(set(of_step)) == images
    torch.testing.assert_close(samples.take(range(40)), expected[:40], rtol=0, atol=1e-5)


def deadly(run: Pipeline, calls: int) -> None:
    """Run, and die at the n-th call of the network, in a fork alone."""
    writers: list[ShardWriter] = []
    begin, original, left = ShardWriter.on_predict_start, run.model.denoiser.eps, calls

    def remember(self: ShardWriter, *arguments: Any) -> None:  # noqa: ANN401
        writers.append(self)
        begin(self, *arguments)

    def eps(x_t: Tensor, t: Tensor) -> Tensor:
        nonlocal left
        left -= 1
        if left == 0:
            # not in the middle of a write, which tests/faults has
            writers[-1].finish()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(x_t, t)

    ShardWriter.on_predict_start = remember  # type: ignore[method-assign]
    run.model.denoiser.eps = eps  # type: ignore[method-assign]
    run.run()


@pytest.mark.slow
def test_a_run_killed_in_each_stage_ends_with_the_bytes_of_an_undisturbed_one(
    model_folder: Path, trainer: Callable[..., Any], reference: Path, tmp_path: Path
) -> None:
    # 66 images in batches of 16 are 5 batches, the fifth in a second shard. The shard that was
    # being computed is lost each time, those before it are not: so each kill falls one stage on.
    kills = [9, 4 * 2 + 3, 2 + 9, 2 + 4 * 5 + 3]
    root = tmp_path / "artifacts"
    seen: list[int] = []
    for calls in kills:
        run = pipeline(model_folder, root, trainer)
        process = start(lambda run=run, calls=calls: deadly(run, calls), tmp_path / "log")
        assert end(process) == -signal.SIGKILL, (tmp_path / "log").read_text()
        seen.append(len(artifact_bytes(root)))
    assert seen == sorted(set(seen))  # every attempt left more shards than the one before
    pipeline(model_folder, root, trainer).run()
    assert artifact_bytes(root) == artifact_bytes(reference)
    assert not list(root.rglob(".*"))


def test_a_network_that_returns_nan_names_the_picture_and_keeps_finished_shards(
    model_folder: Path,
    trainer: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = pipeline(model_folder, tmp_path, trainer)
    original = run.model.denoiser.eps
    last = run.domain.few_shot[65]

    def faulty(x_t: Tensor, t: Tensor) -> Tensor:
        eps = original(x_t, t).clone()
        eps[[bool((x == last).all()) for x in x_t]] = torch.nan
        return eps

    monkeypatch.setattr(run.model.denoiser, "eps", faulty)
    with pytest.raises(ValueError, match=r"NaN or infinity for the latent .* few65"):
        run.run()
    assert [file.name for file in tmp_path.rglob("*.safetensors")] == ["000000.safetensors"]


def test_the_control_mixes_the_same_pictures_as_the_strategy(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    run = pipeline(model_folder, tmp_path, trainer, sampler=SlerpSampler(partner="pair", points=20))
    names = [type(control.sampler).__name__ for control in run.controls]
    assert names == ["LerpSampler", "CogSampler", "SlerpSampler"]
    run = pipeline(model_folder, tmp_path, trainer, sampler=CogSampler(references=3, cap=0.6))
    assert vars(run.controls[-1].sampler) == {"references": 3, "cap": 0.6, "among": None}
    run = pipeline(
        model_folder, tmp_path, trainer, sampler=SlerpSampler(partner="gaussian", points=20)
    )
    assert len(run.controls) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 1000}, r"inversion\.step must be in 0\.\.999"),
        ({"step": -1}, r"inversion\.step must be in 0\.\.999"),
        ({"solver": DdimSolver(steps=1001, power=1)}, r"solver\.steps must be in 1\.\.1000"),
        (
            {"solver": HeunSolver(steps=5, power=1)},
            r"decode\.eta must be 0 for HeunSolver, got 0\.3",
        ),
        ({"num_samples": 5}, r"num_samples must be more than metrics\.nearest_k=5"),
        ({"sampler": CogSampler(references=67)}, "needs at least 67 few-shot images, got 66"),
    ],
)
def test_mistakes_are_found_before_the_network_is_loaded(
    model_folder: Path,
    trainer: Callable[..., Any],
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ood_sampler.models.frozen.load_checkpoint", None)
    with pytest.raises(ValueError, match=message):
        pipeline(model_folder, tmp_path, trainer, **changes).run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eta": -0.1}, "eta must be >= 0"),
        ({"eta": float("nan")}, "eta must be >= 0"),
        ({"num_samples": 0}, "num_samples must be >= 1"),
        ({"batch_size": 0}, "batch_size must be a whole number >= 1"),
        ({"seed": -1}, "seed must be in"),
        ({"round_trip": 0}, "measure.round_trip must be a whole number >= 1 or null"),
        ({"in_domain": 1.5}, "measure.in_domain must be a whole number >= 1 or null"),
    ],
)
def test_settings_refuse_impossible_numbers(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**{**SETTINGS, **changes})


def test_more_samples_than_the_disk_holds_are_refused(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(OSError, match="lower num_samples"):
        pipeline(model_folder, tmp_path, trainer, num_samples=10**13).run()


@pytest.mark.parametrize("prediction", ["v_prediction", "sample", "epsilon"])
def test_a_model_of_zero_terminal_snr_samples_its_own_domain_from_its_noisiest_step(
    prediction: str, model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "zero")
    file = folder / "scheduler" / "scheduler_config.json"
    scheduler = json.loads(file.read_text())
    scheduler |= {"prediction_type": prediction, "rescale_betas_zero_snr": True}
    file.write_text(json.dumps(scheduler))
    run = pipeline(folder, tmp_path / "artifacts", trainer, num_samples=6, step=998)
    images = run.in_domain_images().take(range(6))
    assert run.codec.last_level == (998 if prediction == "epsilon" else 999)
    assert images.isfinite().all()
    assert images.abs().max() <= 1
    assert images.std() > 0.05
    check_codec(run.codec, run.settings, [], resolution=RESOLUTION)
    message = r"inversion\.step must be (at most 998|in 0\.\.998 .*), got 999"
    with pytest.raises(ValueError, match=message):
        check_codec(run.codec, replace(run.settings, step=999), [], resolution=RESOLUTION)


def test_the_weights_are_those_of_before(
    model_folder: Path, trainer: Callable[..., Any], reference: Path
) -> None:
    from safetensors.torch import load_file

    run = pipeline(model_folder, reference, trainer)
    before, after = run.run().weights
    assert before == after
    # of the network that was used, and that of the file
    assert before == checksum(run.model.denoiser)
    stored = load_file(model_folder / "unet" / "diffusion_pytorch_model.safetensors")
    used = list(run.model.denoiser.state_dict().values())
    assert all(any(torch.equal(x, y) for y in used) for x in stored.values())


def test_each_judge_gives_the_figures_that_it_gives_alone(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    run = pipeline(model_folder, tmp_path, trainer, num_samples=8)
    both = replace(
        run, judges=make_judges("features32", "imagenet", nearest_k=5), session=anew(run)
    )
    rows = both.run().rows
    extractor = both.judges[1].extractor
    samples, held_out = (
        extractor(torch.stack(list(images)))
        for images in (torch.cat(list(run.samples.output.open().blocks())), run.domain.held_out)
    )
    expected = jackknife(samples, held_out)
    assert rows[0].figures["imagenet/kid"] == pytest.approx(float(expected.value), rel=1e-4)
    for row in rows[1:]:
        for prefix in ("", "imagenet/"):
            above = row.figures[f"{prefix}kid"] - rows[0].figures[f"{prefix}kid"]  # type: ignore[operator]
            assert row.figures[f"{prefix}kid_above"] == pytest.approx(above, rel=1e-6, abs=1e-9)
    alone = {row.name: row for row in run.run().rows}
    second = replace(run, judges=make_judges("imagenet", nearest_k=5), session=anew(run))
    other = {row.name: row for row in second.run().rows}
    for row in rows:
        shown = as_judged(row.figures, None)
        assert {key: shown[key] for key in alone[row.name].figures} == alone[row.name].figures
        seen = as_judged(row.figures, "imagenet")
        assert {key: seen[key] for key in other[row.name].figures} == other[row.name].figures
        # a dash where one judge can tell what the other cannot
        known = {plain(key) for key in row.figures}
        assert {key for key in known if of_judge("imagenet", key) not in row.figures} == {
            *("blend_pair", "blend_pair_low", "blend_pair_high"),
            *("blend_five", "blend_five_low", "blend_five_high"),
        }


def test_few_in_domain_samples_are_all_shown(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    run = pipeline(model_folder, tmp_path / "store", trainer, num_samples=12, in_domain=6)
    outcome = run.run()
    choices = {"sampler": "cog", "solver": "ddim"}
    found = results(run, outcome, choices=choices, notes=[], choice=None)
    write_run(tmp_path, run, outcome, found, None)
    page = (tmp_path / "report.html").read_text()
    assert page.count('alt="in-domain sample ') == 6
    assert (tmp_path / "samples" / "attribution.csv").read_text().startswith("file,rank,few_shot,")
