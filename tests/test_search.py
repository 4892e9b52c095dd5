import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from ood_sampler.data.domain import TargetDomain, TensorImages
from ood_sampler.diffusion.noise import SampleNoise
from ood_sampler.metrics.comparison import kernel_difference
from ood_sampler.metrics.judges import Described, Judge
from ood_sampler.metrics.kernel import jackknife, kernel_distance
from ood_sampler.pipeline.choice import Choice, Trial
from ood_sampler.pipeline.estimate import work_of
from ood_sampler.pipeline.pipeline import Pipeline
from ood_sampler.pipeline.search import Candidates, Search
from ood_sampler.pipeline.trials import TrialJudge as _Judge
from ood_sampler.pipeline.trials import Tried
from ood_sampler.samplers.base import Fitted, GaveUpError, InvertedSet, Sampler
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.statistics.band import Point, Thresholds
from tests.conftest import RESOLUTION, make_judges, smooth_images
from tests.test_pipeline import count_evaluations, pipeline
from tests.test_run import execute_tiny

FEW_SHOT, VALIDATING = 40, 16
STEPS = (100, 999)
SETTINGS: dict[str, Any] = {
    "steps": [100, 600],
    "validation": 0.4,
    "samples": [16, 32],
    "keep": 0.4,
    "retention": 0.9,
    "novelty": 0.3,
    "near_copies": 0.2,
}


class CopySampler(Sampler):
    """The inverted latents themselves: near to the domain, and nothing new."""

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        return inverted.latents.take([i % len(inverted.latents) for i in noise.indices])


class HopelessSampler(Sampler):
    """None of whose candidates is ever taken."""

    def draw(self, fitted: Fitted, inverted: InvertedSet, noise: SampleNoise) -> Tensor:
        raise GaveUpError("no candidate was taken")


SAMPLERS = (CopySampler(), CogSampler(references=2), CogSampler(references=3))
NAMED = {"copy": SAMPLERS[0], "cog (2)": SAMPLERS[1], "cog (3)": SAMPLERS[2]}


def search(**changes: Any) -> Search:  # noqa: ANN401
    return Search(**{**SETTINGS, **changes})


