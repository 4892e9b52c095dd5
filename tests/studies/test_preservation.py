import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ood_sampler.data.domain import TargetDomain, TensorImages
from ood_sampler.diffusion.solvers import DdimSolver
from ood_sampler.metrics.authenticity import authenticity
from ood_sampler.metrics.frechet import infinitesimal_jackknife
from ood_sampler.metrics.kernel import kernel_distance
from ood_sampler.metrics.prdc import precision_recall_density_coverage
from ood_sampler.models.frozen import FrozenModel, checksum
from ood_sampler.modules.adapters import AdapterTuning
from ood_sampler.modules.finetuning import FineTuning, Tuned
from ood_sampler.pipeline.estimate import work_of
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.pipeline.settings import Settings
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.store.artifacts import Items
from ood_sampler.store.node import Node
from ood_sampler.studies.base import Measured
from ood_sampler.studies.preservation import PreservationStudy
from ood_sampler.studies.tuned import fine_tuned, tuning_folder
from tests.conftest import RESOLUTION, make_judges, make_pipeline, smooth_images
from tests.studies.conftest import work_left
from tests.test_pipeline import count_evaluations

SETTINGS = FineTuning(
    steps=4,
    learning_rate=0.01,
    batch_size=4,
    validate_every=2,
    patience=3,
    validation_share=0.25,
    ema_decay=0.9,
)
STUDY = PreservationStudy(fine_tuning=SETTINGS)


def pipeline(folder: Path, root: Path, trainer: Callable[..., Any]) -> Pipeline:
    def pictures(count: int, seed: int) -> TensorImages:
        names = [str(i) for i in range(count)]
        return TensorImages(smooth_images(count, seed), names, resolution=RESOLUTION)

    return make_pipeline(
        model=FrozenModel(name="tiny", path=str(folder), resolution=RESOLUTION),
        domain=TargetDomain(name="smooth", few_shot=pictures(12, 0), held_out=pictures(12, 1)),
        solver=DdimSolver(steps=4, power=1),
        sampler=CogSampler(references=2),
        judges=make_judges(nearest_k=3),
        trainer=trainer,
        settings=Settings(step=400, eta=0.0, clip_x_0=False, num_samples=10, seed=0, batch_size=16),
        root=root,
    )


def described(node: Node, run: Pipeline) -> Tensor:
    """Features of all images of a node that was made."""
    images = node.output
    found = run.describe("images", Items(images.open()), images.digest, range(images.count))
    return found.headline


def with_real_features(run: Pipeline) -> Pipeline:
    """The same run with stored features of the model's own domain."""
    file = "features32/dog_test_features.safetensors"
    features = {run.judges.headline.name: file}
    return replace(run, model=replace(run.model, in_domain_features=features))  # type: ignore[type-var]


def fid(features: Tensor, reference: Tensor) -> float:
    return float(infinitesimal_jackknife(features, reference).value)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def measured(model_folder: Path, trainer: Callable[..., Any], root: Path) -> Measured:
    run = pipeline(model_folder, root, trainer)
    STUDY.check(run)
    return STUDY.measure(run)


def test_the_frozen_model_is_bit_for_bit_the_same_and_the_copy_is_not(
    measured: Measured, model_folder: Path
) -> None:
    before, after, tuned = measured.rows
    model = FrozenModel(name="tiny", path=str(model_folder), resolution=RESOLUTION)
    assert before["sha256"] == after["sha256"] == checksum(model.denoiser)
    assert tuned["sha256"] != before["sha256"]
    assert after["identical"] == 1
    assert tuned["identical"] == 0
    for key in ("in_domain_fid", "in_domain_kid", "in_domain_kid_low", "reference", "samples"):
        assert before[key] == after[key]
        assert key == "reference" or key == "samples" or tuned[key] != before[key]


def test_figures_are_those_of_the_samples_that_they_name(
    measured: Measured, model_folder: Path, trainer: Callable[..., Any], root: Path
) -> None:
    run = pipeline(model_folder, root, trainer)
    other, _ = fine_tuned(run, SETTINGS)
    held_out = run.held_out.headline
    few_shot = run.few_shot.headline
    # of pure noise, against the frozen model's samples of another seed
    another = replace(run, settings=replace(run.settings, seed=1))
    own = described(another.in_domain, run)
    noise, target, strayed = (
        described(node, run) for node in (run.in_domain, run.samples, other.in_domain)
    )
    pairs = zip(((noise, noise), (noise, target), (strayed, strayed)), measured.rows, strict=True)
    for (from_noise, samples), row in pairs:
        assert row["reference"] == "samples of another seed"
        assert row["in_domain_fid"] == pytest.approx(fid(from_noise, own))
        assert row["in_domain_kid"] == pytest.approx(float(kernel_distance(from_noise, own)))
        assert row["fid"] == pytest.approx(fid(samples, held_out))
        assert row["kid"] == pytest.approx(float(kernel_distance(samples, held_out)))
        scores = precision_recall_density_coverage(held_out, samples, nearest_k=3)
        assert row["precision"] == pytest.approx(float(scores.precision))
        assert row["recall"] == pytest.approx(float(scores.recall))
        assert row["authenticity"] == pytest.approx(float(authenticity(samples, few_shot)))
    before, after, tuned = measured.rows
    assert tuned["damage"] == pytest.approx(tuned["in_domain_kid"] - before["in_domain_kid"])
    assert tuned["cost"] == pytest.approx(tuned["kid"] - after["kid"])
    assert tuned["damage_low"] < tuned["damage"] < tuned["damage_high"]


def test_the_loss_is_that_of_the_kept_weights(measured: Measured) -> None:
    before, after, tuned = measured.rows
    losses = {step: validation for step, _, validation in tuned["curve"]}
    assert list(losses) == [0, 2, 4]
    assert before["held_out_loss"] == after["held_out_loss"] == losses[0]
    assert tuned["held_out_loss"] == losses[tuned["best_step"]] == min(losses.values())
    assert tuned["last_step"] == 4
    # three looks without a lower loss would be needed, and there are three in all
    assert tuned["stopped"] is False


def test_the_work_is_what_is_left_to_do(
    model_folder: Path, trainer: Callable[..., Any], root: Path, measured: Measured, tmp_path: Path
) -> None:
    fresh = work_left(STUDY, pipeline(model_folder, tmp_path, trainer))
    # a grid of four intervals, two of them up to step 400
    assert [(work.name, work.evaluations) for work in fresh] == [
        ("invert", 12 * 2),
        ("decode", 10 * 2),
        ("in-domain", 10 * 4),
        ("in-domain: another seed", 10 * 4),
        ("in-domain after", 10 * 4),
        ("fine-tune", 4 * 4 * 3),
        ("in-domain, fine-tuned", 10 * 4),
    ]
    # samples after are decoded in every run
    run = pipeline(model_folder, root, trainer)
    done = {work.name: work.evaluations for work in work_left(STUDY, run) if work.evaluations}
    assert done == {"in-domain after": 10 * 4}
    other = [work.name for work in work_left(STUDY, with_real_features(run))]
    assert "in-domain: another seed" not in other


def test_the_network_does_what_was_said(
    model_folder: Path, trainer: Callable[..., Any], root: Path, measured: Measured, tmp_path: Path
) -> None:
    # all but the fine-tuning, whose evaluations are told in other units, is left to do
    run = pipeline(model_folder, tmp_path, trainer)
    kept, here = (
        tuning_folder(pipeline(model_folder, at, trainer), SETTINGS) for at in (root, tmp_path)
    )
    shutil.copytree(kept, here)
    promised = sum(work.evaluations for work in work_left(STUDY, run))
    other, _ = fine_tuned(run, SETTINGS)
    (own,) = (work.evaluations for work in work_of([other.in_domain]))
    other.in_domain_images()
    with pytest.MonkeyPatch.context() as patch:
        calls = count_evaluations(run, patch)
        STUDY.measure(run)
    assert sum(calls) == promised - own


def test_samples_after_are_decoded_in_every_run_and_for_every_domain(
    model_folder: Path, trainer: Callable[..., Any], root: Path, measured: Measured
) -> None:
    run = pipeline(model_folder, root, trainer)
    domain = replace(run.domain, name="second")
    for again in (run, replace(run, domain=domain)):
        with pytest.MonkeyPatch.context() as patch:
            calls = count_evaluations(again, patch)
            rows = STUDY.measure(again).rows
        assert sum(calls) == 10 * 4
        assert rows[1]["identical"] == 1
        assert not list(root.glob("after*"))


def test_weights_that_a_run_changes_are_found_though_all_is_stored(
    model_folder: Path,
    trainer: Callable[..., Any],
    root: Path,
    measured: Measured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = pipeline(model_folder, root, trainer)

    def careless(pipeline: Pipeline, settings: FineTuning) -> tuple[Pipeline, Tuned]:
        made = fine_tuned(pipeline, settings)
        network: Any = pipeline.model.denoiser.network
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.1)
        return made

    monkeypatch.setattr("ood_sampler.studies.preservation.fine_tuned", careless)
    before, after, tuned = STUDY.measure(run).rows
    assert after["identical"] == 0
    assert after["sha256"] != before["sha256"]
    assert after["in_domain_kid"] != before["in_domain_kid"]
    # the copy was made before that
    assert tuned["sha256"] == measured.rows[2]["sha256"]
    assert not list(root.glob("after*"))