def domain(few_shot: int = FEW_SHOT, *, held_out_seed: int = 1) -> TargetDomain:
    def pictures(count: int, seed: int) -> TensorImages:
        names = [f"{seed} {i}" for i in range(count)]
        return TensorImages(smooth_images(count, seed), names, resolution=RESOLUTION)

    return TargetDomain(
        name="smooth", few_shot=pictures(few_shot, 0), held_out=pictures(12, held_out_seed)
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def make(model_folder: Path, trainer: Callable[..., Any], root: Path) -> Callable[..., Pipeline]:
    def run(*, root: Path = root, target: TargetDomain | None = None, **changes: Any) -> Pipeline:  # noqa: ANN401
        made = pipeline(
            model_folder, root, trainer, **{"eta": 0.0, "num_samples": 16, "step": 999, **changes}
        )
        return replace(made, domain=domain() if target is None else target)

    return run


@pytest.fixture(scope="module")
def asked(make: Callable[..., Pipeline]) -> tuple[Choice, int, int]:
    """A choice, the evaluations it took in all, and those of the latents and references."""
    run = make()
    inverted = replace(run, also=STEPS)
    others = work_of([inverted.inversion, inverted.in_domain])
    assert [work.name for work in others] == ["invert", "in-domain"]
    with pytest.MonkeyPatch.context() as patch:
        calls = count_evaluations(run, patch)
        choice = search().choose(run, steps=STEPS, samplers=SAMPLERS)
    return choice, sum(calls), sum(work.evaluations for work in others)


def test_the_nearest_of_the_usable_ones_is_chosen_and_a_copier_is_not(
    asked: tuple[Choice, int, int],
) -> None:
    choice, _, _ = asked
    trials = {(t.step, t.sampler): t for t in choice.trials if t.samples == 16}
    copier, mixer = trials[100, "copy"], trials[100, "cog (3)"]
    # novelty and near-copies speak against copies
    assert copier.point.retention == mixer.point.retention == 1
    assert copier.point.novelty == 0
    assert copier.point.near_copies > 0.8
    assert copier.point.excess > 0.5
    assert not copier.usable
    # pure noise is new, and retention alone speaks against it
    strayed = trials[999, "cog (3)"]
    assert strayed.point.novelty == 1
    assert strayed.point.retention == 0
    assert not strayed.usable
    assert {key for key, trial in trials.items() if trial.usable} == {
        (100, "cog (2)"),
        (100, "cog (3)"),
    }
    last = [trial for trial in choice.trials if trial.samples == 32]
    # their KIDs are not told apart, so that the one with fewer near-copies is taken
    first, second = last
    assert abs(first.point.distance - second.point.distance) < first.point.error
    assert first.usable
    assert first.point.near_copies < second.point.near_copies
    assert (choice.step, choice.sampler) == (100, NAMED[first.sampler])


def test_a_candidate_whose_near_copies_are_shown_is_not_usable(
    asked: tuple[Choice, int, int], make: Callable[..., Pipeline]
) -> None:
    # 7 of 16 samples are near-copies, of which real images make none of 16, at most 21%
    samplers = (CogSampler(references=2, cap=1), CogSampler(references=3, cap=1))
    choice = search(samples=[16], near_copies=0.1).choose(make(), steps=[100], samplers=samplers)
    trials = {trial.sampler: trial for trial in choice.trials}
    assert trials["cog (2, 1)"].point.near_copies == 7 / 16
    low, high = 0.197534, 1 - 0.025 ** (1 / 16)
    excess = 7 / 16 - ((7 / 16 - low) ** 2 + high**2) ** 0.5
    assert trials["cog (2, 1)"].point.excess == pytest.approx(excess, abs=1e-5)
    assert [name for name, trial in trials.items() if trial.usable] == ["cog (3, 1)"]
    # all else speaks for it
    usable = [t.sampler for t in asked[0].trials if t.samples == 16 and t.usable]
    assert usable == ["cog (3)", "cog (2)"]


def test_rounds_halve_the_candidates_and_add_samples(asked: tuple[Choice, int, int]) -> None:
    trials = asked[0].trials
    assert [trial.samples for trial in trials] == [16] * 6 + [32] * 2
    first = [(trial.step, trial.sampler) for trial in trials[:6]]
    assert {(trial.step, trial.sampler) for trial in trials[6:]} == set(first[:2])
    assert [trial.usable for trial in trials[:6]] == [True] * 2 + [False] * 4


def test_evaluations_counted_are_those_of_the_network(
    asked: tuple[Choice, int, int], make: Callable[..., Pipeline]
) -> None:
    choice, total, others = asked
    # 5 intervals: one from step 100, five from step 999; a shard holds more than 32 samples, so
    # those of the first round are made again, and nothing is inverted for a candidate
    assert choice.evaluations == 3 * 16 * (1 + 5) + 2 * 32 * 1
    assert total == choice.evaluations + others
    promised = search().work(make(), steps=STEPS, samplers=SAMPLERS)
    assert [(work.name, work.images) for work in promised] == [
        ("search 1", 6 * 16),
        ("search 2", 2 * 32),
    ]
    assert {work.evaluations_each for work in promised} == {5}
    assert sum(work.evaluations for work in promised) >= choice.evaluations


def test_whole_shards_of_a_round_are_kept_by_the_next_one(make: Callable[..., Pipeline]) -> None:
    promised = search(samples=[64, 100, 128]).work(make(), steps=[100], samplers=SAMPLERS)
    assert [work.images for work in promised] == [3 * 64, 36, 64]


def test_a_search_is_repeated_without_the_network(
    asked: tuple[Choice, int, int], make: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make()
    calls = count_evaluations(run, monkeypatch)
    again = search().choose(run, steps=STEPS, samplers=SAMPLERS)
    assert calls == []
    assert again == asked[0]


def test_held_out_pictures_are_not_looked_at(
    asked: tuple[Choice, int, int], make: Callable[..., Pipeline]
) -> None:
    run = make(target=domain(held_out_seed=2))
    assert search().choose(run, steps=STEPS, samplers=SAMPLERS) == asked[0]


class DamagedImages(TensorImages):
    """Images of which none can be read."""

    def __getitem__(self, index: int) -> Tensor:
        raise OSError(f"{self.names[index]} is damaged")


def test_a_damaged_held_out_picture_does_not_end_the_search(
    asked: tuple[Choice, int, int], make: Callable[..., Pipeline]
) -> None:
    whole = domain(held_out_seed=3)
    names = [f"broken {i}" for i in range(12)]
    broken = DamagedImages(smooth_images(12, 3), names, resolution=RESOLUTION)
    run = make(target=replace(whole, held_out=broken))
    assert search().choose(run, steps=STEPS, samplers=SAMPLERS) == asked[0]
    with pytest.raises(OSError, match=r"broken \d+ is damaged"):
        _ = run.measure


def test_the_choice_does_not_depend_on_the_batch_size_or_on_the_order(
    asked: tuple[Choice, int, int], make: Callable[..., Pipeline], tmp_path: Path
) -> None:
    choice = asked[0]
    run = make(root=tmp_path, batch_size=7)
    other = search().choose(run, steps=STEPS[::-1], samplers=SAMPLERS[::-1])
    assert (other.step, other.sampler) == (choice.step, choice.sampler)
    for a, b in zip(other.trials[:2], choice.trials[:2], strict=True):
        assert a.point.distance == pytest.approx(b.point.distance, rel=1e-3)


def test_where_none_is_usable_the_least_miss_is_chosen(
    asked: tuple[Choice, int, int], make: Callable[..., Pipeline]
) -> None:
    strict = search(samples=[16], retention=1.0, novelty=1.0)
    # with a cap they would be new enough
    samplers = (SAMPLERS[0], CogSampler(references=2, cap=1), CogSampler(references=3, cap=1))
    choice = strict.choose(make(), steps=STEPS, samplers=samplers)
    assert not any(trial.usable for trial in choice.trials)
    # real images have a novelty of 0.5: cog (3) lacks least of it, pure noise all of retention
    assert (choice.step, choice.sampler) == (100, samplers[2])
    assert "though no candidate was usable" in choice.remark
    assert "though" not in asked[0].remark
    copier = strict.choose(make(), steps=STEPS, samplers=SAMPLERS[:1])
    assert (copier.step, type(copier.sampler)) == (100, CopySampler)


def test_the_remark_tells_what_was_chosen_and_from_what(asked: tuple[Choice, int, int]) -> None:
    choice = asked[0]
    (best,) = [
        trial
        for trial in choice.trials
        if (trial.step, NAMED[trial.sampler], trial.samples) == (choice.step, choice.sampler, 32)
    ]
    assert choice.remark.startswith("chosen of 6 combinations on 16 of the few-shot images")
    kid = f"KID {1e3 * best.point.distance:.1f}e-3 ± {1e3 * best.point.error:.1f}e-3"
    assert f"step 100, {best.sampler}, {kid}" in choice.remark
    copies = f"near-copies {best.point.near_copies:.2f}"
    assert f"novelty {best.point.novelty:.2f}, {copies}" in choice.remark
    assert "near-copies not shown to exceed those of real images by more than 0.2" in choice.remark


def described(*places: float) -> Described:
    """Eight vectors about each place on the first axis, 1.4 apart from each other."""
    axes = torch.eye(9)
    features = torch.cat([at * axes[0] + axes[1:] for at in places])
    return Described({"features32": features}, torch.zeros(len(features), 3, 1, 1))


def judge(*, away: float = 1) -> _Judge:
    few_shot, in_domain = described(0, away), described(90)
    return _Judge(
        make_judges(nearest_k=1).headline,
        few_shot.headline,
        in_domain.features,
        range(8),
        range(8, 16),
        Thresholds(0.5, 0.25, 0.01),
    )


def test_a_candidate_is_compared_with_the_validation_part(tmp_path: Path) -> None:
    judged = judge()
    features = judged.few_shot
    copies = judged.point(100, features[:8])
    assert (copies.retention, copies.novelty) == (1, 0)
    strayed = judged.point(100, judged.in_domain["features32"])
    assert (strayed.retention, strayed.novelty) == (0, 1)
    same = judged.point(100, features[8:])
    assert same.distance < copies.distance < strayed.distance
    # eight of eight, beside none of eight validation images
    reach = 1 - 0.025 ** (1 / 8)
    assert (copies.near_copies, same.near_copies) == (1, 0)
    assert copies.excess == pytest.approx(1 - 2**0.5 * reach)
    assert same.excess == pytest.approx(-reach)
    assert same.error == float(jackknife(features[8:], features[8:]).standard_error)


def test_no_candidate_is_nearer_than_real_pictures(tmp_path: Path) -> None:
    judged = judge()
    features = judged.few_shot
    floor = float(kernel_distance(features[:8], features[8:]))
    assert judged.floor == floor
    judged.__dict__["relative"] = Thresholds(0.8, 0.4, 0.01)
    nearer, newer = (
        trial(retention=1.0, novelty=novelty, distance=distance, usable=True)
        for novelty, distance in ((0.4, floor - 1), (0.5, floor))
    )
    assert judged.order(seen(judged, [nearer, newer])) == [1, 0]


def test_ties_are_those_of_one_validation_part(tmp_path: Path) -> None:
    # a validation part of two clusters: each distance varies with the share of the far one
    generator = torch.Generator().manual_seed(0)

    def cloud(count: int, at: float) -> Tensor:
        return torch.randn(count, 4, generator=generator) * 0.1 + at

    validation = torch.cat([cloud(20, 0), cloud(12, 5)])
    judged = replace(
        judge(),
        few_shot=torch.cat([cloud(8, 0), validation]),
        in_domain={},
        validation=range(8, 40),
    )
    sets = [cloud(64, 0.0), cloud(64, -0.5)]
    points = [judged.point(100, features) for features in sets]
    near, far = (
        replace(point, novelty=novelty, near_copies=0.0)
        for point, novelty in zip(points, (0.5, 0.9), strict=True)
    )
    # not told apart by their own errors, told apart by that of the difference
    assert 0 < far.distance - near.distance < (near.error**2 + far.error**2) ** 0.5
    assert far.distance - near.distance > kernel_difference(*sets, validation).standard_error
    tried = [
        Tried(Trial(100, "x", 64, point, True), None, features)  # type: ignore[arg-type]
        for point, features in zip((far, near), reversed(sets), strict=True)
    ]
    assert judged.order(tried) == [1, 0]


@pytest.mark.parametrize(("away", "novelty"), [(1.0, 0.0), (2.0, 1.0)])
def test_thresholds_are_shares_of_what_real_pictures_reach(
    tmp_path: Path, away: float, novelty: float
) -> None:
    # an image is new if it is farther than 1.4, which is how far those of the fit part lie apart
    judged = judge(away=away)
    assert judged.relative.retention == 0.5
    assert judged.relative.novelty == pytest.approx(0.25 * novelty, abs=1e-8)
    assert judged.point(100, judged.few_shot[8:]).novelty == novelty


def test_retention_asked_is_that_of_pictures_that_the_models_own_domain_has_not(
    tmp_path: Path,
) -> None:
    judged = judge()
    # half of the fit part is in the model's own domain too
    own = {"features32": judged.few_shot[:4].repeat(2, 1)}
    lost = replace(judged, in_domain=own)
    assert lost.relative.retention == 0.25


def seen(judged: _Judge, trials: Sequence[Trial]) -> list[Tried]:
    """Trials with samples that lie where the validation part does."""
    return [Tried(each, None, judged.few_shot[8:]) for each in trials]  # type: ignore[arg-type]


def trial(*, retention: float, novelty: float, distance: float, usable: bool) -> Trial:
    return Trial(100, "x", 16, Point(100, retention, novelty, distance), usable)


def test_usable_ones_come_first_by_distance_and_others_by_what_they_lack(tmp_path: Path) -> None:
    judged = judge()
    judged.__dict__["relative"] = Thresholds(0.8, 0.4, 0.01)
    ranked = [
        trial(retention=0.8, novelty=0.4, distance=1.0, usable=True),
        trial(retention=1.0, novelty=1.0, distance=5.0, usable=True),
        # less is lacking, though they are farther
        trial(retention=0.7, novelty=0.4, distance=9.0, usable=False),
        trial(retention=1.0, novelty=0.2, distance=0.1, usable=False),
        trial(retention=0.7, novelty=0.2, distance=0.1, usable=False),
    ]
    shuffled = [ranked[i] for i in (3, 1, 4, 2, 0)]
    assert [shuffled[i] for i in judged.order(seen(judged, shuffled))] == ranked


def test_the_split_is_drawn_by_the_seed_and_leaves_nothing_out() -> None:
    fit, validating = search().split(FEW_SHOT, seed=3)
    assert len(validating) == VALIDATING
    assert sorted(fit + validating) == list(range(FEW_SHOT))
    assert search().split(FEW_SHOT, seed=3) == (fit, validating)
    assert search().split(FEW_SHOT, seed=4) != (fit, validating)
    assert validating != list(range(VALIDATING))


def test_a_candidate_that_gives_up_is_left_out_and_named(
    asked: tuple[Choice, int, int], make: Callable[..., Pipeline]
) -> None:
    run, hopeless = make(), HopelessSampler()
    choice = search().choose(run, steps=STEPS, samplers=(hopeless, *SAMPLERS))
    assert (choice.step, choice.sampler) == (asked[0].step, asked[0].sampler)
    told = [line for line in run.session.left_out if "hopeless" in line]
    assert [f"t = {step} " in line for step, line in zip(STEPS, told, strict=True)] == [True, True]
    assert all(line.endswith("no candidate was taken") for line in told)
    with pytest.raises(GaveUpError, match="no candidate was taken"):
        search().choose(make(), steps=STEPS, samplers=(hopeless,))


@pytest.mark.parametrize("name", ["kid", "authenticity", "near_copies", "captured"])
def test_a_metric_that_decides_is_missed_before_work(
    make: Callable[..., Pipeline], name: str
) -> None:
    run = make()
    metrics = {k: v for k, v in run.judges.headline.metrics.items() if k != name}
    without = make_judges()
    without._judges = [Judge(without.headline.extractor, MetricCollection(metrics))]
    with pytest.raises(ValueError, match=rf"decides by the metric {name}: leave metrics"):
        search().choose(replace(run, judges=without), steps=STEPS, samplers=SAMPLERS)


def test_too_few_pictures_are_refused_with_the_remedy(make: Callable[..., Pipeline]) -> None:
    message = "16 few-shot images to fit and as many to compare with, got 23 and 15: add images"
    with pytest.raises(ValueError, match=message):
        search().choose(make(target=domain(38)), steps=STEPS, samplers=SAMPLERS)


def test_a_step_that_the_model_does_not_have_is_refused(make: Callable[..., Pipeline]) -> None:
    with pytest.raises(ValueError, match=r"search\.steps must be in 0\.\.999"):
        search().choose(make(), steps=[100, 1000], samplers=SAMPLERS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": 0.0}, r"search\.validation must be in \(0, 1\), got 0"),
        ({"validation": 1.0}, r"search\.validation must be in \(0, 1\), got 1"),
        ({"keep": 1.5}, r"search\.keep must be in \(0, 1\), got 1\.5"),
        ({"steps": []}, r"search\.steps must be a list of steps, got \[\]"),
        ({"samples": []}, r"search\.samples must increase from 16 or more, got \[\]"),
        ({"samples": [8, 16]}, r"search\.samples must increase from 16 or more, got \[8, 16\]"),
        ({"samples": [32, 16]}, r"search\.samples must increase"),
        ({"samples": [32, 32]}, r"search\.samples must increase"),
        ({"retention": 1.1}, r"retention must be in \(0, 1\], got 1\.1"),
        ({"novelty": 0.0}, r"novelty must be in \(0, 1\], got 0"),
        ({"near_copies": 1.0}, r"near_copies must be in \[0, 1\), got 1"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(**changes)


def test_a_choice_among_no_strategies_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sampler\.samplers must name at least one strategy"):
        Candidates({})


def test_a_run_by_auto_says_what_it_chose(
    model_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("INFO")
    execute_tiny(
        model_folder,
        tmp_path,
        "inversion.step=auto",
        "sampler=auto",
        "search.steps=[100,600]",
        "search.samples=[16,32]",
        "search.validation=0.4",
        "correction.corrections.gaussian.in_domain=8",
    )
    assert "search 1" in caplog.text
    shown = capsys.readouterr().err
    for step, sampler in product((100, 600), ("cog (2)", "cog (3)", "cog (5)", "white (5, 0.4)")):
        assert f"search, decode: {sampler}, t = {step} " in shown
    assert "stage decode: white (5, 0.4), t = 100, correction 1;" in caplog.text
    found = json.loads((tmp_path / "found" / "metrics.json").read_text())
    remark = found["protocol"]["search"]
    assert remark.startswith("chosen of 34 combinations on 16 of the few-shot images")
    assert f"step {found['run']['step']}, {found['run']['sampler']}, KID" in remark
    assert found["rows"][0]["name"] == found["run"]["sampler"]
    assert len(list((tmp_path / "found" / "samples").glob("*.png"))) == 16
    with (tmp_path / "found" / "search.csv").open() as file:
        trials = list(csv.DictReader(file))
    for found_key in ("near_copies", "kid_standard_error"):
        assert all(float(row[found_key]) >= 0 for row in trials)
    assert {row["step"] for row in trials} == {"100", "600"}
    assert [row["samples"] for row in trials] == ["16"] * 28 + ["32"] * 14
    assert {row["correction"] for row in trials} == {"0.0", "1.0"}
    # the winner of the last round, in all but one of its settings
    winner = next(row for row in trials if row["samples"] == "32")
    varied = trials[-6:]
    assert {(row["eta"], row["temperature"], row["shift"]) for row in varied} == {
        ("0.1", "1.0", "0"),
        ("0.3", "1.0", "0"),
        ("0.0", "0.9", "0"),
        ("0.0", "1.1", "0"),
        ("0.0", "1.0", "-40"),
        ("0.0", "1.0", "40"),
    }
    for row in (winner, *varied):
        assert [row["step"], row["sampler"]] == [
            str(found["run"]["step"]),
            found["run"]["sampler"],
        ]
    # a line for each round, and one for each stage of the run that follows
    stages = [(stage["name"], stage["images"], stage["cached"]) for stage in found["stages"]]
    assert ("search, invert", 24, False) in stages
    assert ("search 1", 28 * 16, False) in stages
    assert ("search 2", 8 * 32, False) in stages
    assert ("search, variants", 6 * 32, False) in stages
    assert ("decode", 16, False) in stages
    names = [name for name, _, _ in stages]
    assert all(names.count(name) == 1 for name in ("decode", "in-domain", "fit"))
    # the search needs latents along the flow of the model, the run those along the chosen one
    assert names.count("invert") == (2 if winner["correction"] == "1.0" else 1), names
    assert escape(remark) in (tmp_path / "found" / "report.html").read_text()


@pytest.mark.parametrize("automatic", ["sampler=auto", "inversion.step=auto"])
def test_a_study_by_auto_is_refused(model_folder: Path, tmp_path: Path, automatic: str) -> None:
    with pytest.raises(ValueError, match="choose for a run, not for a study: set both by hand"):
        execute_tiny(model_folder, tmp_path, "study=bandwidth", automatic)