def test_stored_features_of_real_pictures_are_the_reference(
    model_folder: Path, trainer: Callable[..., Any], root: Path, measured: Measured
) -> None:
    run = pipeline(model_folder, root, trainer)
    known = STUDY.measure(with_real_features(run))
    assert {row["reference"] for row in known.rows} == {"real images"}
    assert known.rows[0]["in_domain_fid"] != measured.rows[0]["in_domain_fid"]
    assert known.rows[0]["fid"] == measured.rows[0]["fid"]


def test_images_of_the_copy_are_its_own(
    model_folder: Path, trainer: Callable[..., Any], root: Path, measured: Measured
) -> None:
    run = pipeline(model_folder, root, trainer)
    other, tuned = fine_tuned(run, SETTINGS)
    assert other.model.digest != run.model.digest
    assert other.in_domain.output.folder != run.in_domain.output.folder
    assert other.inversion.output.folder != run.inversion.output.folder
    assert other.noise.output.digest == run.noise.output.digest
    more, again = fine_tuned(run, replace(SETTINGS, steps=5))
    assert again.weights != tuned.weights
    assert more.model.digest != other.model.digest


def test_an_adapter_is_a_fourth_method(
    model_folder: Path, trainer: Callable[..., Any], root: Path, measured: Measured, tmp_path: Path
) -> None:
    study = PreservationStudy(
        fine_tuning=SETTINGS, adapter=AdapterTuning(**asdict(SETTINGS), rank=2, alpha=2.0)
    )
    run = pipeline(model_folder, root, trainer)
    study.check(run)
    left = [(work.name, work.evaluations) for work in work_left(study, run) if work.evaluations]
    assert left == [
        ("in-domain after", 10 * 4),
        ("fine-tune, adapter", 4 * 4 * 3),
        ("in-domain, adapter", 10 * 4),
    ]
    rows = study.measure(run).rows
    before, after, tuned, adapted = rows
    assert [row["method"] for row in rows][2:] == ["fine-tuned", "adapter"]
    # the others are as without it
    for row, known in zip(rows[:3], measured.rows, strict=True):
        assert row["sha256"] == known["sha256"]
        assert row["in_domain_kid"] == known["in_domain_kid"]
    assert before["sha256"] == after["sha256"] != adapted["sha256"] != tuned["sha256"]
    assert adapted["held_out_loss"] <= before["held_out_loss"]
    assert adapted["damage"] == pytest.approx(adapted["in_domain_kid"] - before["in_domain_kid"])
    sentences = study.conclude(rows)
    assert "an adapter of rank 2, alpha 2, (held-out loss" in sentences[3]
    assert "on the target, an adapter of rank 2, alpha 2, has FID" in sentences[4]
    assert len(sentences) == 5
    assert len(study.draw(rows, study.measure(run).pictures).axes) == 3
    folders = [tuning_folder(run, settings) for settings in (SETTINGS, study.adapter)]  # type: ignore[arg-type]
    assert folders[0] != folders[1]
    assert (folders[1] / "adapter.safetensors").stat().st_size < (
        folders[1] / "weights.safetensors"
    ).stat().st_size


def row(method: str, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    made: dict[str, Any] = {
        "model": "dogs",
        "domain": "cats",
        "run": "1",
        "method": method,
        "samples": 50,
        "reference": "real images",
        "in_domain_fid": 20.0,
        "fid": 30.0,
        "precision": 0.5,
        "recall": 0.5,
        "authenticity": 0.5,
        "made_by": "cog at t = 500" if method == "frozen, after" else "pure noise",
        "identical": 1.0,
        "sha256": "a" * 64,
        "weights": "a" * 12,
        "held_out_loss": 0.05,
    }
    if method == "fine-tuned":
        made |= {"best_step": 25, "last_step": 50, "stopped": True}
        made |= {"fine_tuning": asdict(SETTINGS)}
        made |= interval("damage", 0.001) | interval("cost", -0.001)
    return {**made, **changes}


def interval(key: str, value: float) -> dict[str, float]:
    return {key: value, f"{key}_low": value - 0.002, f"{key}_high": value + 0.002}


def group(**tuned: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    return [row("frozen, before"), row("frozen, after"), row("fine-tuned", **tuned)]


def test_conclusions_say_what_is_beyond_the_errors() -> None:
    preserved, damage, cost = STUDY.conclude(group())
    assert "unchanged (SHA-256 aaaaaaaaaaaa…)" in preserved
    assert "50 of 50 samples" in preserved
    # 1 with an interval that reaches 2: four times as many as 50
    more = "within error, too few images to say, about 200 samples would do (num_samples))"
    assert f"differs by +1 (-1 to +3: {more}" in damage
    assert f"differs by -1 (-3 to +1: {more}" in cost
    _, damage, cost = STUDY.conclude(group(**interval("damage", 0.003), **interval("cost", -0.003)))
    assert "differs by +3 (+1 to +5: higher)" in damage
    assert "differs by -3 (-5 to -1: lower)" in cost


def test_a_training_that_its_limit_ended_is_told() -> None:
    assert "kept at step 25 of 50) takes" in STUDY.conclude(group())[1]
    # looks since the best were in vain, though fewer than patience
    assert "25 of 50, the limit) takes" in STUDY.conclude(group(stopped=False))[1]
    sentence = STUDY.conclude(group(stopped=False, best_step=50))[1]
    assert "50 of 50, the limit: it was still improving) takes" in sentence


def test_changed_weights_are_shouted() -> None:
    rows = [row("frozen, before"), row("frozen, after", sha256="b" * 64, weights="b" * 12)]
    sentence = STUDY.conclude([*rows, row("fine-tuned")])[0]
    assert "the weights CHANGED from aaaaaaaaaaaa… to bbbbbbbbbbbb…" in sentence


def test_several_domains_are_counted() -> None:
    others = [{**r, "domain": "ships"} for r in group(**interval("cost", 0.003))]
    sentence = STUDY.conclude([*group(**interval("damage", 0.003)), *others])[-1]
    assert sentence.startswith("Of 2 domains, fine-tuning damages the original one")
    assert "in 1 and makes the target better than the frozen model does in 0; it" in sentence
    assert sentence.endswith(
        "improves the original one in 0 and makes the target worse in 1; too few images to say of "
        "the original one in 1, of the target in 1."
    )


def test_runs_of_one_domain_are_told_apart_by_their_settings() -> None:
    faster = group(fine_tuning={**asdict(SETTINGS), "learning_rate": 0.02}, best_step=10)
    faster = [{**row, "run": "2"} for row in faster]
    sentences = STUDY.conclude([*group(), *faster])
    assert sentences[1].startswith("dogs for cats, learning_rate 0.01: fine-tuning")
    assert "kept at step 25 of 50" in sentences[1]
    assert sentences[4].startswith("dogs for cats, learning_rate 0.02: fine-tuning")
    assert "kept at step 10 of 50" in sentences[4]
    assert sentences[6].startswith("Of 2 runs, fine-tuning damages")
    # what differs is not among the settings, as a seed is not
    again = STUDY.conclude([*group(), *({**row, "run": "2"} for row in group())])
    assert again[0].startswith("dogs for cats, run 1: the frozen")
    assert again[3].startswith("dogs for cats, run 2: the frozen")


def test_the_figure_has_a_line_of_panels_for_each_domain(measured: Measured) -> None:
    assert {label.split("/")[0] for label in measured.pictures} == {"smooth"}
    others = [{**r, "domain": "cats"} for r in measured.rows]
    first = next(iter(measured.pictures))
    weights = measured.rows[2]["weights"]
    assert first == f"smooth/cog (2) at t = 400, {weights}/frozen, from noise"
    cats: dict[str, Tensor] = {first.replace("smooth", "cats"): torch.zeros(3, 3, 4, 4)}
    figure = STUDY.draw([*measured.rows, *others], {**measured.pictures, **cats})
    assert len(figure.axes) == 6
    trade, loss, pictures = figure.axes[:3]
    assert len(trade.containers) == 3
    assert loss.lines[0].get_xdata().tolist() == [0, 2, 4]  # type: ignore[union-attr]
    assert pictures.images[0].get_size() == (3 * RESOLUTION, 5 * RESOLUTION)
    assert figure.axes[5].images[0].get_size() == (4, 12)


def test_too_few_pictures_to_hold_some_out_are_refused_at_once(
    model_folder: Path, trainer: Callable[..., Any], tmp_path: Path
) -> None:
    study = PreservationStudy(fine_tuning=replace(SETTINGS, validation_share=0.99))
    with pytest.raises(ValueError, match="validation_share"):
        study.check(pipeline(model_folder, tmp_path, trainer))
